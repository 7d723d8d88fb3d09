"""Fastest path of the drain: stamps a chunk whose log records all say the same, each of another row.

Chunks of telemetry often do: one statement, or many alike, changed the same columns of many rows, and the entries that lose
cells are this file's own. Such a chunk is handled without an object for each row. Any other is left to `drain_edits` and `drain`,
with nothing done.

Invariant: the changes and the change log are the same as if each row had been stamped alone
(tests/sync/capture/test_drain_edits.py). ADR 0044.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from mycomesh.sync.capture.drain_edits import Edits, Groups, enter_edits, note_restored_by
from mycomesh.sync.capture.pending_rows import pending_sql
from mycomesh.sync.capture.stamps import Chunk, Times, stamps_of
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.counters import share_name
from mycomesh.sync.merge.registers import Registers, share_mask
from mycomesh.sync.merge.work_budget import CHUNK_BYTES_MAX, PLAIN_EDIT_WEIGHT
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_keys
from mycomesh.sync.storage.insert_runs import InsertRun, StoredEntry
from mycomesh.sync.storage.pending_log import OP_DELETE, key_names, word_names
from mycomesh.sync.storage.row_batch import Lost, Record, Taken, digests_of
from mycomesh.sync.storage.row_view import LEAST, Priors
from mycomesh.sync.storage.table import Table, insert_key

__all__ = ["stamp_uniform"]

# The first blocks that are read are small, so that little is read in vain if the values are large.
_BLOCK_MIN, _BLOCK_MAX = 2, 64
_FIRST_KEY = 3  # of a record with one mask word


def stamp_uniform(chunk: Chunk, times: Times, budget: int, groups: Groups) -> tuple[int, bool, int] | None:
    """Stamp one chunk of the pending log and append its changes to `groups`.

    Returns (last log rowid, whether more records follow, weight), or None, with nothing done, if the chunk needs another path.
    """
    table = chunk.table
    columns = table.columns
    if table.spec.id_column or columns.local_mask & ~columns.captured_mask:
        return None
    most = -(-budget // PLAIN_EDIT_WEIGHT)
    records = _read(table, most + 1)
    more = len(records) > most
    del records[most:]
    names = _names(table, records)
    if len(set(names)) < max(1, len(records)):
        return None
    what = records[0][2]
    dead = what == OP_DELETE
    first_value = _FIRST_KEY + len(key_names(table.spec)) + 1
    values: list[tuple[Any, ...]] = [()] * len(records) if dead else [record[first_value:] for record in records]
    mask = EXISTENCE if dead else what & columns.local_mask
    # A number may have been replaced by an equal one of another type: `drain_edits` looks for that in all columns.
    if not mask or (not dead and LEAST in itertools.chain.from_iterable(values)):
        return None
    stored_entries, runs = table.log.entries_in_order(names)
    counts = None
    if columns.counters:
        counts = None if dead else _count(chunk, mask, values, Registers(table, names, stored_entries, runs))
        if counts is None:
            return None
        mask, values = counts.mask, counts.records
    elif table.held.among(stored_entries):
        return None
    found = _Found(chunk, mask, names)
    if not mask or not found.take(stored_entries, runs):
        return None
    keys = found.keys(values)
    if keys is None:
        return None
    hlcs = stamps_of(chunk.site, times, [record[1] for record in records], what)
    edits = Edits(mask, names, keys, hlcs, values, found.priors(), found.taken, counts.shares if counts else ())
    parts = enter_edits(chunk, edits, groups)
    if counts is not None:
        counts.hold(chunk, found.taken.lost, hlcs)
    table.log.reshape(parts)
    note_restored_by(table, groups)
    return records[-1][0], more, PLAIN_EDIT_WEIGHT * len(records)


@dataclass(slots=True)
class _Counts:
    """An update of counters as its registers: what it owns, and the rows' values with bases for totals and with its shares."""

    mask: int
    records: list[Record]
    shares: tuple[str, ...]
    registers: Registers

    def hold(self, chunk: Chunk, lost: Sequence[Lost], hlcs: Sequence[int]) -> None:
        """Hold the shares of the stamped changes, in place of those that they overwrote."""
        held = chunk.table.held
        held.remove_many([stored[:2] for stored, left, _ in lost if not left and stored[:2] in self.registers.holders])
        if self.shares:
            number, first = chunk.site.site_number, -len(self.shares)
            held.write_many(
                self.shares, [(number, hlc, record[first:]) for hlc, record in zip(hlcs, self.records, strict=True)]
            )


def _count(chunk: Chunk, mask: int, values: Sequence[Record], registers: Registers) -> _Counts | None:
    """Turn an update into registers, as `update_registers` does for one row; None if some row needs a look of its own."""
    table = chunk.table
    if registers.other:
        return None
    site, columns = table.store.site(chunk.site.site_number), table.columns
    shares: dict[str, list[int]] = {}
    for place, counter in enumerate(columns.local):
        if counter in columns.counters:
            name = share_name(counter, site)
            found = registers.counted(counter, name, [record[place] for record in values])
            if found is None:
                return None
            if found:
                shares[name] = found
            mask &= ~(1 << columns.bits[counter])
    columns.learn(list(shares))
    records = [(*record, *own) for record, *own in zip(registers.with_bases(values), *shares.values(), strict=True)]
    return _Counts(mask | columns.mask_of(list(shares)), records, tuple(shares), registers)


def _read(table: Table, most: int) -> list[tuple[Any, ...]]:
    """Return the first log records with the values of their rows; none if they do not say the same or are large."""
    words = word_names(table.columns.captured)
    if len(words) > 1:
        return []
    present = _FIRST_KEY + len(key_names(table.spec))
    records: list[tuple[Any, ...]] = []
    kinds: set[tuple[Any, ...]] = set()
    size, block = 0, _BLOCK_MIN
    try:
        cursor = table.store.db.execute(pending_sql(table, words, raw=False), (most,))
        while part := list(itertools.islice(cursor, block)):
            # `at` is a number where no trigger wrote the record.
            kinds.update([(record[2], record[present], type(record[1]) is int) for record in part])
            size += sum(map(getsizeof, itertools.chain.from_iterable(part)))
            if len(kinds) > 1 or size > CHUNK_BYTES_MAX:
                return []
            records += part
            block = min(2 * block, _BLOCK_MAX)
    except UnicodeDecodeError:
        return []
    if not records:
        return []
    ((what, there, written),) = kinds
    alike = what == OP_DELETE if there is None else what > 0
    return records if alike and not written else []


def _names(table: Table, records: Sequence[tuple[Any, ...]]) -> list[Row]:
    """Return the names of the rows; none if a key has a NULL, so that its row is named by its rowid."""
    if table.spec.kind is not KeyKind.KEYED:
        return [record[_FIRST_KEY] for record in records]
    keys = [record[_FIRST_KEY : _FIRST_KEY + len(table.spec.key)] for record in records]
    return [] if None in itertools.chain.from_iterable(keys) else list(encode_keys(table.spec, keys))


class _Found:
    """The entries of the rows of a chunk, as its edits find them."""

    def __init__(self, chunk: Chunk, mask: int, names: Sequence[Row]) -> None:
        columns = chunk.table.columns
        self._table = chunk.table
        self._names, self._own, self._last = names, chunk.site.site_number, chunk.site.clock.last
        self._mask = -1 if mask == EXISTENCE else mask  # of the cells that the edits take
        self._shares = share_mask(chunk.table)
        self._foreign = ~(columns.local_mask | EXISTENCE | self._shares)
        # Columns that keep equal numbers of two types apart, the only change that no trigger sees.
        self._loose = 0 if mask == EXISTENCE else columns.loose_mask
        self.taken = Taken()
        self._inserts: list[Any] = [None] * len(names)  # the stamps of the entries that own the rows' existence
        self._entries: tuple[Sequence[StoredEntry], Sequence[tuple[InsertRun, Sequence[int]]]] = (), ()
        # The changes that overwrite a cell of another site, or one whose writer had seen some: they have priors.
        self._seen: set[int] = set()
        self._unowned = [self._loose] * len(names) if self._loose else []
        self._doubts: list[
            Lost
        ] = []  # entries that lose nothing and whose digests show whether a number has another type

    def take(self, stored_entries: Sequence[StoredEntry], runs: Sequence[tuple[InsertRun, Sequence[int]]]) -> bool:
        """Take cells from the entries; return False if some entry is not plain."""
        self._entries = stored_entries, runs
        return self._take_runs(runs) and self._take_entries(stored_entries)

    def _take_runs(self, runs: Iterable[tuple[InsertRun, Sequence[int]]]) -> bool:
        names, loose = self._names, self._loose
        for run, numbers in runs:
            shift, owned = run.hlc - run.row, run.mask
            if type(owned) is not int or owned & self._foreign or run.hlc + run.n > self._last + 1:
                return False
            cells = owned & self._mask
            if cells:
                if run.site_number != self._own:
                    self._seen.update(numbers)
                self.taken.take_run(run, owned ^ cells, numbers)
            for number in numbers:
                self._inserts[number] = run.site_number, names[number] + shift  # type: ignore[operator]
            if loose:
                for number in numbers:
                    self._unowned[number] &= ~owned
                if owned & loose and not cells:
                    self._doubts += [(run.entry(names[number] - run.row), owned, number) for number in numbers]  # type: ignore[operator]
        return True

    def _take_entries(self, stored_entries: Sequence[StoredEntry]) -> bool:
        places = dict(zip(self._names, itertools.count())) if stored_entries else {}
        own, foreign, last, mask, loose = self._own, self._foreign, self._last, self._mask, self._loose
        for stored in stored_entries:
            place, hlc, row, owned, _, prior = stored
            if type(owned) is not int or not owned or owned & foreign or hlc > last:
                return False
            number = places[row]
            if owned & EXISTENCE:
                self._inserts[number] = place, hlc
            cells = owned & mask
            if cells:
                if owned != cells and owned & self._shares:  # what the entry holds has to be written again
                    return False
                if place != own or prior is not None:
                    self._seen.add(number)
                self.taken.lost.append((stored, owned ^ cells, number))
            if loose:
                self._unowned[number] &= ~owned
                if owned & loose and not cells:
                    self._doubts.append((stored, owned, number))
        return True

    def priors(self) -> list[bytes | None]:
        """Return the prior of each change."""
        priors: list[bytes | None] = [None] * len(self._names)
        if not self._seen:
            return priors
        found: dict[int, list[StoredEntry]] = {number: [] for number in sorted(self._seen)}
        stored_entries, runs = self._entries
        for run, numbers in runs:
            for number in numbers:
                if number in found:
                    row = self._names[number]
                    found[number].append((run.site_number, run.hlc + row - run.row, row, run.mask, 0, None))  # type: ignore[operator]
        places = dict(zip(self._names, itertools.count()))
        for stored in stored_entries:
            number = places[stored[2]]
            if number in found:
                found[number].append(stored)
        stamped = Priors(self._table, self._own, EXISTENCE if self._mask == -1 else self._mask)
        for number, entries in found.items():
            priors[number] = stamped.of(self._names[number], entries)
        return priors

    def keys(self, records: Sequence[Record]) -> list[Any] | None:
        """Return the keys of the rows, or None if one is not there or a number in it has another type."""
        table, names = self._table, self._names
        if None in self._inserts or any(self._unowned):
            return None
        keys: list[Any] = list(names)
        if table.spec.kind is KeyKind.KEYLESS:
            sites = {place: table.store.site(place) for place in {place for place, _ in self._inserts}}
            keys = [insert_key(sites[place], hlc) for place, hlc in self._inserts]
        for items, digests in digests_of(table, self._doubts, keys, records):
            if digests != [stored[4] for stored, _, _ in items]:
                return None
        return keys
