"""Joins a batch of row names with a table in one statement, which takes a tenth of the time of one statement a row.

The names travel as one JSON array, since every SQLite from 3.38 on reads that. An array of C values would be little faster,
and not every build has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from mycomesh.sync.sqlite.table_spec import Row

__all__ = ["join_names", "join_numbers"]


def join_numbers(db: Any, columns: str, table: str, column: str, numbers: Sequence[int], where: str = "1") -> Any:
    """Return the cursor of `SELECT columns FROM table t`, for the rows `t` whose `column` is one of some different numbers.

    The rows come in the order of the numbers; those of one number come in no order.
    """
    listing = f"SELECT {columns} FROM json_each(?) k CROSS JOIN {table} t ON t.{column} = k.value WHERE {where}"
    return db.execute(listing, (json.dumps(numbers),))


def join_names(db: Any, columns: str, table: str, column: str, names: Sequence[Row]) -> Iterator[tuple[Any, ...]]:
    """Yield the result of `join_numbers` for names of rows, some of which may be bytes."""
    numbers = [name for name in names if isinstance(name, int)]
    if numbers:
        yield from join_numbers(db, columns, table, column, numbers)
    if len(numbers) < len(names):
        texts = json.dumps([name.hex() for name in names if isinstance(name, bytes)])
        listing = f"SELECT {columns} FROM json_each(?) k CROSS JOIN {table} t ON t.{column} = unhex(k.value)"
        yield from db.execute(listing, (texts,))
