"""Tombstones of one table: their collection, and deletes that this replica missed because their tombstones are gone.

For each site, a GC watermark says up to which of the site's clocks this replica has removed tombstones. A watermark is raised in
the transaction that removes the tombstone. It travels with the version vector: a peer that takes over the vector takes over the
watermarks too. A peer that does not cover a watermark first compares stamps (the audit), since it may have missed a delete.

`exchange/tombstone_gc.py` decides when a tombstone may go. ADR 0007.
"""

from __future__ import annotations

from collections.abc import Sequence

from mycomesh.sync.crdt.lattice import EXISTENCE, visible
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.merge import records
from mycomesh.sync.merge.merge import materialize, merge_rows
from mycomesh.sync.merge.merged import Merged
from mycomesh.sync.merge.work_budget import WorkBudget
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.internal_tables import create_rare, has_rare
from mycomesh.sync.storage.large_rows import bytes_of
from mycomesh.sync.storage.row_view import RowView, shrink
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = [
    "collect",
    "ending",
    "forget",
    "newest_hlc",
    "oldest_hlc",
    "raise_watermarks",
    "stamps",
    "watermarks",
    "write_again",
]

_WATERMARKS = "mycomesh_collected"


def newest_hlc(table: Table) -> int:
    """Return the greatest hlc of the table's tombstones, 0 if there are none."""
    return _clock(table, "max")


def oldest_hlc(table: Table) -> int:
    """Return the least hlc of the table's tombstones, 0 if there are none."""
    return _clock(table, "min")


def _clock(table: Table, which: str) -> int:
    listing = f"SELECT coalesce({which}(hlc), 0) FROM {table.log.name} WHERE mask = 0"
    return int(table.store.db.execute(listing).fetchone()[0])


def collect(table: Table, stable: int, limit: int) -> int:
    """Remove up to `limit` tombstones with an hlc up to `stable`; return how many. Runs inside a transaction."""
    listing = (
        f"SELECT place, hlc, row, mask, digest, prior FROM {table.log.name} WHERE mask = 0 AND hlc <= ?"
        " ORDER BY hlc, place LIMIT ?"
    )
    stored_entries: list[StoredEntry] = table.store.db.execute(listing, (stable, limit)).fetchall()
    for stored in stored_entries:
        table.log.remove(stored)
        _raise_watermark(table, stored[0], stored[1])
    table.log.flush()
    return len(stored_entries)


def watermarks(unit: Unit) -> Vector:
    """Return the GC watermarks of a unit: for each site `(0, hlc]`."""
    table = unit.table
    if not has_rare(table.store.db, _WATERMARKS):
        return Vector()
    listing = "SELECT place, hlc FROM mycomesh_collected WHERE id = ? ORDER BY place"
    found = table.store.db.execute(listing, (table.table_id,)).fetchall()
    return Vector({table.store.site(number): [(0, hlc)] for number, hlc in found if unit.has_number(number)})


def raise_watermarks(unit: Unit, watermarks: Vector) -> None:
    """Raise the GC watermarks to those of a peer, after this unit has taken over the peer's vector.

    A watermark of a site that the table does not cover is left out, and none goes beyond what it covers of the site: a
    peer can claim any. Runs inside a transaction.
    """
    table = unit.table
    for site, ranges in watermarks.items():
        if not unit.has_site(site):
            continue
        top = min(ranges[-1][1], table.coverage.staged.top(site))
        if top > 0:
            _raise_watermark(table, table.store.site_number_or_new(site), top)


def _raise_watermark(table: Table, site_number: int, hlc: int) -> None:
    create_rare(table.store.db, _WATERMARKS)
    table.store.db.execute(
        "INSERT INTO mycomesh_collected VALUES(?, ?, ?) ON CONFLICT(id, place) DO UPDATE SET hlc = max(hlc, excluded.hlc)",
        (table.table_id, site_number, hlc),
    )


# ---- audits: compare stamps to find deletes that were missed


def stamps(table: Table, site: bytes, after: int, upto: int, limit: int) -> tuple[list[int], int]:
    """Return up to `limit` hlcs of the site's entries in `(after, upto]`, ascending, and the hlc up to which it looked."""
    site_number = table.store.site_number(site)
    if site_number is None:
        return [], upto
    found = [hlc for at, hlc, _, _ in table.log.scan(site_number, after, limit) if at == site_number and hlc <= upto]
    return found, upto if len(found) < limit else found[-1]


def ending(table: Table, absent: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """Return those of the entries (site number, hlc) that `forget` would remove, and the bytes of their values."""
    found, size = [], 0
    for row, gone in _by_row(table, absent).items():
        view = RowView.read(table, row)
        for stored, entry, goes in zip(view.stored, view.entries, _going(view, gone), strict=True):
            if goes:
                found.append(stored[:2])
                size += sum(map(bytes_of, view.values(stored, entry.mask & ~EXISTENCE).values()))
    return found, size


def forget(table: Table, absent: Sequence[tuple[int, int]], wall_ms: int, reason: str) -> int:
    """Remove entries (site number, hlc) that a peer covers and does not have, and the rows whose insert is among them.

    If the insert of a row stays, so do the row's other entries: a change that is still to come has superseded them. Returns how
    many rows were removed. The values of such a row are recorded as conflicts, with this reason where the peer does not have
    them. Runs inside a transaction.
    """
    rows = _by_row(table, absent)
    return sum(_forget_row(table, row, gone, wall_ms, reason) for row, gone in rows.items())


def write_again(table: Table, claimed: Sequence[tuple[int, int]], own: bytes) -> int:
    """Write the visible rows of some entries (site number, hlc) again, as writes of the site `own`; return how many.

    Peers that have deleted them take them for later inserts. A row that its insert identifies gets another insert, and its old
    one ends, so that peers which still have it do not get it twice. Rounds bring the changes to the peers. Runs inside a
    transaction.
    """
    clock, before = table.store.clock, table.coverage.staged.top(own)
    number, merged, count = table.store.site_number_or_new(own), Merged(), 0
    for row in _by_row(table, claimed):
        view = RowView.read(table, row)
        if view.present is None or not view.visible:
            continue
        values = view.owned()
        groups = [Group(own, Kind.INSERT, tuple(values), [clock.tick(0)], None, [list(values.values())], None)]
        if table.spec.lacks_primary_key or (isinstance(view.key, bytes) and view.key[:1] == b"\x00"):
            groups.insert(0, Group(own, Kind.DELETE, (), [clock.tick(0)], [view.key], [[]], None))
        for group in groups:
            merge_rows(table, group, number, None, merged, WorkBudget())
            table.log.flush()
        count += 1
    if count:
        table.coverage.cover(own, before, clock.last)
    return count


def _by_row(table: Table, absent: Sequence[tuple[int, int]]) -> dict[Row, set[tuple[int, int]]]:
    rows: dict[Row, set[tuple[int, int]]] = {}
    for stamp, row in table.log.rows_of(absent).items():
        rows.setdefault(row, set()).add(stamp)
    return rows


def _going(view: RowView, gone: set[tuple[int, int]]) -> list[bool]:
    """Return for each entry of a row whether it goes with `gone`; none goes if the row's insert stays."""
    going = [stored[:2] in gone and not entry.dead for stored, entry in zip(view.stored, view.entries, strict=True)]
    if visible([entry for entry, goes in zip(view.entries, going, strict=True) if not goes]):
        return [False] * len(going)
    return going


def _forget_row(table: Table, row: Row, gone: set[tuple[int, int]], wall_ms: int, reason: str) -> bool:
    view = RowView.read(table, row)
    going = _going(view, gone)
    if not any(going):
        return False
    kept = [entry for entry, goes in zip(view.entries, going, strict=True) if not goes]
    alive = view.visible
    key = table.key(row, view.stored) if view.stored else row
    ends = max(entry.stamp for entry, goes in zip(view.entries, going, strict=True) if goes)
    for stored, entry, goes in zip(view.stored, view.entries, going, strict=True):
        values = view.values(stored, entry.mask & ~EXISTENCE)
        if alive and not entry.dead and values:
            loser = records.Loser(key, values, entry.stamp, dead=False)
            records.record_conflict(table, loser, ends, None, wall_ms, reason=reason if goes else "")
    names = {name for entry in kept for name in table.columns.names_of(entry.mask & ~EXISTENCE)}
    target = {name: value for name, value in view.owned().items() if name in names}
    shrink(view, [0 if goes else entry.mask for entry, goes in zip(view.entries, going, strict=True)], key)
    table.log.flush()
    materialize(table, view, alive=False, target=target, reinserted=False)
    table.log.flush()
    return alive
