"""Drain of a table that is cut into areas: which site stamps a write, and which section of the batch it goes into.

A new row is stamped for the area of its value. Later writes to it go the same way, also to a row from before the table was cut,
which stays in the base. A write that changes the area ends the row there and begins another one.
"""

from __future__ import annotations

from mycomesh.sync.capture.drain_edits import Groups
from mycomesh.sync.capture.pending_rows import PendingRow
from mycomesh.sync.capture.stamps import Chunk, Stamper
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.wire.bundle import Section
from mycomesh.sync.wire.units import area_of, unit_name

__all__ = ["by_stamper", "has_moved", "sections", "stamper_of"]


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
    if next(iter(rows.values())).early:
        return [(chunk.early(), rows)]
    if chunk.table.areas is None:
        return [(chunk.site, rows)]
    if chunk.table.areas.column not in chunk.table.columns.local_names:  # dropped by hand in this file
        return [(chunk.site, rows)]
    place = chunk.table.columns.local.index(chunk.table.areas.column)
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
    if view.stored:
        return chunk.of_area(areas.of(view.stored[0][0]))
    return chunk.of_area(area_of((view.present or {}).get(areas.column)))


def has_moved(view: RowView, pending: PendingRow) -> bool:
    """Return True if the row has another area than its entries: it ends there and begins here."""
    areas = view.table.areas
    if areas is None or not view.visible or view.present is None or view.table.spec.kind is KeyKind.KEYED:
        return False
    if areas.column not in view.table.columns.local_names:
        return False
    area = areas.of(view.stored[0][0])
    if area is None and not pending.mask & 1 << view.table.columns.bits[areas.column]:
        return False
    return area_of(view.present.get(areas.column)) != area
