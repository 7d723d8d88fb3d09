"""Many rows of one table with their entries and values, read and written with one statement for all of them.

Drain and merge use it for plain rows: visible ones, whose entries have no held values and integer masks, and lose cells only to
a newer stamp. Other rows take the way of `row_view`, one by one.

Invariant: the change log and the user's table are the same as if each row had been written alone
(tests/sync/merge/test_bulk_edit.py).
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.insert_runs import InsertRun, RunPart, StoredEntry
from mycomesh.sync.storage.row_codec import encode_rows
from mycomesh.sync.storage.table import Table

__all__ = ["Lost", "Record", "Taken", "cells_of", "digests_of", "encode_cells", "read_records"]

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
