"""Retry queue: rows that could not be made visible as they should be are tried again, in short steps.

There are four kinds: a row that a constraint refused, a row that is visible under another id than it wants, a child of a row
whose id has changed, and a held value of a column that this file did not have. Any change may remove the cause. Progress is in
memory only: it restarts when the file is opened, and when a transaction rolls back.

Each step tries a bounded number of rows. The caller steps only when every local write has its stamp. Otherwise a retried row
could replace a write that the drain has not read yet. ADR 0012.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mycomesh.sync.merge import keep_both
from mycomesh.sync.merge.foreign_keys import ChildPass
from mycomesh.sync.merge.merge import materialize
from mycomesh.sync.merge.twin_rows import TwinQueue
from mycomesh.sync.merge.work_budget import size_of
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["RetryQueue"]

# A row that gets in may displace another, whose values a third may then take. A longer chain waits for the next change.
PASSES_MAX = 8
_ROW_BYTES = 8_192  # reading, trying and holding so many bytes takes as long as a small row


class _Stage(enum.Enum):
    """The parts of a pass over one table, in order."""

    REASSIGNED = enum.auto()  # rows that are visible under another id than they want
    PARKED = enum.auto()
    CHILDREN = enum.auto()  # of rows whose ids have changed, in whatever table they are


@dataclass(slots=True)
class _Pass:
    """Progress in one table."""

    passes: int = 0
    stage: _Stage = _Stage.REASSIGNED
    children: ChildPass = field(default_factory=ChildPass)
    after: Row | None = None
    succeeded: bool = False  # this pass got some parked row into the table
    again: bool = False  # something has changed since this pass began


@dataclass(slots=True)
class RetryQueue:
    """Rows and held values of one file that have to be tried again."""

    _store: Store
    _passes: dict[int, _Pass] = field(default_factory=dict)
    # By table id: the columns that the table had, and the last stamp (site number, hlc) whose held values were tried.
    _held: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    _started: bool = False
    twins: TwinQueue = field(init=False)

    def __post_init__(self) -> None:
        self._store.enlist(self)
        self.twins = TwinQueue(self._store)

    def committed(self) -> None:
        """Keep the progress of the transaction."""

    def rolled_back(self) -> None:
        """Forget all progress: some of it was made in the transaction that is undone."""
        self._started = False
        self._passes.clear()
        self._held.clear()

    @property
    def has_work(self) -> bool:
        """True if a step has anything to try."""
        return bool(self._passes or self._held) or not self._started or self.twins.has_work

    def begin(self, tables: Iterable[Table]) -> None:
        """Queue the rows of all tables if the file was opened, or a transaction rolled back: any table may have rows to try.

        Call it before a merge parks rows, which it has tried itself.
        """
        if not self._started:
            self._started = True
            for table in tables:
                self.add(table)

    def add(self, table: Table) -> None:
        """Queue the rows of a table that are parked or visible under another id than they want, because something changed."""
        state = self._passes.get(table.table_id)
        if state is not None:
            state.again = True
        elif self._has_rows(table):
            self._passes[table.table_id] = _Pass()

    def add_all(self, tables: Iterable[Table]) -> None:
        """Queue the rows of many tables, as `add` does for one."""
        parked = {number for (number,) in self._store.db.execute("SELECT DISTINCT id FROM mycomesh_parked")}
        reassigned = keep_both.any_assigned(self._store.db)
        for table in tables:
            if table.table_id in parked or table.table_id in self._passes or reassigned or table.spec.id_column:
                self.add(table)

    def _has_rows(self, table: Table) -> bool:
        listing = "SELECT 1 FROM mycomesh_parked WHERE id = ? LIMIT 1"
        parked = self._store.db.execute(listing, (table.table_id,)).fetchone() is not None
        if parked or keep_both.has_assigned(table):
            return True
        return table.spec.id_column != "" and keep_both.has_changed_ids(table)

    def step(self, tables: Iterable[Table], budget: int) -> int:
        """Try up to `budget` rows again, over all tables; return the budget that is left. Runs inside a transaction."""
        by_id = {table.table_id: table for table in tables}
        self.begin(by_id.values())
        for gone in (self._passes.keys() | self._held.keys()) - by_id.keys():
            self._passes.pop(gone, None)
            self._held.pop(gone, None)
        for table_id in sorted(self._passes):
            while budget > 0 and table_id in self._passes:
                budget -= self._advance(by_id, table_id, budget)
        return self.twins.step(by_id, budget)

    def _advance(self, tables: Mapping[int, Table], table_id: int, budget: int) -> int:
        """Try the next rows of one table; return how many were tried, at least 1 so that `step` ends. A large row counts more."""
        table, state = tables[table_id], self._passes[table_id]
        match state.stage:
            case _Stage.REASSIGNED:
                tried = self._retry_reassigned(table, state, budget)
            case _Stage.PARKED:
                tried = self._retry_parked(table, state, budget)
            case _Stage.CHILDREN:
                tried = state.children.step(table, tables.values(), budget)
        table.log.flush()
        if tried >= budget:
            return tried
        if state.stage is _Stage.REASSIGNED:
            state.stage, state.after = _Stage.PARKED, None
        elif keep_both.has_changed_ids(table):
            state.stage, state.children = _Stage.CHILDREN, ChildPass()
        elif state.again or (state.succeeded and state.passes + 1 < PASSES_MAX):
            self._passes[table.table_id] = _Pass(0 if state.again else state.passes + 1)
        else:
            del self._passes[table.table_id]
        return max(tried, 1)

    def _retry_reassigned(self, table: Table, state: _Pass, budget: int) -> int:
        if not table.spec.id_column:
            return 0
        rows, tried, state.after = keep_both.stale_assignments(table, state.after, budget)
        for row in rows:
            view = RowView.read(table, row)
            if view.present is None:  # the row is gone: remove its record
                keep_both.record_assignment(table, row, row, None)
            else:
                materialize(table, view, view.visible, view.owned(), reinserted=False)
        return tried

    def _retry_parked(self, table: Table, state: _Pass, budget: int) -> int:
        start, parameters = ("", ()) if state.after is None else ("AND row > ?", (state.after,))
        listing = f"SELECT row FROM mycomesh_parked WHERE id = ? {start} ORDER BY row LIMIT ?"
        found = self._store.db.execute(listing, (table.table_id, *parameters, budget)).fetchall()
        tried = 0
        for (row,) in found:
            view = RowView.read(table, row)
            target = view.owned()
            parked, _ = materialize(table, view, view.visible, target, reinserted=False)
            state.succeeded |= not parked
            state.after = row
            tried += 1 + size_of(target.values()) // _ROW_BYTES
            if tried >= budget:
                break
        return tried

    # ---- held values of columns that were added to the table

    def retry_held(self, table: Table, state: str, budget: int) -> int:
        """Write up to `budget` held values into the user's table, if it has their columns; return the budget that is left.

        If budget is left, all of the table's held values have been tried. `state` identifies the table's columns: if it differs
        from the last call, the pass starts again at the first value. Runs inside a transaction.
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
