"""Two screens without a number: one node in detail (Enter), and the keys (?)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from mycomesh.mesh.node.journal import printable
from mycomesh.tools.render import byte_count, duration, signed_ms
from mycomesh.tools.top.signs import COLOURS, appearance, content_letter
from mycomesh.tools.top.traffic import lines_of_node

if TYPE_CHECKING:
    from mycomesh.tools.top.model import Node, Picture

__all__ = ["keys", "node_lines"]

_KEYS = (
    ("1 to 5, Tab", "choose the screen: all, map, peers, tables, events"),
    ("j, k, arrows", "select the next or the previous node"),
    ("Enter", "show the selected node: its figures, its links, its events"),
    ("/", "show only nodes and events that contain a text; Enter keeps it, Esc clears it"),
    ("p, space", "pause, and go on"),
    (". and right", "in a replay: pause, and go on by one recorded moment"),
    ("Esc", "back from a node or from this page; clears the filter"),
    ("q, ^C", "quit"),
)
_DRAWING = (
    ("a line", "a link; bright while bytes move, yellow if a round trip takes over 250 ms"),
    ("dotted red", "two nodes that we cannot reach, and that were linked when last heard of"),
    ("dim dots", "a link in a mesh of many; the selected node's are drawn in full"),
    ("cells", "more nodes than a map of this size can show: one cell a node, by island"),
    ("colours", "of a running node: what the top line of the map says; of a trace: one colour is one content"),
)


def keys(width: int) -> list[Text]:
    """Return the page about keys and signs."""
    lines = [Text("keys", "bold")]
    for part in (_KEYS, _DRAWING):
        if part is _DRAWING:
            lines += [Text(""), Text("the picture", "bold")]
        lines += [Text.assemble((f"  {key:<14}", "cyan"), text) for key, text in part]
    for line in lines:
        line.truncate(width)
    return lines


def node_lines(picture: Picture, node: Node, width: int, *, unicode: bool) -> list[Text]:
    """Return the page about one node."""
    style = COLOURS[appearance(node)]
    lines = [Text.assemble((printable(node.name), f"bold {style}"), (f"  {node.key[:8]}", "dim"))]
    lines += [Text.assemble((f"  {name:<12}", "dim"), text) for name, text in _figures(node)]
    lines += [Text("  ").append_text(line) for line in lines_of_node(node, max(0, width - 2), unicode=unicode)]
    links = _links(picture, node)
    lines += [Text(""), Text(f"{len(links)} link{'s' * (len(links) != 1)}", "bold"), *links]
    named = [event for event in picture.events if node.name in event.text]
    lines += [Text(""), Text("events that name it", "bold")]
    lines += [Text.assemble((f"  {event.at}  ", "dim"), printable(event.text)) for event in named[-12:]]
    return lines


def _figures(node: Node) -> list[tuple[str, str]]:
    lag = "" if node.lag_rows is None else f"{node.lag_rows:,} rows"
    if node.lag_ms is not None:
        lag += f", {duration(node.lag_ms)} left"
    content = {None: "", True: "equal with this node", False: "differs from this node"}[node.equal]
    if node.group is not None:
        content = content_letter(node.group)
    found = [
        ("state", node.state if node.group is None else "up"),
        ("content", content),
        ("roles", printable(", ".join(node.roles))),
        ("address", printable(node.address)),
        ("round trip", "" if node.rtt_ms is None else f"{node.rtt_ms:.1f} ms"),
        ("clock", "" if node.offset_ms is None else f"{signed_ms(node.offset_ms)} against this one"),
        ("lag", lag),
        ("received", "" if node.received_bytes is None else byte_count(node.received_bytes)),
        ("sent", "" if node.sent_bytes is None else byte_count(node.sent_bytes)),
    ]
    return [(name, text) for name, text in found if text]


def _links(picture: Picture, node: Node) -> list[Text]:
    names = {other.key: other for other in picture.nodes}
    lines = []
    for edge in picture.edges:
        if node.key not in (edge.first, edge.second):
            continue
        other = names[edge.second if edge.first == node.key else edge.first]
        how = "was linked when last heard of" if edge.past else "slow" if edge.poor else "busy" if edge.busy else ""
        style = "dim red" if edge.past else "yellow" if edge.poor else COLOURS[appearance(other)]
        lines.append(Text.assemble((f"  {printable(other.name)[:16]:<16}", style), f"  {how}"))
    return lines
