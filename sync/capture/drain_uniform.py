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
from sys import getsizeof
from typing import Any

from mycomesh.sync.capture.drain_edits import Edits, Groups, enter_edits, note_restored_by
from mycomesh.sync.capture.pending_rows import pending_sql
from mycomesh.sync.capture.stamps import Chunk, Times, stamps_of
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.work_budget import CHUNK_BYTES_MAX, PLAIN_EDIT_WEIGHT
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_keys
from mycomesh.sync.storage.insert_runs import InsertRun, StoredEntry
from mycomesh.sync.storage.pending_log import OP_DELETE, key_names, word_names
from mycomesh.sync.storage.row_batch import Lost, Record, Taken, digests_of
from mycomesh.sync.storage.row_view import LEAST
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
    if table.spec.id_column or columns.counters or columns.local_mask & ~columns.captured_mask:
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
    retyped = not dead and LEAST in itertools.chain.from_iterable(values)
    found = None if retyped or not mask else _find(chunk, mask, names, values)
    if found is None:
        return None
    hlcs = stamps_of(chunk.site, times, [record[1] for record in records], what)
    edits = Edits(mask, names, found[0], hlcs, values, [None] * len(names), found[1])
    table.log.reshape(enter_edits(chunk, edits, groups))
    note_restored_by(table, groups)
    return records[-1][0], more, PLAIN_EDIT_WEIGHT * len(records)


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


def _find(chunk: Chunk, mask: int, names: Sequence[Row], values: Sequence[Record]) -> tuple[list[Any], Taken] | None:
    """Return (keys of the rows, what their edits of `mask` take), or None if some row is not plain or has priors."""
    table, own = chunk.table, chunk.site.site_number
    stored_entries, runs = table.log.entries_in_order(names)
    found = _Found(chunk, mask, names)
    if table.held.among(stored_entries) or not (found.take_runs(runs) and found.take_entries(stored_entries)):
        return None
    if None in found.inserts or any(found.unowned):
        return None
    keys: list[Any] = list(names)
    if table.spec.kind is KeyKind.KEYLESS:
        site = table.store.site(own)
        keys = [insert_key(site, hlc) for hlc in found.inserts]
    for items, digests in digests_of(table, found.doubts, keys, values):
        if digests != [stored[4] for stored, _, _ in items]:
            return None
    return keys, found.taken


class _Found:
    """The entries of the rows of a chunk, as its edits find them."""

    def __init__(self, chunk: Chunk, mask: int, names: Sequence[Row]) -> None:
        columns = chunk.table.columns
        self._names, self._own, self._last = names, chunk.site.site_number, chunk.site.clock.last
        self._mask = -1 if mask == EXISTENCE else mask  # of the cells that the edits take
        self._foreign = ~(columns.local_mask | EXISTENCE)
        # Columns that keep equal numbers of two types apart, the only change that no trigger sees.
        self._loose = 0 if mask == EXISTENCE else columns.loose_mask
        self.taken = Taken()
        self.inserts: list[Any] = [None] * len(names)  # the clocks of the entries that own the rows' existence
        self.unowned = [self._loose] * len(names) if self._loose else []
        self.doubts: list[
            Lost
        ] = []  # entries that lose nothing and whose digests show whether a number has another type

    def take_runs(self, runs: Iterable[tuple[InsertRun, Sequence[int]]]) -> bool:
        """Take cells from entries in runs; return False if some entry is not plain."""
        names, loose = self._names, self._loose
        for run, numbers in runs:
            shift, owned = run.hlc - run.row, run.mask
            if type(owned) is not int or owned & self._foreign or run.site_number != self._own:
                return False
            if run.hlc + run.n > self._last + 1:
                return False
            cells = owned & self._mask
            if cells:
                self.taken.take_run(run, owned ^ cells, numbers)
            for number in numbers:
                self.inserts[number] = names[number] + shift  # type: ignore[operator]
            if loose:
                for number in numbers:
                    self.unowned[number] &= ~owned
                if owned & loose and not cells:
                    self.doubts += [(run.entry(names[number] - run.row), owned, number) for number in numbers]  # type: ignore[operator]
        return True

    def take_entries(self, stored_entries: Sequence[StoredEntry]) -> bool:
        """Take cells from entries in no run; return as `take_runs`."""
        places = dict(zip(self._names, itertools.count())) if stored_entries else {}
        own, foreign, last, mask, loose = self._own, self._foreign, self._last, self._mask, self._loose
        for stored in stored_entries:
            place, hlc, row, owned, _, prior = stored
            if (
                type(owned) is not int
                or not owned
                or owned & foreign
                or place != own
                or prior is not None
                or hlc > last
            ):
                return False
            number = places[row]
            if owned & EXISTENCE:
                self.inserts[number] = hlc
            cells = owned & mask
            if cells:
                self.taken.lost.append((stored, owned ^ cells, number))
            if loose:
                self.unowned[number] &= ~owned
                if owned & loose and not cells:
                    self.doubts.append((stored, owned, number))
        return True
