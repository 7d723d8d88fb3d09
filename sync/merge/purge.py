"""Purge: removes what a revoked member has written since a time, row by row, by a signed order (ADR 46).

A purged entry leaves the change log. Other nodes' writes into the row stay. A cell whose last write is purged goes back to an
earlier write if a record of conflicts or another node has that; else it is empty. The values of purged entries are kept in
`mycomesh_conflicts` as far as it has room, so that a person can restore them.

Invariant: which entries are left does not depend on when a replica purges, and repairs bring each of them to every replica.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.lattice import EXISTENCE, Entry, visible
from mycomesh.sync.merge import own_writes, records
from mycomesh.sync.merge.merge import materialize, merge_rows
from mycomesh.sync.merge.merged import Merged
from mycomesh.sync.merge.restored import COMPARED_BYTES_MAX
from mycomesh.sync.merge.work_budget import CONFLICT_WEIGHT, EDIT_WEIGHT, ENTRY_WEIGHT, WorkBudget, bytes_weight
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.large_rows import bytes_of
from mycomesh.sync.storage.row_view import RowView, shrink
from mycomesh.sync.storage.table import Table, insert_stamp
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["PURGED", "Counted", "Purged", "count", "purge"]

PURGED = "its writer was revoked, and its writes since then were dropped"
ROW_PURGED = "it was written into a row that was dropped, because the writer of the row was revoked"
STAMPS_AT_ONCE = 256
_COUNTED = " +"  # suffix of a recorded share of a counter (`records.values_text`)


@dataclass(slots=True)
class Purged:
    """The effect of a purge.

    changes: entries of the change log that went.
    unrecorded: those among them whose values the record of conflicts had no room for.
    restored: rows to which this node has written again what of its own had lost, or what it had built on a purged row.
    again: those among them without a key, by the key that they had and their rowids: they get other keys.
    """

    changes: int = 0
    unrecorded: int = 0
    restored: int = 0
    again: list[tuple[Table, bytes, Row]] = field(default_factory=list)

    def add(self, other: Purged) -> None:
        """Add what another part has done."""
        self.changes += other.changes
        self.unrecorded += other.unrecorded
        self.restored += other.restored
        self.again += other.again


@dataclass(slots=True)
class Counted:
    """The effect that a purge would have on one table: changes that inserted a row, updated one, deleted one."""

    inserts: int = 0
    updates: int = 0
    deletes: int = 0


def count(table: Table, node: bytes, since: int) -> Counted:
    """Return what a purge of a node's writes from the clock `since` on would remove here."""
    counted, db, log = Counted(), table.store.db, table.log
    log.flush()
    for number in _sites_of(table, node):
        born = (
            "CASE WHEN typeof(mask) = 'integer' THEN mask & 1 ELSE instr('13579BDF', substr(hex(mask), 2, 1)) > 0 END"
        )
        listing = f"SELECT count(*), coalesce(sum(mask = 0), 0), coalesce(sum({born}), 0) FROM {log.name}"
        entries, dead, inserted = db.execute(f"{listing} WHERE place = ? AND hlc >= ?", (number, since)).fetchone()
        counted.inserts += inserted
        counted.deletes += dead
        counted.updates += entries - inserted - dead
        packed = f"SELECT coalesce(sum(min(n, hlc + n - ?)), 0) FROM {log.runs.name} WHERE place = ? AND hlc + n > ?"
        counted.inserts += db.execute(packed, (since, number, since)).fetchone()[0]
    return counted


def purge(table: Table, node: bytes, since: int, own: bytes, wall_ms: int, budget: WorkBudget) -> tuple[Purged, bool]:
    """Remove a node's writes from the clock `since` on, until the budget is spent. Runs inside a transaction.

    `own` is the site of this file. Returns what was done, and whether nothing is left.
    """
    done = Purged()
    for number in _sites_of(table, node):
        while not budget.spent:
            found = table.log.scan(number, since - 1, STAMPS_AT_ONCE)
            rows = dict.fromkeys(row for at, _, row, _ in found if at == number)
            if not rows:
                break
            for row in rows:
                if budget.spent:
                    return done, False
                _purge_row(table, row, (node, since, own), wall_ms, budget, done)
        if budget.spent:
            return done, False
    return done, True


def _sites_of(table: Table, node: bytes) -> list[int]:
    return [number for number, site in enumerate(table.store.sites) if site[:SITE_PREFIX] == node]


def _purge_row(
    table: Table, row: Row, order: tuple[bytes, int, bytes], wall_ms: int, budget: WorkBudget, done: Purged
) -> None:
    node, since, own = order
    view = RowView.read(table, row)
    going = [entry.stamp[1][:SITE_PREFIX] == node and entry.stamp[0] >= since for entry in view.entries]
    if not any(going):  # an earlier row of this pass has displaced or renamed it
        return
    kept = [entry for entry, goes in zip(view.entries, going, strict=True) if not goes]
    key = table.key(row, view.stored) if view.stored else row
    owned, alive = view.owned(), visible(kept)
    budget.spend(EDIT_WEIGHT + ENTRY_WEIGHT * len(view.stored) + bytes_weight(owned.values()))
    names = {name for entry in kept for name in table.columns.names_of(entry.mask & ~EXISTENCE)}
    target = {name: value for name, value in owned.items() if name in names}
    hidden = []
    for stored, entry, goes in zip(view.stored, view.entries, going, strict=True):
        values = {} if entry.dead else view.values(stored, entry.mask & ~EXISTENCE)
        if goes:
            done.changes += 1
            budget.spend(CONFLICT_WEIGHT)
            reason = records.DELETE_LOST if entry.dead else PURGED
            done.unrecorded += not _record(table, (key, entry, values), target if alive else None, reason, wall_ms)
        elif values and view.visible and not alive:
            hidden.append((key, entry, values))
    # An insert of the purged member on which this node has built: its own write stays, in a row of its own.
    # Also one that is gone, since a node had built on it that is revoked by now.
    mine = not alive and (view.visible or _is_gone(table, key, kept)) and _is_newest(kept, own)
    shrink(view, [0 if goes else entry.mask for entry, goes in zip(view.entries, going, strict=True)], key)
    table.log.flush()
    materialize(table, view, alive, target, reinserted=True)
    table.log.flush()
    if mine and _insert_again(table, key, target, done):
        done.restored += 1
        return
    for write in hidden:  # counts as restored once its writer has inserted the row again
        _record(table, write, None, ROW_PURGED, wall_ms)
    if not any(entry.dead for entry in kept) and _restore(table, key, order, budget, done):
        done.restored += 1


def _record(
    table: Table,
    write: tuple[Any, Entry, dict[str, Any]],
    left: dict[str, Any] | None,
    reason: str,
    wall_ms: int,
) -> bool:
    """Record a write (key, entry, values) as a conflict that a person can restore; return False if there is no room for it.

    Records of other writes are never removed for it. `left` are the values that the row keeps, None if it goes.
    """
    key, entry, values = write
    if not entry.dead and not values:
        return True
    records_left, bytes_left = table.store.conflict_room.left
    if records_left < 1 or bytes_left < records.VALUE_WEIGHT * sum(map(bytes_of, values.values())):
        return False
    loser = records.Loser(key, values, entry.stamp, entry.dead)
    records.record_conflict(table, loser, entry.stamp, left, wall_ms, reason=reason)
    return True


def _is_newest(kept: list[Entry], own: bytes) -> bool:
    """Return True if the newest of the entries is a write of cells by this node."""
    newest = max(kept, key=lambda entry: entry.stamp, default=None)
    return newest is not None and not newest.dead and newest.stamp[1][:SITE_PREFIX] == own[:SITE_PREFIX]


def _is_gone(table: Table, key: Any, kept: list[Entry]) -> bool:
    """Return True if a row without a key went because its insert was purged, and this node has not inserted it again."""
    if not isinstance(key, bytes) or key[:1] != b"\x00" or any(entry.dead for entry in kept):
        return False
    purged = table.store.purged
    return purged.covers(*insert_stamp(key)) and not purged.written_again(table.table_id, key)


def _insert_again(table: Table, key: Any, cells: dict[str, Any], done: Purged) -> bool:
    """Insert a row with the cells that are left of it, as a write of this node; return False if SQLite refuses it."""
    row = table.locate(key)
    values = own_writes.key_cells(table, row)
    values |= {name: value for name, value in cells.items() if name in table.columns.local_names}
    if not values or table.rows.read(row) is not None:
        return False
    try:
        name = own_writes.insert_row(table, row, values)
    except REFUSALS:
        return False
    if isinstance(key, bytes) and key[:1] == b"\x00":
        done.again.append((table, key, name))
    return True


def _restore(table: Table, key: Any, order: tuple[bytes, int, bytes], budget: WorkBudget, done: Purged) -> bool:
    """Bring back what had lost to the purged node, as far as it is on record; return whether a write of this node has to.

    A cell that nobody owns gets the newest write that had lost it, and the row a delete that had lost, under the stamps of these
    writes: the same on every node. A row
    that the purged node had deleted needs an insert, and records do not say which write that was. So the node that has lost
    most recently inserts it again.
    """
    node, _, own = order
    lost: list[tuple[tuple[int, bytes], dict[str, Any]]] = []
    deletes: list[tuple[int, bytes]] = []
    for stamp, values in _lost_writes(table, key, node):
        if values is None:
            deletes.append(stamp)
        else:
            lost.append((stamp, values))
    for stamp in deletes:
        if table.seals is None or stamp[1][:SITE_PREFIX] == own[:SITE_PREFIX]:
            _merge(table, Group(stamp[1], Kind.DELETE, (), [stamp[0]], [key], [[]], None), budget)
    row = table.locate(key)
    if not lost:
        return False
    if table.rows.read(row) is None:
        newest = max(stamp for stamp, _ in lost)
        if table.log.knows(row) or newest[1][:SITE_PREFIX] != own[:SITE_PREFIX]:
            return False
        cells: dict[str, Any] = {}
        for _, values in lost:
            cells = values | cells
        return _insert_again(table, key, cells, done)
    for stamp, values in lost:
        if table.seals is not None and stamp[1][:SITE_PREFIX] != own[:SITE_PREFIX]:
            continue  # only its writer can sign it again
        taken = {
            name
            for stored in table.log.entries_of_row(row)
            for name in table.columns.names_of(table.log.entry(stored).mask & ~EXISTENCE)
        }
        names = tuple(name for name in values if name not in taken and name in table.columns.local_names)
        if names:
            row_values = [values[name] for name in names]
            _merge(table, Group(stamp[1], Kind.UPDATE, names, [stamp[0]], [key], [row_values], None), budget)
    return False


def _merge(table: Table, group: Group, budget: WorkBudget) -> None:
    merge_rows(table, group, table.store.site_number_or_new(group.site), None, Merged(), budget)
    table.log.flush()


def _lost_writes(table: Table, key: Any, node: bytes) -> list[tuple[tuple[int, bytes], dict[str, Any] | None]]:
    """Return what the records say had lost to a node in a row, as (stamp, values or None for a delete), the newest first."""
    store = table.store
    if store.conflict_room.empty:
        return []
    listing = (
        "SELECT lost_hlc, lost_site, lost, reason FROM mycomesh_conflicts WHERE table_name = ? AND row_key = ?"
        " AND restored_at IS NULL AND octet_length(lost) <= ? AND substr(won_site, 1, 16) = ?"
        " AND reason NOT LIKE ? ORDER BY lost_hlc DESC, lost_site DESC, seq DESC"
    )
    where = table.spec.name, records.key_text(key), COMPARED_BYTES_MAX, node.hex(), f"{records.KEPT}%"
    found: list[tuple[tuple[int, bytes], dict[str, Any] | None]] = []
    for hlc, site_text, text, reason in store.db.execute(listing, where).fetchall():
        site = bytes.fromhex(site_text)
        values = {name: records.value_of(plain) for name, plain in json.loads(text).items()}
        if store.purged.covers(site, hlc):
            continue
        if reason == records.DELETE_LOST:
            found.append(((hlc, site), None))
        elif values:
            found.append(((hlc, site), {name: value for name, value in values.items() if not name.endswith(_COUNTED)}))
    return found
