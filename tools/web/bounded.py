"""Functions of SQL whose time grows with the product of their arguments' lengths, refused where that would take minutes.

SQLite looks at the clock between the steps of its machine, and not within a function: `instr` of two values of some megabytes
would hold a thread for hours. Each of these functions is still SQLite's own, called on a connection of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATTERN_BYTES_MAX", "PRODUCT_MAX", "bound"]

PRODUCT_MAX = 1 << 30  # of the lengths of the first two arguments: about a second
PATTERN_BYTES_MAX = 256  # of LIKE and GLOB, which also compare at each place
_FUNCTIONS = {"instr": 2, "replace": 3, "trim": 2, "ltrim": 2, "rtrim": 2, "unhex": 2}


def bound(db: apsw.Connection, value_bytes_max: int) -> None:
    """Bound the time of each function call of a connection."""
    db.limit(apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, PATTERN_BYTES_MAX)
    own = apsw.Connection(":memory:")
    own.limit(apsw.SQLITE_LIMIT_LENGTH, value_bytes_max)
    for name, count in _FUNCTIONS.items():
        db.create_scalar_function(
            name, _bounded(own, name, count), count, deterministic=True, flags=apsw.SQLITE_INNOCUOUS
        )


def _bounded(own: apsw.Connection, name: str, count: int) -> Callable[..., apsw.SQLiteValue]:
    select = f"SELECT {name}({', '.join('?' * count)})"

    def call(*values: apsw.SQLiteValue) -> apsw.SQLiteValue:
        if _length(values[0]) * _length(values[1]) > PRODUCT_MAX:
            raise apsw.TooBigError(f"the arguments of {name}() are too long")
        return own.execute(select, values).get

    return call


def _length(value: apsw.SQLiteValue) -> int:
    return len(value) if isinstance(value, str | bytes) else 32
