"""Conflicts among the edits of one group: the writes that lose, and their records, many at a time.

A change wins over entries which its writer had not seen, or loses all of its cells to one entry whose writer had not seen it.
Every other case is left to `conflicts`, row by row.

Invariant: the records are those that `conflicts` makes of the same changes (tests/sync/merge/test_bulk_edit.py). ADR 0085.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.merge.records import Loser, LostTo, record_conflicts
from mycomesh.sync.merge.work_budget import EDIT_WEIGHT, bytes_weight
from mycomesh.sync.storage.insert_runs import StoredEntry
from mycomesh.sync.storage.row_batch import Record
from mycomesh.sync.storage.row_view import decode_prior
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["BulkConflicts"]


class BulkConflicts:
    """Wins and losses among the changes of one group, of which a winner had not seen the loser, by the numbers of the changes."""

    def __init__(self, table: Table, group: Group, keys: Sequence[Any]) -> None:
        self._table = table
        self._group = group
        self._keys = keys
        # The entries that lose cells to a change which its writer had not seen, with these cells.
        self._won_over: dict[int, list[tuple[StoredEntry, int]]] = {}
        # The entry that keeps all the cells of a change.
        self._lost_to: dict[int, StoredEntry] = {}

    def __bool__(self) -> bool:
        return bool(self._won_over or self._lost_to)

    @property
    def numbers(self) -> Iterable[int]:
        """The changes that win or lose, as far as they have been kept."""
        return [*self._won_over, *self._lost_to]

    @property
    def losers(self) -> Collection[int]:
        """The changes that lose."""
        return self._lost_to.keys()

    def unseen(self, number: int, site_number: int, hlc: int, cells: int, *, whole: bool) -> int:
        """Return those cells of an entry that the writer of a change overwrote and had not seen."""
        if self._group.priors is None:
            return cells
        site, seen, row, named = self._table.store.site(site_number), 0, False, False
        for names, origin, upto in self._group.priors[number]:
            if origin == site and names is None:
                row = row or upto >= hlc
            elif origin == site:
                named = True
                if upto >= hlc:
                    seen |= self._table.columns.known_mask_of(names)  # type: ignore[arg-type]
        if whole and named:
            return cells & ~(seen | EXISTENCE if row else seen)
        if row:
            return 0
        return cells if whole else cells & ~seen

    def wins(self, number: int, stored: StoredEntry, cells: int) -> bool:
        """Note cells that an entry loses to a change; return False if the row path has to."""
        if not self._takes_part():
            return False
        self._won_over.setdefault(number, []).append((stored, cells))
        return True

    def loses(self, number: int, stored: StoredEntry, mask: int) -> bool:
        """Note a change of `mask` that loses to a later entry; return False if the row path has to."""
        if not self._takes_part() or stored[3] & EXISTENCE or mask & ~stored[3]:
            return False
        self._lost_to[number] = stored
        return True

    def _takes_part(self) -> bool:
        return self._group.kind is Kind.UPDATE and not self._table.columns.counters

    def keep(self, numbers: Collection[int], most: int) -> list[int]:
        """Forget all but the first of these changes, `most` of them; return those that are left out of these."""
        concurrent = [number for number in sorted(self.numbers) if number in numbers]
        self._forget_all_but(frozenset(concurrent[:most]))
        return concurrent[most:]

    def forget_large(self, unread: Collection[int]) -> set[int]:
        """Forget and return the changes with large values or of rows that could not be read: they are for the row path."""
        rows = self._group.rows
        left = {number for number in self.numbers if number in unread or bytes_weight(rows[number]) > EDIT_WEIGHT}
        if left:
            self._forget_all_but(frozenset(self.numbers) - left)
        return left

    def _forget_all_but(self, kept: Collection[int]) -> None:
        self._won_over = {number: rivals for number, rivals in self._won_over.items() if number in kept}
        self._lost_to = {number: stored for number, stored in self._lost_to.items() if number in kept}

    def record(self, numbers: Iterable[int], records: Sequence[Record], wall_ms: int) -> int:
        """Record what these changes have won and lost; return how many records were made.

        `records` are the values of all rows of the group before the changes.
        """
        losses: list[LostTo] = []
        for number in numbers:
            if number in self._lost_to:
                losses += self._lost(number, records[number])
            elif number in self._won_over:
                losses += self._won(number, records[number])
        return record_conflicts(self._table, losses, wall_ms) if losses else 0

    def _won(self, number: int, record: Record) -> Iterable[LostTo]:
        """Yield what a change has overwritten and its writer had not seen."""
        group, columns = self._group, self._table.columns
        stamp = group.hlcs[number], group.site
        won = dict(zip(group.columns, group.rows[number], strict=True))
        before = dict(zip(columns.local, record, strict=True))
        for stored, cells in sorted(self._won_over[number], key=lambda rival: rival[0][:2]):
            lost = {name: before[name] for name in columns.names_of(cells) if not same(won[name], before[name])}
            if lost:
                yield self._loser(number, lost, (stored[1], self._table.store.site(stored[0]))), stamp, won

    def _lost(self, number: int, record: Record) -> Iterable[LostTo]:
        """Yield what a change has lost to a later entry whose writer had not seen it."""
        group, columns, site = self._group, self._table.columns, self._table.store.site
        stored = self._lost_to[number]
        if site(stored[0]) == group.site:
            return
        own, seen = self._table.store.site_number(group.site), 0
        for mask, origin, upto in decode_prior(stored[5]):
            if origin == own and upto >= group.hlcs[number]:
                seen |= -1 if mask is None else mask
        shown = dict(zip(columns.local, record, strict=True))
        lost = {
            name: value
            for name, value in zip(group.columns, group.rows[number], strict=True)
            if not seen >> columns.bits[name] & 1 and not same(shown[name], value)
        }
        if lost:
            yield self._loser(number, lost, (group.hlcs[number], group.site)), (stored[1], site(stored[0])), shown

    def _loser(self, number: int, lost: dict[str, Any], stamp: tuple[int, bytes]) -> Loser:
        return Loser(self._keys[number], lost, stamp, dead=False)
