"""Many rows of one table with their entries and values, read and written with one statement for all of them.

Drain and merge use it for plain rows: visible ones, whose entries have no held values and integer masks, and lose cells only to
a newer stamp. Other rows take the way of `row_view`, one by one.

Invariant: the change log and the user's table are the same as if each row had been written alone
(tests/sync/merge/test_bulk_edit.py).
"""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.insert_runs import InsertRun, RunPart, StoredEntry
from mycomesh.sync.storage.row_codec import encode_rows
from mycomesh.sync.storage.table import Table, insert_key
from mycomesh.sync.storage.user_table import key_values

__all__ = ["Lost", "Record", "Taken", "cells_of", "digests_of", "encode_cells", "read_records", "unchanged_rows"]

# An entry in no run that loses cells, the mask that it keeps (0 if it goes), and the number of its row in the batch.
Lost = tuple[StoredEntry, int, int]
_BLOCK = 128
Record = tuple[Any, ...]


def read_records(table: Table, rows: Sequence[Row], bytes_max: int) -> tuple[dict[Row, tuple[Any, ...]], int, int]:
    """Return the values of the first of some rows as tuples, how many rows that are, and the bytes of the values.

    A row that makes more than `bytes_max` bytes with those before it is left out, and those behind it. A row that is not in the
    table has no tuple.

    Raises:
        UnicodeDecodeError: some text is not UTF-8.
    """
    found: dict[Row, tuple[Any, ...]] = {}
    size = 0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for record in table.rows.records(block):
            more = sum(map(sys.getsizeof, record))
            if size + more > bytes_max:
                return found, start + block.index(record[0]), size
            size += more
            found[record[0]] = record[1:]
    return found, len(rows), size


def encode_cells(columns: int, rows: Sequence[Sequence[Any]]) -> list[bytes]:
    """Return each row of so many values as an encoded array."""
    return encode_rows(rows) if columns else [b"\x80"] * len(rows)


class Taken:
    """The cells that the edits of a batch take from earlier entries, in runs and in none."""

    __slots__ = ("_packed", "lost")

    def __init__(self) -> None:
        self.lost: list[Lost] = []
        # By run and the mask that it keeps: the numbers of rows in the batch.
        self._packed: dict[tuple[int, int], tuple[InsertRun, list[int]]] = {}

    def take_packed(self, run: InsertRun, left: int, number: int) -> None:
        """Take all but `left` from the run's entry of the row with that number in the batch."""
        found = self._packed.get((run.seq, left))
        if found is None:
            found = self._packed[run.seq, left] = run, []
        found[1].append(number)

    def take_run(self, run: InsertRun, left: int, numbers: Sequence[int]) -> None:
        """Take all but `left` from the run's entries of the rows with these numbers, as `take_packed` does for one."""
        self._packed.setdefault((run.seq, left), (run, []))[1].extend(numbers)

    def supersede(
        self, table: Table, keys: Sequence[Any], rows: Sequence[Row], records: Sequence[Record]
    ) -> list[tuple[InsertRun, RunPart]]:
        """Remove entries that keep nothing, and give the others the masks that they keep, with new digests.

        `keys`, `rows` and `records` are those of the batch; the records as they are before the rows are written. Returns what
        the caller passes to `ChangeLog.reshape`, once for all edits of these runs.
        """
        table.log.remove_plain([stored for stored, left, _ in self.lost if not left])
        for items, digests in digests_of(table, [item for item in self.lost if item[1]], keys, records):
            table.log.replace_plain(
                [stored for stored, _, _ in items],
                [
                    (stored[0], stored[1], stored[2], left, digest, stored[5])
                    for (stored, left, _), digest in zip(items, digests, strict=True)
                ],
            )
        parts: list[tuple[InsertRun, RunPart]] = []
        for (_, left), (run, numbers) in self._packed.items():
            numbers.sort(key=rows.__getitem__)
            places = [rows[number] - run.row for number in numbers]  # type: ignore[operator]
            changed = [0] * len(numbers)
            if left:
                cells = _encoded(table, left, [records[number] for number in numbers])
                hlcs = [run.hlc + place for place in places]
                heads = None if _is_own_key(table, left) else [keys[number] for number in numbers]
                changed = table.digests.many(run.site_number, left, hlcs, heads, cells)
            parts.append((run, (places, left, changed)))
        return parts


def digests_of(
    table: Table, entries: Sequence[Lost], keys: Sequence[Any], records: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[list[Lost], list[int]]]:
    """Yield entries with the digests that they have with the masks beside them, those of one site and mask together."""
    groups: dict[tuple[int, int], list[Lost]] = {}
    for entry in entries:
        groups.setdefault((entry[0][0], entry[1]), []).append(entry)
    for (site_number, mask), items in groups.items():
        cells = _encoded(table, mask, [records[number] for _, _, number in items])
        heads = None if _is_own_key(table, mask) else [keys[number] for _, _, number in items]
        yield items, table.digests.many(site_number, mask, [stored[1] for stored, _, _ in items], heads, cells)


def unchanged_rows(table: Table, rows: Sequence[Row], bytes_max: int) -> frozenset[Row]:
    """Return those of different rows of the user's table whose values have the digests of their entries.

    Others may be as their entries say too: rows with held values, counters, own ids, columns that are not here or values beyond
    `bytes_max` bytes need a look each (`row_view.differing`).
    """
    if table.columns.counters or table.spec.id_column:
        return frozenset()
    if table.spec.kind is KeyKind.KEYED:  # one with a NULL in its key is named by its rowid
        rows = [row for row in rows if isinstance(row, bytes)]
        if list in set(map(type, itertools.chain.from_iterable(key_values(rows)))):
            return frozenset()
    try:
        found, done, _ = read_records(table, rows, bytes_max)
    except UnicodeDecodeError:
        return frozenset()
    rows = [row for row in rows[:done] if row in found]
    by_row, runs = table.log.entries_and_runs(rows)
    held = table.held.among(itertools.chain.from_iterable(by_row.values()))
    foreign, site = ~(table.columns.local_mask | EXISTENCE), table.store.site
    keyless = table.spec.kind is KeyKind.KEYLESS
    entries: list[Lost] = []
    keys: list[Any] = []
    unsure: set[int] = set()
    for number, (row, run) in enumerate(zip(rows, runs, strict=True)):
        key: Any = None
        packed = [] if run is None else [run.entry(row - run.row)]  # type: ignore[operator]
        for stored in (*packed, *by_row.get(row, ())):
            owned = stored[3]
            if type(owned) is not int or not owned or owned & foreign or (held and stored[:2] in held):
                key = None
                break
            if owned & EXISTENCE:
                key = insert_key(site(stored[0]), stored[1]) if keyless else row
            entries.append((stored, owned, number))
        if key is None:
            unsure.add(number)
        keys.append(key)
    for items, digests in digests_of(
        table, [entry for entry in entries if entry[2] not in unsure], keys, [found[row] for row in rows]
    ):
        unsure.update(number for (stored, _, number), digest in zip(items, digests, strict=True) if digest != stored[4])
    return frozenset(row for number, row in enumerate(rows) if number not in unsure)


def _encoded(table: Table, mask: int, records: Sequence[Record]) -> list[bytes]:
    return encode_cells(len(table.columns.names_of(mask)), cells_of(table, mask, records))


def _is_own_key(table: Table, mask: int) -> bool:
    """Return True if an entry of this mask is the insert that identifies its row."""
    return mask & EXISTENCE != 0 and table.spec.kind is KeyKind.KEYLESS


def cells_of(
    table: Table, mask: int, records: Sequence[tuple[Any, ...]], more: Sequence[str] = ()
) -> list[Sequence[Any]]:
    """Return the cells of a mask of each record, in wire order.

    A record has the values of all columns of the table, and after them those of the columns `more`.
    """
    places = {name: number for number, name in enumerate((*table.columns.local, *more))}
    numbers = [places[name] for name in table.columns.names_of(mask)]
    if records and numbers == [*range(len(records[0]))]:
        return list(records)
    if len(numbers) > 1:
        return list(map(operator.itemgetter(*numbers), records))
    return [[record[number] for number in numbers] for record in records]
