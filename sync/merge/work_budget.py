"""Limit on the work that one transaction does with received changes, which keeps the write lock short (ADR 0012).

Work is counted and not timed, because a replay has to cut at the same places. The unit is one new row that a bulk insert takes,
some 3 us. The other weights are measured multiples of it (`python -m tests.sync.lock_holds`).

Invariant: a budget that has any room lets at least one change in, so every batch ends.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

__all__ = [
    "CELLS_A_UNIT",
    "CELLS_NEW_A_UNIT",
    "CHUNK_BYTES_MAX",
    "CHUNK_ROWS_MAX",
    "COLUMN_WEIGHT",
    "CONFLICT_WEIGHT",
    "EDIT_WEIGHT",
    "ENTRY_WEIGHT",
    "FACT_WEIGHT",
    "GROUP_WEIGHT",
    "ID_WEIGHT",
    "KEY_WEIGHT",
    "LONG_KEY_BYTES",
    "LOOK_WEIGHT",
    "MANY_CONFLICTS_WEIGHT",
    "MANY_PARKED_WEIGHT",
    "PARK_WEIGHT",
    "PLAIN_EDIT_WEIGHT",
    "PRIOR_BYTES",
    "RANGE_WEIGHT",
    "SECTION_WEIGHT",
    "TABLES_COUNTED",
    "TABLES_DOUBLING",
    "TRANSACTION_WEIGHT_MAX",
    "WorkBudget",
    "bytes_weight",
    "bytes_weight_of",
    "fact_weight",
    "size_of",
]

# One chunk: so many new rows hold the write lock some 7 ms, here and where they are merged. A slow core may take five times that.
CHUNK_ROWS_MAX = 2_048
CHUNK_BYTES_MAX = 1 << 20
# An update or a delete that is looked up on its own: 12 times the work of a new row in a drain, 20 to 30 times in a merge.
EDIT_WEIGHT = 32
PLAIN_EDIT_WEIGHT = 3  # one that is looked up with many others
LOOK_WEIGHT = 1  # of that, what looking it up takes
# A batch of an honest node is one chunk at its writer. Where each of its edits loses, or is refused here, it costs three.
TRANSACTION_WEIGHT_MAX = 3 * CHUNK_ROWS_MAX
CONFLICT_WEIGHT = 16
MANY_CONFLICTS_WEIGHT = 8  # each of those that are recorded at once
MANY_PARKED_WEIGHT = 8  # each of the new rows that are parked at once
# A refused row is tried, the rows in its way are looked up, its values are held, and the refusal is recorded.
PARK_WEIGHT = 48
# In a table that keeps both rows of one id, a row is written in a savepoint and its rivals are read.
ID_WEIGHT = 96
ENTRY_WEIGHT = 2  # each entry of the row is read and joined
CELLS_A_UNIT = 2  # of a change that is merged alone, and of its row
CELLS_NEW_A_UNIT = 32  # of a new row
PRIOR_BYTES = 8  # a unit of the stamps that a change overwrote
GROUP_WEIGHT = 32  # a group has statements, masks and key forms of its own
SECTION_WEIGHT = 80  # a table has a vector and change log sums of its own
RANGE_WEIGHT = 4
# A fact may create a table: some 3 ms. Each transaction with facts makes a pass over the schema too, so one takes several.
FACT_WEIGHT = TRANSACTION_WEIGHT_MAX // 5
# So many tables make a fact cost twice as much: SQLite reads its catalogue for each statement that makes a table or trigger, and
# a pass looks at each.
TABLES_DOUBLING = 100
# More tables do not count: a pass over them takes longer than its facts, and with one fact a pass 500 tables took 1.6 times as
# long. So a transaction follows two facts at least.
TABLES_COUNTED = 150
COLUMN_WEIGHT = 8  # each column of a table that a fact creates: some 60 us
# Bytes of values for one byte of a key: it is in the row, in indexes of the table and of the change log, and in each record.
KEY_WEIGHT = 16
LONG_KEY_BYTES = 1_024  # of a key, beyond which it is weighed
_UNIT_BYTES = 512  # writing and hashing a large value takes 2 to 4 us a KiB


class WorkBudget:
    """Room for work in one transaction, in new rows."""

    __slots__ = ("room",)

    def __init__(self, room: int = TRANSACTION_WEIGHT_MAX) -> None:
        self.room = room

    def spend(self, weight: int) -> None:
        """Take work off the room; the last piece of work may exceed it."""
        self.room -= weight

    @property
    def spent(self) -> bool:
        """True if no more work fits in."""
        return self.room <= 0


def fact_weight(values: Collection[Any], tables: int = 0) -> int:
    """Return the weight of a fact: the table that it may create beside so many others, and its columns."""
    return FACT_WEIGHT * (TABLES_DOUBLING + min(tables, TABLES_COUNTED)) // TABLES_DOUBLING + COLUMN_WEIGHT * sum(
        value.count(",") for value in values if isinstance(value, str)
    )


def bytes_weight(values: Collection[Any]) -> int:
    """Return the weight of the bytes in these values, 0 for a few small ones."""
    return bytes_weight_of(size_of(values))


def size_of(values: Collection[Any]) -> int:
    """Return about how many bytes these values take."""
    size = 0
    for value in values:
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, list):  # text that is not UTF-8
            size += len(value[0])
    return size + 8 * len(values)


def bytes_weight_of(size: int) -> int:
    """Return the weight of so many bytes, rounded: many rows of 1,000 bytes would else weigh half."""
    return (size + _UNIT_BYTES // 2) // _UNIT_BYTES
