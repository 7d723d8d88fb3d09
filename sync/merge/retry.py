"""Rows that could not be shown as they should be, tried again in short steps (ADR 0012).

A row that a constraint refused, one that is shown under another id than it wants, and values of a column that this file did
not have: a change may have made room for any of them. Owns how far each pass over one table has come, in memory alone:
whoever opens the file begins anew, and so does a transaction that is undone. What always holds: a step tries a bounded number
of rows, and only where every local write has its stamp, so that nothing is shown in place of what nobody has read yet. It must
not know who has changed what.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mycomesh.sync.merge import keep_both
from mycomesh.sync.merge.merge import materialize
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Row, Table

__all__ = ["RetryQueue"]

# A row that finds its place may displace another, whose place a third may take: chains longer than this wait for a change.
PASSES_MAX = 8


@dataclass(slots=True)
class _Pass:
    """How far a table has come: first its rows that are shown under another id, then those that are parked."""

    passes: int = 0
    parked: bool = False
    after: Row | None = None
    succeeded: bool = False  # some parked row has found its place in this pass
    again: bool = False  # something has changed since it began


@dataclass(slots=True)
class RetryQueue:
    """What one file has to try again."""

    _store: Store
    _passes: dict[int, _Pass] = field(default_factory=dict)
    # For which columns, and the last stamp whose held values were looked at.
    _held: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    _started: bool = False

    def __post_init__(self) -> None:
        self._store.enlist(self)

    def committed(self) -> None:
        """The transaction stands, and so does how far it came."""

    def rolled_back(self) -> None:
        """The transaction is undone: begin anew."""
        self._started = False
        self._passes.clear()
        self._held.clear()

    @property
    def has_work(self) -> bool:
        """True if rows wait for a next step."""
        return bool(self._passes or self._held) or not self._started

    def add(self, table: Table) -> None:
        """Has the rows of a table tried again that are parked, or shown under another id: something changed."""
        state = self._passes.get(table.table_id)
        if state is not None:
            state.again = True
        elif self._has_rows(table):
            self._passes[table.table_id] = _Pass()

    def _has_rows(self, table: Table) -> bool:
        found = self._store.db.execute(
            "SELECT 1 FROM mycomesh_parked WHERE id = ?1 UNION ALL SELECT 1 FROM mycomesh_moved WHERE id = ?1 LIMIT 1",
            (table.table_id,),
        ).fetchone()
        return found is not None

    def step(self, tables: Iterable[Table], budget: int) -> int:
        """Try up to `room` parked or moved rows again, over all tables; returns the room left. Inside a transaction."""
        by_id = {table.table_id: table for table in tables}
        if not self._started:
            self._started = True
            for table in by_id.values():
                self.add(table)
        for gone in (self._passes.keys() | self._held.keys()) - by_id.keys():
            self._passes.pop(gone, None)
            self._held.pop(gone, None)
        for table_id in sorted(self._passes):
            while budget > 0 and table_id in self._passes:
                budget -= self._advance(by_id[table_id], self._passes[table_id], budget)
        return budget

    def _advance(self, table: Table, state: _Pass, budget: int) -> int:
        """Try the next rows of one table; returns how many were looked at, at least one."""
        looked = self._retry_parked(table, state, budget) if state.parked else self._retry_moved(table, state, budget)
        table.log.flush()
        if looked == budget:
            return looked
        if not state.parked:
            state.parked, state.after = True, None
        elif state.again or (state.succeeded and state.passes + 1 < PASSES_MAX):
            self._passes[table.table_id] = _Pass(0 if state.again else state.passes + 1)
        else:
            del self._passes[table.table_id]
        return max(looked, 1)

    def _retry_moved(self, table: Table, state: _Pass, budget: int) -> int:
        if not table.spec.id_column:
            return 0
        rows, looked, state.after = keep_both.stale_assignments(table, state.after, budget)
        for row in rows:
            view = RowView.read(table, row)
            if view.present is None:
                keep_both.record_assignment(table, row, row, None)
            else:
                materialize(table, view, view.visible, view.owned(), reinserted=False)
        return looked

    def _retry_parked(self, table: Table, state: _Pass, budget: int) -> int:
        start, parameters = ("", ()) if state.after is None else ("AND row > ?", (state.after,))
        listing = f"SELECT row FROM mycomesh_parked WHERE id = ? {start} ORDER BY row LIMIT ?"
        found = self._store.db.execute(listing, (table.table_id, *parameters, budget)).fetchall()
        for (row,) in found:
            view = RowView.read(table, row)
            state.succeeded |= not materialize(table, view, view.visible, view.owned(), reinserted=False)
            state.after = row
        return len(found)

    # ---- values of columns that the table has got

    def retry_held(self, table: Table, state: str, budget: int) -> int:
        """Show up to `room` held values that the user's table may have room for by now; returns the room left.

        All have been looked at when room is left. `state` stands for the table's columns: where it is another than before,
        the first come first again. Inside a transaction.
        """
        before, site_number, hlc = self._held.get(table.table_id, (state, -1, -1))
        if before != state:
            site_number = hlc = -1
        listing = (
            "SELECT place, hlc FROM mycomesh_held WHERE id = ? AND (place, hlc) > (?, ?) ORDER BY place, hlc LIMIT ?"
        )
        stamps = self._store.db.execute(listing, (table.table_id, site_number, hlc, budget)).fetchall()
        for row in dict.fromkeys(table.log.rows_of(stamps).values()):
            view = RowView.read(table, row)
            if view.visible:
                materialize(table, view, alive=True, target=view.owned(), reinserted=False)
        table.log.flush()
        if len(stamps) < budget:
            self._held.pop(table.table_id, None)
        else:
            self._held[table.table_id] = (state, *stamps[-1])
        return budget - len(stamps)
