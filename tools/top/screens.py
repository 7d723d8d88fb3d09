"""The screens of `top`: a picture, what the person chose, and a size become lines of text; keys become another choice.

Owns the look. What always holds: exactly `height` lines of at most `width` cells come back, whatever the size; text from
peers cannot steer the terminal. It must not read clocks, keys or sockets, and it holds no state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from mycomesh.mesh.node.journal import printable
from mycomesh.tools.render import byte_count, duration, short_hash, signed_ms
from mycomesh.tools.top.canvas import Canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.tools.top.model import Edge, Event, Node, Picture

__all__ = ["SCREENS", "View", "draw", "pressed"]

SCREENS = ("all", "map", "peers", "tables", "events")
KEYS = "j/k select  / filter  p pause  q quit"
FILTER_MAX = 40
# Whom this node has no link with is as well as others in a large mesh: no colour of warning. This node has none, for
# white is not seen on white terminals.
COLOURS = {"here": "bold", "linked": "green", "differs": "magenta", "reachable": "cyan", "down": "red"}
DENSE = 2.5  # links a node
DENSE_EVERY = 6
PAST_EVERY = 3
LEGEND_ROWS = 8  # a lower map has no row to give away
LEVELS = {"warning": "yellow", "error": "red"}
SIGNS = {"here": "◉", "linked": "●", "differs": "◆", "reachable": "◐", "down": "○"}
PLAIN_SIGNS = {"here": "@", "linked": "o", "differs": "#", "reachable": "+", "down": "x"}

LEGEND = {"here": "this node", "linked": "linked", "differs": "differs", "reachable": "reachable", "down": "down"}

Places = dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class View:
    """What the person chose."""

    screen: str = "all"
    selected: int = 0
    filter: str = ""
    typing: bool = False
    paused: bool = False
    quit: bool = False
    unicode: bool = True


def pressed(view: View, key: str, nodes: int) -> View:
    """Return the choice after one key; keys without a meaning change nothing."""
    if view.typing:
        return _typed(view, key)
    match key:
        case "q" | "\x03":
            return replace(view, quit=True)
        case "p" | " ":
            return replace(view, paused=not view.paused)
        case "/":
            return replace(view, typing=True, filter="")
        case "j" | "down" | "k" | "up":
            step = 1 if key in ("j", "down") else -1
            return replace(view, selected=max(0, min(view.selected + step, nodes - 1)))
        case "\x1b":
            return replace(view, filter="")
        case _:
            return replace(view, screen=_screen(view.screen, key))


def shown(picture: Picture, view: View) -> list[Node]:
    """Return the nodes that the filter lets through, in the order of the table."""
    return [node for node in picture.nodes if _hit(view, node.name)]


def draw(picture: Picture, view: View, places: Places, width: int, height: int) -> list[Text]:
    """Return the whole screen. `places` has each node's place in the unit square."""
    if width < 20 or height < 5:
        return [_cut(Text("too small"), width)] + [Text("")] * (height - 1)
    inner = height - 2 - bool(picture.note)
    match view.screen:
        case "map":
            body = _map(picture, view, places, width, inner)
        case "peers":
            body = _peers(picture, view, width, inner)
        case "tables":
            body = _tables(picture, width, inner)
        case "events":
            body = _events([event for event in picture.events if _hit(view, event.text)], width, inner)
        case _:
            body = _all(picture, view, places, width, inner)
    note = [Text(printable(picture.note), "yellow")] if picture.note else []
    lines = [_head(picture, view, width), *_padded(body, inner), *note, _foot(view, width)]
    return [_cut(line, width) for line in lines]


# ---- screens


def _all(picture: Picture, view: View, places: Places, width: int, height: int) -> list[Text]:
    feed = max(3, height // 5)
    upper = height - feed - 1
    left = width // 2
    right = width - left - 1
    tables = min(len(picture.tables) + 2, upper // 2) if picture.tables else 0
    drawn = _map(picture, view, places, left, upper)
    beside = _padded(_peers(picture, view, right, upper - tables), upper - tables)
    if tables:
        beside += [_rule("tables", right, view), *_tables(picture, right, tables - 1)]
    bar = Text("│" if view.unicode else "|", "dim")
    lines = [
        Text.assemble(_filled(one, left), bar, _cut(two, right))
        for one, two in zip(drawn, _padded(beside, upper), strict=True)
    ]
    return [*lines, _rule("events", width, view), *_events(picture.events, width, feed)]


def _map(picture: Picture, view: View, places: Places, width: int, height: int) -> list[Text]:
    canvas = Canvas(width, height, unicode=view.unicode)
    nodes = {node.key: node for node in picture.nodes}
    chosen = _selected(picture, view)
    signs = SIGNS if view.unicode else PLAIN_SIGNS
    if height >= LEGEND_ROWS:
        _legend(canvas, [_look(node) for node in picture.nodes], signs)
    # Room for names at both sides, and a free row above and below.
    margin = min(6, width // 6)
    at = {
        key: (margin + x * (width - 1 - 2 * margin), 1 + y * max(0, height - 3))
        for key, (x, y) in places.items()
        if key in nodes
    }
    # In a dense mesh whole lines are one cloud: only the chosen node's and the poor ones are drawn so, and last.
    dense = len(picture.edges) > DENSE * max(1, len(at))
    drawn = [edge for edge in picture.edges if edge.first in at and edge.second in at]
    for edge in sorted(drawn, key=lambda edge: chosen in (edge.first, edge.second)):
        ours = chosen in (edge.first, edge.second)
        (x, y), (x2, y2) = at[edge.first], at[edge.second]
        style, every = _stroke(edge, ours=ours, dense=dense)
        canvas.line((x + 0.5, y + 0.5), (x2 + 0.5, y2 + 0.5), style, every=every)
    styles = {key: COLOURS[_look(nodes[key])] if _hit(view, nodes[key].name) else "dim" for key in at}
    for key, (x, y) in at.items():
        canvas.text(int(x), int(y), signs[_look(nodes[key])], styles[key] + (" reverse" if key == chosen else ""))
    # The chosen node and this one get their names first: where it is crowded, others go without.
    for key in sorted(at, key=lambda key: (key != chosen, nodes[key].state != "here")):
        _name(canvas, nodes[key].name, at[key], "bold" if key == chosen else styles[key])
    return canvas.lines()


def _legend(canvas: Canvas, looks: Sequence[str], signs: dict[str, str]) -> None:
    """Say in the row that no node stands in what the signs of these nodes mean."""
    at = 0
    for look, words in LEGEND.items():
        if look in looks:
            canvas.text(at, 0, f"{signs[look]} {words}", COLOURS[look])
            at += len(words) + 4


def _stroke(edge: Edge, *, ours: bool, dense: bool) -> tuple[str, int]:
    """Return the style of a link, and of how many dots one is drawn."""
    if edge.past:
        return "dim red", PAST_EVERY
    if edge.poor:
        return "yellow", 1
    every = DENSE_EVERY if dense and not ours else 1
    return "bold green" if edge.busy and every == 1 else "dim green", every


def _name(canvas: Canvas, name: str, place: tuple[float, float], style: str) -> None:
    name = printable(name)[:16]
    x, y = int(place[0]), int(place[1])
    spots = ((x - len(name) // 2, y + 1), (x - len(name) // 2, y - 1), (x + 2, y), (x - len(name) - 1, y))
    for column, row in spots:
        if canvas.free(column, row, len(name)):
            canvas.text(column, row, name, style)
            return


def _peers(picture: Picture, view: View, width: int, height: int) -> list[Text]:
    nodes = shown(picture, view)
    chosen = _selected(picture, view)
    headers = ["NAME", "STATE", "EQUAL", "RTT", "LAG", "OFFSET", "IN", "OUT", "ROLES", "ADDRESS"]
    rows = [_peer(node) for node in nodes]
    told = [at for at in range(len(headers)) if at < 3 or any(row[at] != "-" for row in rows)]
    headers, rows = [headers[at] for at in told], [[row[at] for at in told] for row in rows]
    keep = _fitting(headers, rows, width)
    widths = [max(cell_len(row[at]) for row in (headers, *rows)) for at in range(keep)]
    lines = [_row(headers[:keep], widths, "bold")]
    first = max(0, min(view.selected - (height - 2) // 2, len(nodes) - (height - 1)))
    for node, row in list(zip(nodes, rows, strict=True))[first : first + height - 1]:
        lines.append(_row(row[:keep], widths, COLOURS[_look(node)] + (" reverse" if node.key == chosen else "")))
    return lines


def _peer(node: Node) -> list[str]:
    lag = "-" if node.lag_rows is None else f"{node.lag_rows:,} rows"
    if node.lag_ms is not None:
        lag += f" {duration(node.lag_ms)}"
    return [
        printable(node.name)[:16],
        node.state,
        "-" if node.equal is None else "yes" if node.equal else "no",
        "-" if node.rtt_ms is None else f"{node.rtt_ms:.1f} ms",
        lag,
        signed_ms(node.offset_ms),
        "-" if node.received_bytes is None else byte_count(node.received_bytes),
        "-" if node.sent_bytes is None else byte_count(node.sent_bytes),
        ",".join(node.roles) or "-",
        printable(node.address) or "-",
    ]


def _tables(picture: Picture, width: int, height: int) -> list[Text]:
    linked = sum(node.state == "linked" for node in picture.nodes)
    headers = ["TABLE", "ROWS", "HASH", "EQUAL", "CONFLICTS", "PARKED", "NOTE"]
    rows = [
        [
            printable(table.name)[:20],
            f"{table.rows:,}",
            short_hash(table.digest) or "-",
            "-" if table.equal_on is None else f"{table.equal_on}/{linked}",
            str(table.conflicts),
            str(table.parked),
            printable(table.note) or "-",
        ]
        for table in picture.tables
    ]
    keep = _fitting(headers, rows, width)
    widths = [max(cell_len(row[at]) for row in (headers, *rows)) for at in range(keep)]
    styles = ["yellow" if table.parked or table.note else "" for table in picture.tables]
    lines = [_row(headers[:keep], widths, "bold")]
    lines += [_row(row[:keep], widths, style) for row, style in zip(rows, styles, strict=True)]
    hidden = len(lines) - height
    if hidden > 0 and height > 1:
        lines = [*lines[: height - 1], Text(f"and {hidden + 1} more", "dim")]
    return lines[:height]


def _events(events: Sequence[Event], width: int, height: int) -> list[Text]:
    lines = [
        Text.assemble((f"{event.at}  ", "dim"), (printable(event.text), LEVELS.get(event.level, "")))
        for event in events[-height:]
    ]
    return [_cut(line, width) for line in lines] or [Text("nothing yet", "dim")]


# ---- parts


def _head(picture: Picture, view: View, width: int) -> Text:
    islands = picture.islands
    text = f" {printable(picture.title)}"
    if islands > 1:
        text += f", {islands} islands"
    if view.paused:
        text += ", PAUSED"
    return Text(set_cell_size(text, width), "reverse")


def _foot(view: View, width: int) -> Text:
    if view.typing:
        return Text.assemble((f"filter: {view.filter}_", "bold"), ("  Enter keeps it  Esc clears it", "dim"))
    if view.filter:
        return Text.assemble((f"filter: {view.filter}", "bold"), (f"  Esc clears it  {KEYS}", "dim"))
    whole = Text()
    for number, screen in enumerate(SCREENS, 1):
        whole.append(f"{number} {screen}", "bold reverse" if screen == view.screen else "dim").append("  ")
    whole.append(KEYS, "dim")
    return whole if whole.cell_len <= width else Text(f"1-{len(SCREENS)} screen  {KEYS}", "dim")


def _screen(screen: str, key: str) -> str:
    if key == "\t":
        return SCREENS[(SCREENS.index(screen) + 1) % len(SCREENS)]
    return SCREENS[int(key) - 1] if len(key) == 1 and "1" <= key <= str(len(SCREENS)) else screen


def _typed(view: View, key: str) -> View:
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
    nodes = shown(picture, view)
    return nodes[min(view.selected, len(nodes) - 1)].key if nodes else ""


def _look(node: Node) -> str:
    """Return what decides about sign and colour."""
    return "differs" if node.state == "linked" and node.equal is False else node.state


def _hit(view: View, text: str) -> bool:
    return view.filter.casefold() in text.casefold()


def _rule(title: str, width: int, view: View) -> Text:
    sign = "─" if view.unicode else "-"
    return Text(f"{sign * 2} {title} ".ljust(width, sign), "dim")


def _fitting(headers: list[str], rows: list[list[str]], width: int) -> int:
    """Return how many columns fit; the first two always do."""
    used = 0
    for at in range(len(headers)):
        used += max(cell_len(row[at]) for row in (headers, *rows)) + 2
        if used - 2 > width and at > 1:
            return at
    return len(headers)


def _row(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    return Text("  ".join(set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True)), style)


def _padded(lines: list[Text], height: int) -> list[Text]:
    return lines[:height] + [Text("")] * (height - len(lines))


def _filled(line: Text, width: int) -> Text:
    line = _cut(line, width)
    line.append(" " * (width - line.cell_len))
    return line


def _cut(line: Text, width: int) -> Text:
    line = line.copy()
    line.truncate(width)
    return line
