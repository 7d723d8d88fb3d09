"""Values as a column stores them: SQLite converts text by the column's affinity (https://sqlite.org/datatype3.html)."""

from __future__ import annotations

import functools
from typing import Any

import apsw

__all__ = ["as_stored"]

_AFFINITIES = ("INTEGER", "TEXT", "REAL", "NUMERIC")  # BLOB is what a column without a type has


@functools.lru_cache(maxsize=256)
def as_stored(texts: tuple[str, ...], affinity: str) -> tuple[Any, ...]:
    """Return the values that a column of this affinity stores for some texts, in their order."""
    kind = affinity if affinity in _AFFINITIES else "BLOB"
    if kind in ("BLOB", "TEXT"):
        return texts
    db: Any = apsw.Connection(":memory:")
    try:
        db.execute(f"CREATE TABLE t(v {kind})")
        db.executemany("INSERT INTO t VALUES(?)", [(text,) for text in texts])
        return tuple(value for (value,) in db.execute("SELECT v FROM t ORDER BY rowid"))
    finally:
        db.close()
