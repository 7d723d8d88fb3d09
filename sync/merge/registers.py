"""The registers of many rows' counters at once, as the fast paths of drain and merge read and write them.

Invariant: they are those that `counters` finds for each row alone (tests/sync/merge/test_registers.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mycomesh.sync.merge.counters import default_base, number_of, share_column, wrapped
from mycomesh.sync.merge.work_budget import EDIT_WEIGHT, WorkBudget
from mycomesh.sync.storage.insert_runs import InsertRun, StoredEntry
from mycomesh.sync.storage.row_batch import Record
from mycomesh.sync.storage.row_view import LEAST
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group

__all__ = ["Registers", "learn_columns", "share_mask", "shares_among"]

_UNREAD = object()
# Of held values with the same names: their mask, the places of bases and where these go, the places of shares with the sums of
# their counters and where these go, and whether all are registers.
_Kind = tuple[int, list[tuple[int, list[Any]]], list[tuple[int, list[int], dict[int, int]]], bool]


def learn_columns(table: Table, group: Group, budget: WorkBudget) -> None:
    """Give bits to the columns of a received group that this file does not know yet: shares, and columns added elsewhere."""
    known = len(table.columns.bits)
    table.columns.learn(group.columns)
    if len(table.columns.bits) > known:  # all columns are written again
        budget.spend(2 * EDIT_WEIGHT + len(table.columns.bits) // 2)


def shares_among(table: Table, names: Iterable[str]) -> list[str]:
    """Return those of some columns that are shares of the table's counters."""
    counters = table.columns.counters
    return [name for name in names if share_column(name) in counters] if counters else []


def share_mask(table: Table) -> int:
    """Return the columns that are shares of the table's counters."""
    return table.columns.mask_of(shares_among(table, table.columns.bits))


class Registers:
    """The bases and shares of the counters of visible rows, which go by their numbers in a batch.

    `other` are the rows that need a look each: a base is not held yet, or is no integer, or values of other columns are held.
    """

    def __init__(
        self,
        table: Table,
        rows: Sequence[Any],
        stored_entries: Sequence[StoredEntry],
        runs: Iterable[tuple[InsertRun, Sequence[int]]],
    ) -> None:
        columns = table.columns
        self._table = table
        self._counters = [name for name in columns.local if name in columns.counters]
        self._mask = columns.mask_of(self._counters)
        self._bases: dict[str, list[Any]] = {name: [_UNREAD] * len(rows) for name in self._counters}
        self._sums: dict[str, list[int]] = {name: [0] * len(rows) for name in self._counters}
        self._shares: dict[str, dict[int, int]] = {}
        self.other: set[int] = set()
        self.holders: set[tuple[int, int]] = set()  # the stamps of entries with held values
        for run, numbers in runs:
            if type(run.mask) is not int or run.mask & self._mask:
                self.other.update(numbers)
        self._read(stored_entries, dict(zip(rows, itertools.count())))
        for name, bases in self._bases.items():
            default = default_base(table, name)
            found = self._bases[name] = [default if base is _UNREAD else base for base in bases]
            if set(map(type, found)) != {int}:
                self.other.update(number for number, base in enumerate(found) if type(base) is not int)

    def _read(self, stored_entries: Sequence[StoredEntry], places: Mapping[Any, int]) -> None:
        numbers = [places[stored[2]] for stored in stored_entries]
        owned = [stored[3] & self._mask if type(stored[3]) is int else -1 for stored in stored_entries]
        for names, entries, values in self._table.held.read_many(stored_entries):
            held, bases, shares, known = self._kind(names)
            rows, columns = [numbers[at] for at in entries], list(zip(*values, strict=True))
            for at in entries:
                owned[at] &= ~held
            self.holders.update(stored_entries[at][:2] for at in entries)
            if not known:
                self.other.update(rows)
            for place, cells in bases:
                for number, value in zip(rows, columns[place], strict=True):
                    cells[number] = value
            for place, sums, own in shares:
                column = list(map(number_of, columns[place]))
                own.update(zip(rows, column, strict=True))
                for number, value in zip(rows, column, strict=True):
                    sums[number] += value
        self.other.update(itertools.compress(numbers, owned))  # a base is not held, or the mask has many bits

    def _kind(self, names: Sequence[str]) -> _Kind:
        """Return the registers among the held values with these names."""
        bases, shares = [], []
        for place, name in enumerate(names):
            column = share_column(name)
            if name in self._bases:
                bases.append((place, self._bases[name]))
            elif column in self._sums:
                shares.append((place, self._sums[column], self._shares.setdefault(name, {})))
        return self._table.columns.mask_of(names), bases, shares, len(bases) + len(shares) == len(names)

    def with_bases(self, records: Sequence[Record]) -> list[Record]:
        """Return rows' values with the bases in place of the totals, which is what their entries own."""
        columns = list(zip(*records, strict=True))
        for place, name in enumerate(self._table.columns.local):
            if name in self._bases:
                columns[place] = tuple(self._bases[name])
        return list(zip(*columns, strict=True))

    def with_base(self, number: int, record: Record) -> Record:
        """Return one row's values, as `with_bases` does."""
        bases = self._bases
        names = self._table.columns.local
        return tuple([bases[name][number] if name in bases else cell for name, cell in zip(names, record, strict=True)])

    def counted(self, counter: str, share: str, cells: Sequence[Any]) -> list[int] | None:
        """Return the values of a share after cells have got these totals.

        None if not every cell has become another integer, or if none has: then the list is empty.
        """
        if set(map(type, cells)) != {int}:
            return None
        own = self._shares.get(share, {})
        totals = map(int.__add__, self._bases[counter], self._sums[counter])
        deltas = list(map(int.__sub__, cells, _wrapped_all(list(totals))))
        if not any(deltas):
            return []
        if not all(deltas):
            return None
        return _wrapped_all([own.get(number, 0) + delta for number, delta in enumerate(deltas)])

    def totals(self, share: str, numbers: Sequence[int], values: Sequence[Any]) -> list[int]:
        """Return what the cells of rows with these numbers show once a share has these values."""
        counter = share_column(share) or ""
        bases, sums, own = self._bases[counter], self._sums[counter], self._shares.get(share, {})
        added = map(number_of, values)
        return _wrapped_all(
            [
                bases[number] + sums[number] - own.get(number, 0) + value
                for number, value in zip(numbers, added, strict=True)
            ]
        )


def _wrapped_all(sums: list[int]) -> list[int]:
    """Return the totals of many cells, without a call for each where none needs to wrap."""
    if not sums or (min(sums) >= LEAST and max(sums) < -LEAST):
        return sums
    return list(map(wrapped, sums))
