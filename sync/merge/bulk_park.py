"""Parks many new rows that constraints of the user's table refuse, with one statement for each kind of look and write.

A refused row gives way if some row in its way claimed its UNIQUE values earlier, or if none is in its way. Where all rows in its
way have later claims they give way instead, which `merge` does row by row.

Invariant: the tables, the change log, the held values and the records are the same as if each row had been merged alone
(tests/sync/merge/test_bulk_insert.py). ADR 0085.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.records import park_many
from mycomesh.sync.merge.unique_claims import giving_way
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import pack_mask
from mycomesh.sync.storage.row_codec import encode_rows
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group

__all__ = ["park_new_rows"]

_SLICE = 64  # rows between two looks at whether their writer has too many
_SMALL = 16 << 10  # bytes of a row


def park_new_rows(
    table: Table, group: Group, site_number: int, keys: Sequence[Any], refused: Mapping[int, str]
) -> list[int]:
    """Park those inserts of a group that give way; return the numbers of these.

    `refused` are SQLite's messages by the number of the insert, ascending; none of the rows has an entry. Inside a transaction.
    """
    if table.spec.id_column or table.columns.counters:
        return []
    encoded = dict(zip(refused, encode_rows([group.rows[number] for number in refused]), strict=True))
    # The text of a large row takes long to make: it is for a transaction of its own.
    wanted = {number: keys[number] for number in refused if len(encoded[number]) <= _SMALL}
    hidden = _hidden(table, list(wanted.values()))
    giving = giving_way(table, group, [number for number, key in wanted.items() if key in hidden])
    done: list[int] = []
    for at in range(0, len(giving), _SLICE):
        table.log.flush()  # it counts the entries in the file
        if table.store.parked_room.is_full(table.table_id, group.site):
            break
        part = giving[at : at + _SLICE]
        _park(table, group, site_number, [(keys[number], encoded[number], number) for number in part])
        park_many(
            table,
            [keys[number] for number in part],
            [refused[number] for number in part],
            group.columns,
            [group.rows[number] for number in part],
            table.store.clock.last >> 16,
        )
        done += part
    return done


def _hidden(table: Table, keys: Sequence[Any]) -> set[Any]:
    """Return those keys under which the user's table has no row; none if a row cannot be read."""
    if table.spec.kind is KeyKind.KEYLESS:
        return set(keys)
    try:
        there = {record[0] for record in table.rows.records(keys)}
    except UnicodeDecodeError:
        return set()
    return {key for key in keys if key not in there}


def _park(table: Table, group: Group, site_number: int, rows: Sequence[tuple[Row, bytes, int]]) -> None:
    """Write the entries of rows, each with its encoded values and its number, and hold the values."""
    keys, encoded, numbers = zip(*rows, strict=True)
    hlcs = [group.hlcs[number] for number in numbers]
    mask = table.columns.mask_of(group.columns) | EXISTENCE
    heads = None if table.spec.kind is KeyKind.KEYLESS else list(keys)
    digests = table.digests.many(site_number, mask, hlcs, heads, list(encoded))
    table.log.add_inserts(site_number, hlcs, keys, pack_mask(mask), digests, packed=False)
    table.held.write_encoded(group.columns, [(site_number, hlc) for hlc in hlcs], encoded)
