"""Drain of a table that is cut into areas: which site stamps a write, and which section of the batch it goes into.

A new row is stamped for the area of its value. Later writes to it go the same way, also to a row from before the table was cut,
which stays in the base. A write that changes the area ends the row there and begins another one.
"""

from __future__ import annotations

from mycomesh.sync.capture.drain_edits import Groups
from mycomesh.sync.capture.pending_rows import PendingRow
from mycomesh.sync.capture.stamps import Chunk, Stamper
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.moved_rows import key_area
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Section
from mycomesh.sync.wire.units import NO_AREA, area_of, unit_name

__all__ = ["by_stamper", "has_moved", "moved_area", "sections", "stamper_of"]


def sections(chunk: Chunk, groups: Groups) -> list[Section]:
    """Return the changes of a chunk by their units."""
    table = chunk.table
    sections = {
        name: Section(name, ranges) for name, ranges in chunk.cover({number for number, _, _ in groups}).items()
    }
    for (site_number, _, _), group in groups.items():
        area = None if table.areas is None else table.areas.of(site_number)
        sections[unit_name(table.spec.folded, area)].groups.append(group)
    if table.seals is not None:
        for section in sections.values():
            table.seals.seal(section)
    return list(sections.values())


def by_stamper(chunk: Chunk, rows: dict[Row, PendingRow]) -> list[tuple[Stamper, dict[Row, PendingRow]]]:
    """Return new rows by what stamps them."""
    if not rows:
        return []
    areas, early = chunk.table.areas, next(iter(rows.values())).early
    if areas is not None and areas.moved is not None:
        by_area: dict[str, dict[Row, PendingRow]] = {}
        for row, pending in rows.items():
            by_area.setdefault(moved_area(chunk.table, row) or NO_AREA, {})[row] = pending
        return [(chunk.early(area) if early else chunk.of_area(area), some) for area, some in by_area.items()]
    if early:
        return [(chunk.early(), rows)]
    if areas is None:
        return [(chunk.site, rows)]
    if areas.column not in chunk.table.columns.local_names:  # dropped by hand in this file
        return [(chunk.site, rows)]
    place = chunk.table.columns.local.index(areas.column)
    found: dict[str | None, dict[Row, PendingRow]] = {}
    for row, pending in rows.items():
        found.setdefault(area_of((pending.values or ())[place]), {})[row] = pending
    return [(chunk.of_area(area), some) for area, some in found.items()]


def stamper_of(chunk: Chunk, view: RowView) -> Stamper:
    """Return what stamps a write to a row: the unit of its entries has it, or that of its value if it has none.

    So a row stays in the base if it was there before the table was cut.
    """
    areas = chunk.table.areas
    if areas is None:
        return chunk.site
    if areas.moved is not None:
        return chunk.of_area(moved_area(chunk.table, view.row))
    if view.stored:
        return chunk.of_area(areas.of(view.stored[0][0]))
    return chunk.of_area(area_of((view.present or {}).get(areas.column)))


def moved_area(table: Table, row: Row) -> str | None:
    """Return the area of a row by its name if the table was cut with its rows, None otherwise."""
    moved = None if table.areas is None else table.areas.moved
    return None if moved is None else key_area(table.spec, moved.column, row)


def has_moved(view: RowView, pending: PendingRow) -> bool:
    """Return True if the row has another area than its entries: it ends there and begins here."""
    areas = view.table.areas
    if areas is None or not view.visible or view.present is None or view.table.spec.kind is KeyKind.KEYED:
        return False
    if areas.moved is not None:
        return False  # another key is another row
    if areas.column not in view.table.columns.local_names:
        return False
    area = areas.of(view.stored[0][0])
    if area is None and not pending.mask & 1 << view.table.columns.bits[areas.column]:
        return False
    return area_of(view.present.get(areas.column)) != area
