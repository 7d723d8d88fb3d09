"""The screens of `top`: pure functions from a picture, a view and a size to lines of text, and from a key to the next view.

Invariants (tests/tools/top/test_screens.py): a screen has exactly `height` lines of at most `width` cells; control codes in text
from peers do not reach the terminal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from mycomesh.mesh.node.journal import printable
from mycomesh.tools.render import byte_count, duration, signed_ms
from mycomesh.tools.top.canvas import Canvas
from mycomesh.tools.top.detail import keys, node_lines
from mycomesh.tools.top.grid import cells, is_crowded
from mycomesh.tools.top.signs import COLOURS, appearance, content_letter, legend, signs
from mycomesh.tools.top.tables import areas, cut, fitting, mailboxes, readers, row_of, tables
from mycomesh.tools.top.traffic import ROWS_MIN, traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.tools.top.event_log import Event
    from mycomesh.tools.top.model import Edge, Node, Picture

__all__ = ["SCREENS", "View", "draw", "on_key"]

SCREENS = ("all", "map", "peers", "tables", "events")
KEYS = "? help  / filter  p pause  q quit"
LONG_KEYS = f"j/k select  Enter node  {KEYS}"
FILTER_MAX = 40
DENSE = 2.5  # a mesh with more links per node is dense
DENSE_EVERY = 6
PAST_EVERY = 3
LEGEND_ROWS = 8  # a lower map has no row to spare
LEVELS = {"warning": "yellow", "error": "red"}

Positions = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class View:
    """The user's choices. `screen` is one of `SCREENS`, or `node` or `help`, from which Esc leads back to `back`."""

    screen: str = "all"
    back: str = "all"
    selected: int = 0
    filter: str = ""
    typing: bool = False
    paused: bool = False
    steps: int = 0  # of a paused replay, since the beginning
    quit: bool = False
    unicode: bool = True


def on_key(view: View, key: str, nodes: int) -> View:
    """Return the view after one key; an unknown key changes nothing."""
    if view.typing:
        return _on_filter_key(view, key)
    match key:
        case "q" | "\x03":
            return replace(view, quit=True)
        case "p" | " " | "." | "right":
            step = key in (".", "right")
            return replace(view, paused=step or not view.paused, steps=view.steps + step)
        case "/":
            return replace(view, typing=True, filter="")
        case "j" | "down" | "k" | "up":
            way = 1 if key in ("j", "down") else -1
            return replace(view, selected=max(0, min(view.selected + way, nodes - 1)))
        case "\r" | "\n" | "?":
            return _aside(view, "help" if key == "?" else "node")
        case "\x1b":
            return replace(view, screen=view.back) if view.screen not in SCREENS else replace(view, filter="")
        case _:
            return replace(view, screen=_screen(view.screen, key))


def visible_nodes(picture: Picture, view: View) -> list[Node]:
    """Return the nodes that match the filter, in the order of the table."""
    return [node for node in picture.nodes if _hit(view, node.name)]


def draw(picture: Picture, view: View, positions: Positions, width: int, height: int) -> list[Text]:
    """Return the whole screen. `positions` has each node's position in the unit square."""
    if width < 20 or height < 5:
        return [cut(Text("terminal too small"), width)] + [Text("")] * (height - 1)
    inner = height - 2 - bool(picture.note)
    match view.screen:
        case "map":
            body = _map(picture, view, positions, width, inner)
        case "peers":
            body = _peers_and_traffic(picture, view, width, inner)
        case "tables":
            body = _tables_and_readers(picture, view, width, inner)
        case "events":
            body = _events(_shown_events(picture, view), width, inner)
        case "help":
            body = keys(width)
        case "node":
            body = _node(picture, view, width)
        case _:
            body = _all(picture, view, positions, width, inner)
    note = [Text(printable(picture.note), "yellow")] if picture.note else []
    lines = [_head(picture, view, width), *_pad(body, inner), *note, _foot(view, width)]
    return [cut(line, width) for line in lines]


# ---- screens


def _all(picture: Picture, view: View, positions: Positions, width: int, height: int) -> list[Text]:
    feed = max(3, height // 5)
    upper = height - feed - 1
    left = width // 2
    right = width - left - 1
    rows = _rows_of_tables(picture) + 1 + (len(picture.areas) + 2 if picture.areas else 0)
    rows += len(mailboxes(picture, right)) + 1 if picture.mailboxes else 0
    below = min(rows, upper // 2) if picture.tables or picture.mailboxes else 0
    drawn = _map(picture, view, positions, left, upper)
    beside = _pad(_peers_and_traffic(picture, view, right, upper - below), upper - below)
    if below:
        beside += [_rule("tables", right, view), *_tables_and_readers(picture, view, right, below - 1)]
    bar = Text("│" if view.unicode else "|", "dim")
    lines = [
        Text.assemble(_fill(one, left), bar, cut(two, right))
        for one, two in zip(drawn, _pad(beside, upper), strict=True)
    ]
    return [*lines, _rule("events", width, view), *_events(_shown_events(picture, view), width, feed)]


def _map(picture: Picture, view: View, positions: Positions, width: int, height: int) -> list[Text]:
    if is_crowded(len(picture.nodes), width, height):
        return _grid(picture, view, width, height)
    canvas = Canvas(width, height, unicode=view.unicode)
    nodes = {node.key: node for node in picture.nodes}
    selected = _selected(picture, view)
    if height >= LEGEND_ROWS:
        _legend(canvas, picture, view)
    # Leave room for names at both sides, and a free row above and below.
    margin = min(6, width // 6)
    at = {
        key: (margin + x * (width - 1 - 2 * margin), 1 + y * max(0, height - 3))
        for key, (x, y) in positions.items()
        if key in nodes
    }
    # In a dense mesh full lines become one cloud, so only poor links and those of the selected node are drawn in full.
    # The selected node's links come last, above the others.
    dense = len(picture.edges) > DENSE * max(1, len(at))
    drawn = [edge for edge in picture.edges if edge.first in at and edge.second in at]
    for edge in sorted(drawn, key=lambda edge: selected in (edge.first, edge.second)):
        own = selected in (edge.first, edge.second)
        (x, y), (x2, y2) = at[edge.first], at[edge.second]
        style, every = _stroke(edge, own=own, dense=dense)
        canvas.line((x + 0.5, y + 0.5), (x2 + 0.5, y2 + 0.5), style, every=every)
    for key, (x, y) in at.items():
        _sign(canvas, (int(x), int(y)), nodes[key], view, chosen=key == selected)
    # The selected node and this one get their names first; on a crowded map other names are left out.
    for key in sorted(at, key=lambda key: (key != selected, nodes[key].state != "here")):
        _name(canvas, nodes[key].name, at[key], "bold" if key == selected else _style(nodes[key], view))
    return canvas.lines()


def _grid(picture: Picture, view: View, width: int, height: int) -> list[Text]:
    """Draw one cell for each node, by island, where a map has too little room."""
    canvas = Canvas(width, height, unicode=view.unicode)
    nodes = {node.key: node for node in picture.nodes}
    selected = _selected(picture, view)
    top = 1 if height >= LEGEND_ROWS else 0
    if top:
        _legend(canvas, picture, view)
    # Contents of one island are together, so that a split shows before its links have timed out.
    parts = [sorted(part, key=lambda key: appearance(nodes[key])) for part in picture.parts]
    placed, left = cells(parts, width, height - top - 1)
    for x, y, key, name in placed:
        if not key:
            part = parts[name - 1]
            down = all(nodes[each].state == "down" for each in part)
            canvas.text(x, y + top, f"{len(part)} down" if down else f"island {name}: {len(part)} nodes", "dim")
            continue
        _sign(canvas, (x, y + top), nodes[key], view, chosen=key == selected)
        style = "bold" if key == selected else _style(nodes[key], view)
        canvas.text(x + 2, y + top, printable(nodes[key].name)[:name], style)
    if left:
        canvas.text(0, height - 1, f"and {left} more", "dim")
    return canvas.lines()


def _sign(canvas: Canvas, place: tuple[int, int], node: Node, view: View, *, chosen: bool) -> None:
    canvas.text(*place, signs(unicode=view.unicode)[appearance(node)], _style(node, view) + " reverse" * chosen)


def _style(node: Node, view: View) -> str:
    return COLOURS[appearance(node)] if _hit(view, node.name) else "dim"


def _legend(canvas: Canvas, picture: Picture, view: View) -> None:
    """Explain the signs of these nodes in the top row, which contains no node."""
    at = 0
    for kind, words in legend(picture.nodes):
        canvas.text(at, 0, f"{signs(unicode=view.unicode)[kind]} {words}", COLOURS[kind])
        at += len(words) + 4


def _stroke(edge: Edge, *, own: bool, dense: bool) -> tuple[str, int]:
    """Return the style of a link, and of how many dots one is drawn (1: all)."""
    if edge.past:
        return "dim red", PAST_EVERY
    if edge.poor:
        return "yellow", 1
    every = DENSE_EVERY if dense and not own else 1
    return "bold green" if edge.busy and every == 1 else "dim green", every


def _name(canvas: Canvas, name: str, position: tuple[float, float], style: str) -> None:
    name = printable(name)[:16]
    x, y = int(position[0]), int(position[1])
    spots = ((x - len(name) // 2, y + 1), (x - len(name) // 2, y - 1), (x + 2, y), (x - len(name) - 1, y))
    for column, row in spots:
        if canvas.free(column, row, len(name)):
            canvas.text(column, row, name, style)
            return


def _peers_and_traffic(picture: Picture, view: View, width: int, height: int) -> list[Text]:
    """Return the peers, and below them what bytes and lag have been, where there is room."""
    lines = _peers(picture, view, width, height)
    room = height - len(lines) - 1
    below = (
        traffic(picture, visible_nodes(picture, view), width, room - 1, unicode=view.unicode)
        if room >= ROWS_MIN
        else []
    )
    return [*lines, Text(""), _rule("bytes and lag", width, view), *below] if below else lines


def _node(picture: Picture, view: View, width: int) -> list[Text]:
    nodes = {node.key: node for node in picture.nodes}
    key = _selected(picture, view)
    return (
        node_lines(picture, nodes[key], width, unicode=view.unicode)
        if key
        else [Text("no node matches the filter", "dim")]
    )


def _peers(picture: Picture, view: View, width: int, height: int) -> list[Text]:
    nodes = visible_nodes(picture, view)
    selected = _selected(picture, view)
    content = "CONTENT" if any(node.group is not None for node in nodes) else "EQUAL"
    headers = ["NAME", "STATE", content, "RTT", "LAG", "OFFSET", "IN", "OUT", "ROLES", "ADDRESS"]
    rows = [_peer(node) for node in nodes]
    known = [at for at in range(len(headers)) if at < 3 or any(row[at] != "-" for row in rows)]
    headers, rows = [headers[at] for at in known], [[row[at] for at in known] for row in rows]
    keep = fitting(headers, rows, width)
    widths = [max(cell_len(row[at]) for row in (headers, *rows)) for at in range(keep)]
    lines = [row_of(headers[:keep], widths, "bold")]
    first = max(0, min(view.selected - (height - 2) // 2, len(nodes) - (height - 1)))
    for node, row in list(zip(nodes, rows, strict=True))[first : first + height - 1]:
        lines.append(
            row_of(row[:keep], widths, COLOURS[appearance(node)] + (" reverse" if node.key == selected else ""))
        )
    return lines


def _peer(node: Node) -> list[str]:
    lag = "-" if node.lag_rows is None else f"{node.lag_rows:,} rows"
    if node.lag_ms is not None:
        lag += f" {duration(node.lag_ms)}"
    return [
        printable(node.name)[:16],
        node.state if node.group is None else "up",
        _content(node),
        "-" if node.rtt_ms is None else f"{node.rtt_ms:.1f} ms",
        lag,
        signed_ms(node.offset_ms),
        "-" if node.received_bytes is None else byte_count(node.received_bytes),
        "-" if node.sent_bytes is None else byte_count(node.sent_bytes),
        printable(",".join(node.roles)) or "-",
        printable(node.address) or "-",
    ]


def _content(node: Node) -> str:
    if node.group is not None:
        return content_letter(node.group)
    return "-" if node.equal is None else "yes" if node.equal else "no"


def _tables_and_readers(picture: Picture, view: View, width: int, height: int) -> list[Text]:
    """Return the tables, and below them the readers of the change feed: each part gets half of the room, or what is left."""
    if picture.mailboxes and height >= 6:
        lines = mailboxes(picture, width)[: max(height // 3, height - _rows_of_tables(picture) - 1)]
        above = _tables_and_readers(replace(picture, mailboxes=()), view, width, height - len(lines) - 1)
        return [*_pad(above, height - len(lines) - 1), _rule("mailbox", width, view), *lines]
    if picture.areas and height >= 5:
        room = max(height // 3, height - _rows_of_tables(picture) - 1)
        lines = areas(picture, width, min(len(picture.areas) + 1, room))
        above = _tables_and_readers(replace(picture, areas=()), view, width, height - len(lines) - 1)
        return [*_pad(above, height - len(lines) - 1), _rule("areas", width, view), *lines]
    if not picture.readers or height < 6:
        return tables(picture, width, height)
    below = min(len(picture.readers) + 2, max(height // 2, height - len(picture.tables) - 1))
    above = tables(picture, width, height - below)
    return [*above, _rule("readers", width, view), *readers(picture, width, below - 1)]


def _rows_of_tables(picture: Picture) -> int:
    """Return how many lines the tables and the readers take, with their headers."""
    return len(picture.tables) + 1 + (len(picture.readers) + 2 if picture.readers else 0)


def _shown_events(picture: Picture, view: View) -> list[Event]:
    return [event for event in picture.events if _hit(view, event.text)]


def _events(events: Sequence[Event], width: int, height: int) -> list[Text]:
    lines = [
        Text.assemble((f"{event.at}  ", "dim"), (printable(event.text), LEVELS.get(event.level, "")))
        for event in events[-height:]
    ]
    return [cut(line, width) for line in lines] or [Text("no events yet", "dim")]


# ---- parts


def _head(picture: Picture, view: View, width: int) -> Text:
    islands = picture.islands
    text = f" {printable(picture.title)}"
    if islands > 1:
        text += f", {islands} islands"
    if view.paused:
        text += ", PAUSED"
    counts = (
        (sum(table.conflicts for table in picture.tables), "conflicts", "reverse"),
        (sum(table.parked for table in picture.tables), "parked", "reverse yellow"),
    )
    head = Text(text, "reverse")
    for count, word, style in counts:
        if count:
            head.append(", ", "reverse").append(f"{count:,} {word}", style)
    head.truncate(width)
    return head.append(" " * (width - head.cell_len), "reverse")


def _foot(view: View, width: int) -> Text:
    if view.typing:
        return Text.assemble((f"filter: {view.filter}_", "bold"), ("  Enter keeps it  Esc clears it", "dim"))
    if view.filter:
        return Text.assemble((f"filter: {view.filter}", "bold"), (f"  Esc clears it  {KEYS}", "dim"))
    whole = Text()
    for number, screen in enumerate(SCREENS, 1):
        whole.append(f"{number} {screen}", "bold reverse" if screen == view.screen else "dim").append("  ")
    whole.append(LONG_KEYS if whole.cell_len + len(LONG_KEYS) <= width else KEYS, "dim")
    if view.screen not in SCREENS:
        return Text("Esc back  j/k select  q quit" if view.screen == "node" else "Esc back  q quit", "dim")
    return whole if whole.cell_len <= width else Text(f"1-{len(SCREENS)} screen  {KEYS}", "dim")


def _aside(view: View, screen: str) -> View:
    """Return the view with one of the two screens without a number, and the way back."""
    return replace(view, screen=screen, back=view.screen if view.screen in SCREENS else view.back)


def _screen(screen: str, key: str) -> str:
    if key == "\t" and screen in SCREENS:
        return SCREENS[(SCREENS.index(screen) + 1) % len(SCREENS)]
    return SCREENS[int(key) - 1] if len(key) == 1 and "1" <= key <= str(len(SCREENS)) else screen


def _on_filter_key(view: View, key: str) -> View:
    match key:
        case "\r" | "\n":
            return replace(view, typing=False, selected=0)
        case "\x1b":
            return replace(view, typing=False, filter="")
        case "\x7f" | "\b":
            return replace(view, filter=view.filter[:-1])
        case "\x03":
            return replace(view, quit=True)
        case _ if len(key) == 1 and key.isprintable() and len(view.filter) < FILTER_MAX:
            return replace(view, filter=view.filter + key, selected=0)
        case _:
            return view


def _selected(picture: Picture, view: View) -> str:
    nodes = visible_nodes(picture, view)
    return nodes[min(view.selected, len(nodes) - 1)].key if nodes else ""


def _hit(view: View, text: str) -> bool:
    return view.filter.casefold() in text.casefold()


def _rule(title: str, width: int, view: View) -> Text:
    sign = "─" if view.unicode else "-"
    return Text(f"{sign * 2} {title} ".ljust(width, sign), "dim")


def _pad(lines: list[Text], height: int) -> list[Text]:
    return lines[:height] + [Text("")] * (height - len(lines))


def _fill(line: Text, width: int) -> Text:
    line = cut(line, width)
    line.append(" " * (width - line.cell_len))
    return line
