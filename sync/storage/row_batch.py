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

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.table import Table

__all__ = ["Lost", "cells_of", "digests_of", "encode_cells", "read_records", "supersede"]

# An entry that loses cells, the mask that it keeps (0 if it goes), and the number of its row in the batch.
Lost = tuple[StoredEntry, int, int]
_BLOCK = 64


def read_records(table: Table, rows: Sequence[Row], bytes_max: int) -> tuple[dict[Row, tuple[Any, ...]], int, int]:
    """Return the values of the first of some rows as tuples, how many rows that are, and the bytes of the values.

    A block of rows that would make more than `bytes_max` bytes is left out, and those behind it. A row that is not in the table
    has no tuple.

    Raises:
        UnicodeDecodeError: some text is not UTF-8.
    """
    found: dict[Row, tuple[Any, ...]] = {}
    size = 0
    for start in range(0, len(rows), _BLOCK):
        block = list(table.rows.records(rows[start : start + _BLOCK]))
        size += sum(map(sys.getsizeof, itertools.chain.from_iterable(block)))
        if size > bytes_max:
            return found, start, size
        found.update((record[0], record[1:]) for record in block)
    return found, len(rows), size


def encode_cells(columns: int, rows: Sequence[Sequence[Any]]) -> list[bytes]:
    """Return each row of so many values as an encoded array."""
    encode = codec.encode
    if not columns:
        return [b"\x80"] * len(rows)
    if columns == 1:  # encoding an array takes four times as long as encoding a number
        return [b"\x81" + encode(value) for (value,) in rows]
    return list(map(encode, rows))


def supersede(table: Table, lost: Sequence[Lost], keys: Sequence[Any], records: Sequence[tuple[Any, ...]]) -> None:
    """Remove entries that keep nothing, and give the others the masks that they keep, with new digests.

    `keys` and `records` are those of the batch's rows, as `read_records` returns them before the rows are written.
    """
    table.log.remove_many([stored for stored, left, _ in lost if not left])
    for items, digests in digests_of(table, [item for item in lost if item[1]], keys, records):
        table.log.replace_many(
            [stored for stored, _, _ in items],
            [
                (stored[0], stored[1], stored[2], left, digest, stored[5])
                for (stored, left, _), digest in zip(items, digests, strict=True)
            ],
        )


def digests_of(
    table: Table, entries: Sequence[Lost], keys: Sequence[Any], records: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[list[Lost], list[int]]]:
    """Yield entries with the digests that they have with the masks beside them, those of one site and mask together."""
    groups: dict[tuple[int, int], list[Lost]] = {}
    for entry in entries:
        groups.setdefault((entry[0][0], entry[1]), []).append(entry)
    for (site_number, mask), items in groups.items():
        width = len(table.columns.names_of(mask))
        cells = encode_cells(width, cells_of(table, mask, [records[number] for _, _, number in items]))
        own = mask & EXISTENCE and table.spec.kind is KeyKind.KEYLESS  # the insert itself is the key
        heads = None if own else [keys[number] for _, _, number in items]
        yield items, table.digests.many(site_number, mask, [stored[1] for stored, _, _ in items], heads, cells)


def cells_of(table: Table, mask: int, records: Sequence[tuple[Any, ...]]) -> list[Sequence[Any]]:
    """Return the cells of a mask of each record, in wire order. A record has the values of all columns of the table."""
    places = {name: number for number, name in enumerate(table.columns.local)}
    numbers = [places[name] for name in table.columns.names_of(mask)]
    if numbers == [*range(len(places))]:
        return list(records)
    if len(numbers) > 1:
        return list(map(operator.itemgetter(*numbers), records))
    return [[record[number] for number in numbers] for record in records]
