"""Keep both rows of one id: tables whose automatic ids two nodes may both assign while they are apart.

In such a table the stamp of its insert identifies a row. The INTEGER PRIMARY KEY is a register like any column: the id that the
row wants. Of all rows that want one id, the row with the earliest claim gets it. Each other row gets an id that is computed from
the key of its insert alone, and the id that it wants is held. Computed ids are below zero, so automatic numbering continues
undisturbed. The result is a function of the rows and does not depend on the order of arrival.

The site that assigned the id then writes the computed id into the row as a local update. Otherwise the row would change its id
again when the row that won is deleted.

Invariant: after each transaction, every id belongs to the earliest claim among the rows that want it. ADR 0009.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge import records
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.internal_tables import create_rare, has_rare
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import INSERT_KEY_SIZE, Table
from mycomesh.sync.wire.bundle import Kind, Section

__all__ = [
    "CHANGED_IDS_MAX",
    "LEGACY_KEY_SIZE",
    "ChangedId",
    "IdAssignment",
    "any_assigned",
    "assign_id",
    "changed_ids",
    "changed_ids_key",
    "convert",
    "deleted_up_to",
    "forget_changed_ids",
    "has_assigned",
    "has_changed_ids",
    "has_other_key_form",
    "id_to_settle",
    "legacy_id",
    "legacy_key",
    "record_assignment",
    "record_changed_id",
    "rows_wanting",
    "stale_assignments",
    "without_other_key_form",
]

# Before a table keeps both rows, an id identifies a row. The key of a row deleted then: a one byte (insert keys begin with a
# zero byte), the id.
LEGACY_KEY_SIZE = 1 + 8
_LEGACY = b"\x01"
_IDS = 1 << 52  # programs that read ids as doubles keep them exact
_BATCH = 500
_REASSIGNED = "mycomesh_moved"
# Ids that have changed and that one pass over the children follows; each step of the pass reads them in 1 ms.
CHANGED_IDS_MAX = 1_024
_NUMBER_DIGITS = 12


@dataclass(frozen=True, slots=True)
class IdAssignment:
    """The id that a row wants, the id that it gets, and the claim that it lost to, if that is known.

    `displaced` is True if the row that had the id got another one.
    """

    wanted: int
    id: int
    winner: tuple[int, int] | None  # site number, hlc
    displaced: bool = False


@dataclass(frozen=True, slots=True)
class ChangedId:
    """A visible row has another id since the clock of this replica was `upto`, so its children have to follow it.

    `number` counts the changes of one table, in the order in which they happened.
    """

    number: int
    was: int
    id: int
    upto: int


def record_changed_id(table: Table, before: Row, row: Row) -> None:
    """Record that a row which was visible under the id `before` is visible as `row`, if that differs.

    Every local write has a stamp by then, so what programs wrote for the row is not later than the clock.
    """
    if before == row or not isinstance(before, int) or not isinstance(row, int):
        return
    first, end = _changed_names(table)
    last = table.store.db.execute(
        "SELECT max(name) FROM mycomesh_meta WHERE name >= ? AND name < ?", (first, end)
    ).fetchone()[0]
    number = int(last[len(first) :]) + 1 if last else 1
    table.store.meta_set(f"{first}{number:0{_NUMBER_DIGITS}}", json.dumps([before, row, table.store.clock.last]))


def changed_ids(table: Table) -> list[ChangedId]:
    """Return the first of the ids of a table that have changed and whose children have not all followed, in order."""
    first, end = _changed_names(table)
    listing = "SELECT name, value FROM mycomesh_meta WHERE name >= ? AND name < ? ORDER BY name LIMIT ?"
    found = table.store.db.execute(listing, (first, end, CHANGED_IDS_MAX)).fetchall()
    return [ChangedId(int(name[len(first) :]), *json.loads(value)) for name, value in found]


def has_changed_ids(table: Table) -> bool:
    """Return True if `changed_ids` has any."""
    listing = "SELECT 1 FROM mycomesh_meta WHERE name >= ? AND name < ? LIMIT 1"
    return table.store.db.execute(listing, _changed_names(table)).fetchone() is not None


def forget_changed_ids(table: Table, until: int) -> None:
    """Remove the records up to a number: all their children have followed."""
    first, _ = _changed_names(table)
    table.store.db.execute(
        "DELETE FROM mycomesh_meta WHERE name >= ? AND name <= ?", (first, f"{first}{until:0{_NUMBER_DIGITS}}")
    )


def _changed_names(table: Table) -> tuple[str, str]:
    """Return the bounds of the names in `mycomesh_meta` of a table's changed ids: ':' follows the digits."""
    prefix = changed_ids_key(table.table_id)
    return prefix, prefix + ":"


def changed_ids_key(table_id: int) -> str:
    """Return what the names of a table's changed ids in `mycomesh_meta` begin with."""
    return f"changed/{table_id}/"


def assign_id(table: Table, view: RowView, registers: Mapping[str, Any]) -> IdAssignment | None:
    """Return the id under which a row is to be visible; reassign the row that has this id if it claimed the id later.

    Returns None if the registers say nothing of the id: the row keeps it. If no write that is left says it, because it was purged
    (ADR 46) or is still to come, the row gets the computed one. So the id follows from the entries, whatever was once shown.
    """
    wanted = registers.get(table.spec.id_column)
    if type(wanted) is not int:
        left = RowView.read(table, view.row)
        if not left.visible or _claim_entry(left) is not None:
            return None
        wanted = _other_id(table, left)
    if view.present is not None and view.row == wanted:
        return IdAssignment(wanted, wanted, None)
    holder = RowView.read(table, wanted)
    if holder.present is None:
        return IdAssignment(wanted, wanted, None)
    mine = RowView.read(table, view.row)
    claim, other = _claim_entry(mine), _claim_entry(holder)
    # One of them was written by the application and has no stamp yet. Once it has, the retry queue compares the claims.
    if claim is None or other is None:
        return IdAssignment(wanted, _other_id(table, mine), None)
    # The holder does not want the id either: by a chance of 1 in 2^52, it is the holder's computed id.
    if holder.owned().get(table.spec.id_column) != wanted:
        return IdAssignment(wanted, _other_id(table, mine), None)
    if _stamp(table, other) < _stamp(table, claim):
        return IdAssignment(wanted, _other_id(table, mine), other[:2])
    _reassign(table, holder, other, IdAssignment(wanted, _other_id(table, holder), claim[:2]))
    return IdAssignment(wanted, wanted, None, displaced=True)


def record_assignment(table: Table, before: Row, row: Row, assignment: IdAssignment | None) -> None:
    """Record that `row`, known as `before` until now, is visible under an assigned id, or not visible (None)."""
    db = table.store.db
    if has_rare(db, _REASSIGNED):
        db.execute("DELETE FROM mycomesh_moved WHERE id = ? AND row IN (?, ?)", (table.table_id, before, row))
    if assignment is None or assignment.id == assignment.wanted:
        return
    winner = assignment.winner or (None, None)
    create_rare(db, _REASSIGNED)
    db.execute("INSERT INTO mycomesh_moved VALUES(?, ?, ?, ?, ?)", (table.table_id, row, assignment.wanted, *winner))
    stored = _claim_entry(RowView.read(table, row))
    if assignment.winner is None or stored is None:
        return
    records.record_reassigned_id(
        table, assignment.wanted, assignment.id, _stamp(table, stored), _stamp(table, assignment.winner)
    )
    # The drain writes the computed id at the site that inserted the row (`id_to_settle`). At other sites it finds nothing to do.
    table.pending.look_again(row)


def any_assigned(db: Any) -> bool:
    """Return True if rows of any table may be visible under another id than they want."""
    return has_rare(db, _REASSIGNED)


def has_assigned(table: Table) -> bool:
    """Return True if some row of the table is visible under another id than it wants."""
    listing = "SELECT 1 FROM mycomesh_moved WHERE id = ? LIMIT 1"
    db = table.store.db
    return has_rare(db, _REASSIGNED) and db.execute(listing, (table.table_id,)).fetchone() is not None


def stale_assignments(table: Table, after: Row | None, limit: int) -> tuple[list[Row], int, Row | None]:
    """Check up to `limit` rows after a row that are visible under another id than they want.

    Returns the rows to try again, because they or the row that won the id are gone or the winner is not known; how many rows
    were checked; and the last of them.
    """
    if not has_rare(table.store.db, _REASSIGNED):
        return [], 0, after
    start, parameters = ("", ()) if after is None else ("AND row > ?", (after,))
    listing = f"SELECT row, wanted, place, hlc FROM mycomesh_moved WHERE id = ? {start} ORDER BY row LIMIT ?"
    found = table.store.db.execute(listing, (table.table_id, *parameters, limit)).fetchall()
    stale = [
        row
        for row, wanted, site_number, hlc in found
        if site_number is None or table.log.row_of(site_number, hlc) != wanted or table.rows.read(row) is None
    ]
    return stale, len(found), found[-1][0] if found else after


def id_to_settle(view: RowView, site_number: int) -> int:
    """Return the bit of the id column if the local drain has to write the computed id, else 0.

    That is so where this site inserted the row, and the row is visible under another id than it wants.
    """
    table = view.table
    column = table.spec.id_column
    own = any(
        stored[0] == site_number and entry.mask & EXISTENCE
        for stored, entry in zip(view.stored, view.entries, strict=True)
    )
    return 1 << table.columns.bits[column] if own and view.owned().get(column) != view.row else 0


def has_other_key_form(table: Table, section: Section) -> bool:
    """Return True if some change names its row in the form of another policy than this replica has for the table.

    A row is named by its id, or by its insert if the table keeps both rows.
    """
    spec = table.spec
    if spec.kind is not KeyKind.ROWID and not spec.id_column:
        return False
    other = _is_id if spec.id_column else _is_insert_or_legacy
    return any(
        any(map(other, group.keys or ()))
        or (spec.id_column != "" and group.kind is Kind.INSERT and group.priors is not None)
        for group in section.groups
    )


def without_other_key_form(tables: Mapping[str, Table], sections: Iterable[Section]) -> list[Section]:
    """Leave out sections that were stamped before the current policy arrived. Rounds bring their changes in its form."""
    return [item for item in sections if item.table not in tables or not has_other_key_form(tables[item.table], item)]


def _is_id(key: Any) -> bool:
    return type(key) is int


def _is_insert_or_legacy(key: Any) -> bool:
    return type(key) is bytes and (key[:1], len(key)) in ((b"\x00", INSERT_KEY_SIZE), (_LEGACY, LEGACY_KEY_SIZE))


def legacy_key(row: int) -> bytes:
    """Return the key under which a table that keeps both rows knows the delete of a row by its id."""
    return _LEGACY + row.to_bytes(8, "big", signed=True)


def legacy_id(key: bytes) -> int:
    """Return the id in a legacy key."""
    return int.from_bytes(key[1:], "big", signed=True)


def rows_wanting(table: Table, wanted: int) -> list[Row]:
    """Return the visible rows that want an id: the row that has it, and those that are visible under another id."""
    rows: list[Row] = []
    if has_rare(table.store.db, _REASSIGNED):
        listing = "SELECT row FROM mycomesh_moved WHERE id = ? AND wanted = ? ORDER BY row"
        rows = [row for (row,) in table.store.db.execute(listing, (table.table_id, wanted)).fetchall()]
    views = [RowView.read(table, row) for row in [wanted, *rows]]
    return [view.row for view in views if view.visible and view.owned().get(table.spec.id_column) == wanted]


def deleted_up_to(table: Table, wanted: Any) -> tuple[int, bytes]:
    """Return the stamp up to which inserts of an id are deleted by a delete from before the table kept both rows."""
    stored_entries = table.log.entries_of_row(legacy_key(wanted)) if type(wanted) is int else []
    return max((_stamp(table, stored) for stored in stored_entries), default=(0, b""))


def convert(table: Table) -> None:
    """Convert a table whose rows were named by their ids: name every entry by its row's insert.

    The inserts are the same on every replica, so each replica computes the same entries on its own. Entries that wait for an
    insert which has not arrived are dropped, and with them the coverage of the other sites' clocks. Rounds bring those changes
    again under their new keys.
    """
    ordered = table.log.numbered_rows()
    dropped = 0
    for at in range(0, len(ordered), _BATCH):
        for view in RowView.each(table, ordered[at : at + _BATCH]):
            dropped += _convert_row(view)
        table.log.flush()
    if dropped:
        table.coverage.give_up_others(keep=table.store.meta("site"))


def _convert_row(view: RowView) -> int:
    table = view.table
    assert isinstance(view.row, int)
    ended = next((entry.stamp for entry in view.entries if entry.dead), None)
    if not view.visible and ended is None:
        return _drop(view, list(view.stored))
    key = table.key(view.row, view.stored) if view.visible else legacy_key(view.row)
    waiting = []
    for stored, entry in zip(view.stored, view.entries, strict=True):
        if not view.visible and not entry.dead:
            waiting.append(stored)  # an update of a deleted row: it waits for an insert
            continue
        values = list(view.values(stored, entry.mask & ~EXISTENCE).values())
        digest = table.digests.entry(stored[0], stored[1], entry.mask, key, values, dead=entry.dead)
        row = view.row if view.present is not None else key
        table.log.replace(stored, (stored[0], stored[1], row, stored[3], digest, stored[5]))
    if view.visible and view.present is None:  # parked
        records.rename_parked(table, view.row, key, view.row)
    return _drop(view, waiting)


def _drop(view: RowView, stored_entries: list[StoredEntry]) -> int:
    for stored in stored_entries:
        view.table.log.remove(stored)
        view.table.held.write(stored[0], stored[1], {})
    return len(stored_entries)


def _claim_entry(view: RowView) -> StoredEntry | None:
    """Return the entry that owns the id that the row wants."""
    bit = 1 << view.table.columns.bits[view.table.spec.id_column]
    return next(
        (
            stored
            for stored, entry in zip(view.stored, view.entries, strict=True)
            if entry.mask & bit and not entry.dead
        ),
        None,
    )


def _stamp(table: Table, stored: StoredEntry | tuple[int, int]) -> tuple[int, bytes]:
    return stored[1], table.store.site(stored[0])


def _other_id(table: Table, view: RowView) -> int:
    key = view.row if isinstance(view.row, bytes) else table.key(view.row, view.stored)
    digest = hashlib.blake2b(key, digest_size=8, person=b"mycomesh-moved").digest()
    return -1 - int.from_bytes(digest, "big") % _IDS


def _reassign(table: Table, holder: RowView, claim: StoredEntry, assignment: IdAssignment) -> None:
    """Give the row that has an id another one; constraint errors pass through."""
    column = table.spec.id_column
    table.rows.update(holder.row, {column: assignment.id})
    table.log.rename_row(holder.row, assignment.id)
    table.held.write(claim[0], claim[1], holder.held(claim) | {column: assignment.wanted})
    record_changed_id(table, holder.row, assignment.id)
    record_assignment(table, holder.row, assignment.id, assignment)
