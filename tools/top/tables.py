"""The tables of `top`: user tables, areas, readers of the change feed and mailboxes, as lines that fit a width and a height."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from mycomesh.mesh.node.journal import printable
from mycomesh.tools.render import duration, short_hash
from mycomesh.tools.views import area_note, cut_by, retained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.node.status import ChildView, ReaderView
    from mycomesh.tools.top.model import Picture

__all__ = ["areas", "cut", "fitting", "listed", "mailboxes", "readers", "row_of", "tables"]


def mailboxes(picture: Picture, width: int) -> list[Text]:
    """Return a gateway, and below it how far each other member was read."""
    lines: list[Text] = []
    for box in picture.mailboxes:
        lines.append(Text(f"{box.state}  {printable(box.url)}", "yellow" if box.text else ""))
        lines += [Text(printable(text), "yellow") for text in (box.text, box.clock) if text]
        if box.removes == "no":
            lines.append(Text(printable(f"may not remove its old envelopes: {box.removes_text}"), "yellow"))
        headers = ["FROM", "BASE", "WAITING", "LAG", "REFUSED", "NOTE"]
        rows = [
            [
                printable(each.member)[:20],
                printable(each.base)[:16] or "-",
                f"{each.waiting:,}",
                duration(round(1000 * each.lag_s)) if each.waiting else "-",
                f"{each.refused:,}",
                printable(", ".join(each.behind) or each.why) or "-",
            ]
            for each in box.streams
        ]
        if rows:
            lines += listed(headers, rows, ["" if row[-1] == "-" else "yellow" for row in rows], width, len(rows) + 1)
    return lines


def readers(picture: Picture, width: int, height: int) -> list[Text]:
    """Return the readers of the change feed, those first that are farthest behind."""
    headers = ["CURSOR", "TABLE", "BEHIND", "FOR", "NOTE"]
    children = {f"{child.kind}.{child.name}": child for child in picture.children}
    rows = [
        [
            printable(reader.cursor)[:24],
            printable(reader.table)[:20],
            f"{reader.behind:,} rows",
            "-" if reader.behind_s is None else duration(round(1000 * reader.behind_s)),
            _note_of(reader, children.get(reader.cursor)),
        ]
        for reader in sorted(picture.readers, key=lambda each: (-(each.behind_s or 0), each.cursor, each.table))
    ]
    calm = ("-", "running")
    return listed(headers, rows, ["" if row[-1].startswith(calm) else "yellow" for row in rows], width, height)


def _note_of(reader: ReaderView, child: ChildView | None) -> str:
    """Return what is to be known of a reader: that it is idle, or of a bridge or flow its state and what it has done."""
    if child is None:
        return "idle" if reader.idle else "-"
    names = ("inputs", "failed") if child.kind == "flow" else ("sent", "received", "refused")
    figures = {name: f"{child.figures.get(name, 0):,.0f} {name}" for name in names}
    done = [text for name, text in figures.items() if name == names[0] or child.figures.get(name)]
    return ", ".join([child.state, *done, *([printable(child.text)] if child.text else [])])


def tables(picture: Picture, width: int, height: int) -> list[Text]:
    """Return the user tables."""
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
            printable("; ".join(filter(None, (cut_by(table), retained(table), table.note)))) or "-",
        ]
        for table in picture.tables
    ]
    styles = ["yellow" if table.parked or table.note else "" for table in picture.tables]
    return listed(headers, rows, styles, width, height)


def areas(picture: Picture, width: int, height: int) -> list[Text]:
    """Return the areas of tables that are cut, those first of which something is amiss."""
    headers = ["TABLE", "AREA", "CHANGES", "EQUAL", "HOLDERS", "NOTE"]
    rows = [
        [
            printable(area.table)[:20],
            printable(area.area)[:20],
            f"{area.changes:,}",
            f"{area.equal_on}/{area.equal_on + area.behind}" if area.kept else "-",
            f"{area.holders}/{area.wanted}",
            area_note(area) or "-",
        ]
        for area in picture.areas
    ]
    styles = ["yellow" if area.changes and area.holders < area.wanted else "" for area in picture.areas]
    return listed(headers, rows, styles, width, height)


def listed(headers: list[str], rows: list[list[str]], styles: list[str], width: int, height: int) -> list[Text]:
    """Return headers and rows as lines, and how many rows there is no room for."""
    keep = fitting(headers, rows, width)
    widths = [max(cell_len(row[at]) for row in (headers, *rows)) for at in range(keep)]
    lines = [row_of(headers[:keep], widths, "bold")]
    lines += [row_of(row[:keep], widths, style) for row, style in zip(rows, styles, strict=True)]
    hidden = len(lines) - height
    if hidden > 0 and height > 1:
        lines = [*lines[: height - 1], Text(f"and {hidden + 1} more", "dim")]
    return lines[:height]


def fitting(headers: list[str], rows: list[list[str]], width: int) -> int:
    """Return how many columns fit the width, at least two."""
    used = 0
    for at in range(len(headers)):
        used += max(cell_len(row[at]) for row in (headers, *rows)) + 2
        if used - 2 > width and at > 1:
            return at
    return len(headers)


def row_of(cells: Sequence[str], widths: Sequence[int], style: str) -> Text:
    """Return cells in columns of these widths as one line."""
    return Text("  ".join(set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True)), style)


def cut(line: Text, width: int) -> Text:
    """Return the beginning of a line that fits a width."""
    line = line.copy()
    line.truncate(width)
    return line
