"""Both rows of one id: tables whose automatic ids two nodes may give out twice while they cannot hear each other.

In such a table a row is identified by the stamp of its birth, and its INTEGER PRIMARY KEY is a register like any column: the
id that it wants. Of the rows that want one id the earliest claim has it; each other is shown under an id that follows from
its birth alone, below zero, so that automatic numbering goes on undisturbed, and the id that it wants is held. That is a
function of the rows alone, whatever the order of arrival. The site that gave the id away then writes the other id into the
row, for good: else the row would move back when the one that has the id is deleted (ADR 0009).

Owns who has an id. What always holds: after a transaction every id is with the earliest claim among the rows that want it. It
must not know peers or the wire.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge import records
from mycomesh.sync.sqlite.table_spec import KeyKind
from mycomesh.sync.storage.change_log import Leaf
from mycomesh.sync.storage.pending_log import LOOK_AGAIN, pending_name
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import BIRTH_KEY_SIZE, Row, Table
from mycomesh.sync.wire.bundle import Kind, Section

__all__ = [
    "LEGACY_KEY_SIZE",
    "IdAssignment",
    "assign_id",
    "convert",
    "deleted_up_to",
    "has_other_key_form",
    "id_to_settle",
    "legacy_id",
    "legacy_key",
    "record_assignment",
    "rows_wanting",
    "stale_assignments",
    "without_other_key_form",
]

# A row that was deleted before its table kept both is known by its id alone: a one byte (no birth begins so), the id.
LEGACY_KEY_SIZE = 1 + 8
_LEGACY = b"\x01"
_IDS = 1 << 52  # whatever reads ids as doubles keeps them exact
_BATCH = 500


@dataclass(frozen=True, slots=True)
class IdAssignment:
    """Where a row goes: the id that it wants, the one that it gets, and the claim that it lost to, if that is known."""

    wanted: int
    id: int
    winner: tuple[int, int] | None  # place of the site, hlc


def assign_id(table: Table, view: RowView, registers: Mapping[str, Any]) -> IdAssignment | None:
    """Find the id under which a row is to be shown, and moves the row that has it if that claimed it later.

    Returns None if the registers do not say which id the row wants: it stays where it is.
    """
    wanted = registers.get(table.spec.id_column)
    if type(wanted) is not int:
        return None
    if view.present is not None and view.row == wanted:
        return IdAssignment(wanted, wanted, None)
    rival = RowView.read(table, wanted)
    if rival.present is None:
        return IdAssignment(wanted, wanted, None)
    mine = RowView.read(table, view.row)
    claim, other = _claim_leaf(mine), _claim_leaf(rival)
    if claim is None or other is None:  # a row of the application's that has no stamp yet
        return IdAssignment(wanted, _other_id(table, mine), None)
    if rival.owned().get(table.spec.id_column) != wanted:  # moved to just this id, of 2^52
        return IdAssignment(wanted, _other_id(table, mine), None)
    if _stamp(table, other) < _stamp(table, claim):
        return IdAssignment(wanted, _other_id(table, mine), other[:2])
    _reassign(table, rival, other, IdAssignment(wanted, _other_id(table, rival), claim[:2]))
    return IdAssignment(wanted, wanted, None)


def record_assignment(table: Table, before: Row, row: Row, assignment: IdAssignment | None) -> None:
    """Keep account of a row that is shown, or of one that is not (`place` None)."""
    db = table.store.db
    db.execute("DELETE FROM mycomesh_moved WHERE id = ? AND row IN (?, ?)", (table.table_id, before, row))
    if assignment is None or assignment.id == assignment.wanted:
        return
    winner = assignment.winner or (None, None)
    db.execute("INSERT INTO mycomesh_moved VALUES(?, ?, ?, ?, ?)", (table.table_id, row, assignment.wanted, *winner))
    leaf = _claim_leaf(RowView.read(table, row))
    if assignment.winner is None or leaf is None:
        return
    records.record_reassigned_id(
        table, assignment.wanted, assignment.id, _stamp(table, leaf), _stamp(table, assignment.winner)
    )
    # The drain of the site that gave the id away writes the other one, see `id_to_settle`; elsewhere it finds nothing.
    db.execute(f"INSERT INTO {pending_name(table.table_id)}(what, at, r) VALUES({LOOK_AGAIN}, NULL, ?)", (row,))
    table.unread = True


def stale_assignments(table: Table, after: Row | None, limit: int) -> tuple[list[Row], int, Row | None]:
    """Look at up to `limit` rows after a row that are shown under another id than they want.

    Returns those whose winner has gone, or who have gone; how many were looked at; and the last of them.
    """
    start, parameters = ("", ()) if after is None else ("AND row > ?", (after,))
    listing = f"SELECT row, wanted, place, hlc FROM mycomesh_moved WHERE id = ? {start} ORDER BY row LIMIT ?"
    found = table.store.db.execute(listing, (table.table_id, *parameters, limit)).fetchall()
    stale = [
        row
        for row, wanted, site_number, hlc in found
        if site_number is None or table.log.row_of(site_number, hlc) != wanted or table.read(row) is None
    ]
    return stale, len(found), found[-1][0] if found else after


def id_to_settle(view: RowView, site_number: int) -> int:
    """Return the bit of the id where a local drain has to write what is shown: the row was born here, and has moved."""
    table = view.table
    column = table.spec.id_column
    own = any(
        leaf[0] == site_number and entry.mask & EXISTENCE for leaf, entry in zip(view.leaves, view.entries, strict=True)
    )
    return 1 << table.bits[column] if own and view.owned().get(column) != view.row else 0


def has_other_key_form(table: Table, section: Section) -> bool:
    """Return True if some change names its row as another policy than this replica's would have it."""
    spec = table.spec
    if spec.kind is not KeyKind.ROWID and not spec.id_column:
        return False
    other = _is_id if spec.id_column else _is_birth_or_legacy
    return any(
        any(map(other, group.keys or ()))
        or (spec.id_column != "" and group.kind is Kind.INSERT and group.priors is not None)
        for group in section.groups
    )


def without_other_key_form(tables: Mapping[str, Table], sections: Iterable[Section]) -> list[Section]:
    """Leaves out what was stamped before a policy was learnt that holds by now: rounds bring it in the form of now."""
    return [item for item in sections if item.table not in tables or not has_other_key_form(tables[item.table], item)]


def _is_id(key: Any) -> bool:
    return type(key) is int


def _is_birth_or_legacy(key: Any) -> bool:
    return type(key) is bytes and (key[:1], len(key)) in ((b"\x00", BIRTH_KEY_SIZE), (_LEGACY, LEGACY_KEY_SIZE))


def legacy_key(row: int) -> bytes:
    """Return the key of the end of a row that went by its id."""
    return _LEGACY + row.to_bytes(8, "big", signed=True)


def legacy_id(key: bytes) -> int:
    """Return the id in a legacy key."""
    return int.from_bytes(key[1:], "big", signed=True)


def rows_wanting(table: Table, wanted: int) -> list[Row]:
    """Return the shown rows that want an id: the one that has it, and those that are shown under another."""
    listing = "SELECT row FROM mycomesh_moved WHERE id = ? AND wanted = ? ORDER BY row"
    rows = [row for (row,) in table.store.db.execute(listing, (table.table_id, wanted)).fetchall()]
    views = [RowView.read(table, row) for row in [wanted, *rows]]
    return [view.row for view in views if view.visible and view.owned().get(table.spec.id_column) == wanted]


def deleted_up_to(table: Table, wanted: Any) -> tuple[int, bytes]:
    """Return the stamp up to which births of an id are ended, from when rows went by their ids."""
    leaves = table.log.leaves(legacy_key(wanted)) if type(wanted) is int else []
    return max((_stamp(table, leaf) for leaf in leaves), default=(0, b""))


def convert(table: Table) -> None:
    """Give every entry of a table whose rows went by their ids the identity of its row's birth.

    The births are the same on every replica, so each comes to the same entries on its own. What waits for a birth that is
    not here is dropped, and with it the coverage of the other sites' clocks: rounds bring it under its new name.
    """
    ordered = table.log.numbered_rows()
    dropped = 0
    for at in range(0, len(ordered), _BATCH):
        for view in RowView.read_many(table, ordered[at : at + _BATCH]):
            dropped += _convert_row(view)
        table.log.flush()
    if dropped:
        table.uncover(keep=table.store.meta("site"))


def _convert_row(view: RowView) -> int:
    table = view.table
    assert isinstance(view.row, int)
    ended = next((entry.stamp for entry in view.entries if entry.dead), None)
    if not view.visible and ended is None:
        return _drop(view, list(view.leaves))
    key = table.key(view.row, view.leaves) if view.visible else legacy_key(view.row)
    waiting = []
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        if not view.visible and not entry.dead:
            waiting.append(leaf)
            continue
        values = list(view.values(leaf, entry.mask & ~EXISTENCE).values())
        digest = table.digest(leaf[0], leaf[1], entry.mask, key, values, dead=entry.dead)
        row = view.row if view.present is not None else key
        table.log.replace(leaf, (leaf[0], leaf[1], row, leaf[3], digest, leaf[5]))
    if view.visible and view.present is None:  # parked
        records.rename_parked(table, view.row, key, view.row)
    return _drop(view, waiting)


def _drop(view: RowView, leaves: list[Leaf]) -> int:
    for leaf in leaves:
        view.table.log.remove(leaf)
        view.table.hold(leaf[0], leaf[1], {})
    return len(leaves)


def _claim_leaf(view: RowView) -> Leaf | None:
    """The entry that says which id the row wants."""
    bit = 1 << view.table.bits[view.table.spec.id_column]
    return next(
        (leaf for leaf, entry in zip(view.leaves, view.entries, strict=True) if entry.mask & bit and not entry.dead),
        None,
    )


def _stamp(table: Table, leaf: Leaf | tuple[int, int]) -> tuple[int, bytes]:
    return leaf[1], table.store.site(leaf[0])


def _other_id(table: Table, view: RowView) -> int:
    key = view.row if isinstance(view.row, bytes) else table.key(view.row, view.leaves)
    digest = hashlib.blake2b(key, digest_size=8, person=b"mycomesh-moved").digest()
    return -1 - int.from_bytes(digest, "big") % _IDS


def _reassign(table: Table, rival: RowView, claim: Leaf, assignment: IdAssignment) -> None:
    """Show the row that has an id under another; constraint errors pass through."""
    column = table.spec.id_column
    table.update(rival.row, {column: assignment.id})
    table.log.rehome(rival.row, assignment.id)
    table.hold(claim[0], claim[1], rival.held(claim) | {column: assignment.wanted})
    table.displaced += 1
    record_assignment(table, rival.row, assignment.id, assignment)
