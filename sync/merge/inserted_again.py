"""Rows without a key that a purge had removed and several nodes have inserted again, each for its own write: one of them stays.

The writer of the newest cell inserts such a row again (`purge`). Nodes that wrote into it apart from each other each take their
own write for the newest. Once the others' writes arrive, the newest writer takes their cells into its row, and the others
delete theirs. A row that somebody has changed since is left alone.

Invariant: a node deletes only a row of its own that nobody else, and no program, has written to since it was inserted again.
"""

from __future__ import annotations

from typing import Any

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge import own_writes, records
from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import INSERT_KEY_SIZE, Table, insert_key, insert_stamp

__all__ = ["WITHDRAWN", "remember", "settle"]

WITHDRAWN = "another node has a later write in this row, which was dropped, and inserts it again"


def remember(table: Table, key: bytes, row: Row) -> None:
    """Note what this node has just written into a row that is there again. It has a stamp by now; inside a transaction."""
    stored = max(table.log.entries_of_row(row), key=lambda stored: table.log.entry(stored).stamp, default=None)
    if stored is not None:
        hlc, site = table.log.entry(stored).stamp
        known = table.store.purged.written_again(table.table_id, key)
        table.store.purged.remember_again(table.table_id, key, known + insert_key(site, hlc))


def settle(table: Table, key: bytes, own: bytes, wall_ms: int) -> Row | None:
    """Compare a row that this node has inserted again with what others have written into it.

    Returns the row if this node has taken over cells of others, to be passed to `remember`. Runs inside a transaction in which
    every captured write has its stamp.
    """
    written = _stamps(table.store.purged.written_again(table.table_id, key))
    left = RowView.read(table, table.locate(key))
    if not written or left.visible or not left.entries:
        return None
    view = RowView.read(table, table.locate(insert_key(*written[0])))
    newest = max(left.entries, key=lambda entry: entry.stamp)
    if newest.stamp[1][:SITE_PREFIX] != own[:SITE_PREFIX] or any(entry.dead for entry in left.entries):
        table.store.purged.forget_again(table.table_id, key)
        _withdraw(table, key, view, left, written, wall_ms)
        return None
    return view.row if view.present is not None and _take_over(table, view, left, written) else None


def _stamps(keys: bytes) -> list[tuple[bytes, int]]:
    """Return the stamps (site, hlc) of this node's writes into a row: its insert, then the cells that it has taken over."""
    return [insert_stamp(keys[at : at + INSERT_KEY_SIZE]) for at in range(0, len(keys), INSERT_KEY_SIZE)]


def _withdraw(
    table: Table, key: bytes, view: RowView, left: RowView, written: list[tuple[bytes, int]], wall_ms: int
) -> None:
    """Delete the row that this node has inserted again unless it was changed since; keep its own cells on record."""
    if view.present is None or any(entry.stamp[::-1] not in written for entry in view.entries):
        return
    own = written[0][0][:SITE_PREFIX]
    newest = max(entry.stamp for entry in left.entries)
    for stored, entry in zip(left.stored, left.entries, strict=True):
        values = {} if entry.dead else left.values(stored, entry.mask & ~EXISTENCE)
        if values and entry.stamp[1][:SITE_PREFIX] == own:
            loser = records.Loser(key, values, entry.stamp, dead=False)
            records.record_conflict(table, loser, newest, None, wall_ms, reason=WITHDRAWN)
    own_writes.delete_row(table, view.row)


def _take_over(table: Table, view: RowView, left: RowView, written: list[tuple[bytes, int]]) -> bool:
    """Write the others' cells into the row, except where somebody has written since; return whether any is new."""
    columns, own = table.columns, written[0][0][:SITE_PREFIX]
    mine = [entry.mask & ~EXISTENCE for entry in view.entries if entry.stamp[::-1] in written]
    open_names = {name for mask in mine for name in columns.names_of(mask)} & columns.local_names - columns.counters
    cells: dict[str, Any] = {}
    for stored, entry in zip(left.stored, left.entries, strict=True):
        if entry.stamp[1][:SITE_PREFIX] != own:
            cells |= left.values(stored, entry.mask & ~EXISTENCE)
    present = view.present or {}
    changed = {
        name: value
        for name, value in sorted(cells.items())
        if name in open_names and name != table.spec.id_column and not same(present[name], value)
    }
    if not changed:
        return False
    try:
        own_writes.update_row(table, view.row, changed)
    except REFUSALS:
        return False  # the cells stay held under the row that is gone
    return True
