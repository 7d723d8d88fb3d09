"""Try the expressions of a definition on made-up rows, before it enters a user's file.

A CHECK, a generated column, a default or an index is computed for each row, by the node and by every application beside it. An
expression has no loops and no subqueries, so the operations of the compiled INSERT limit its steps for a row; what one
operation may cost is limited by the size of values. A made-up row is small, so an expression that makes a large value of it
is refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import apsw

from mycomesh.sync.sqlite.create_table import checks
from mycomesh.sync.sqlite.definitions import authorize_create, execute_one, missing_collation, read_definition, scratch
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import SQL_MAX, user_tables

__all__ = ["read_ahead", "refusal_of"]

# The work of all function calls for one row: functions such as instr() compare each byte of one value with each of another. So
# the size of values is limited by the square root of this by the number of calls: 16 KiB for one call, 512 bytes for a thousand.
ROW_WORK_MAX = 1 << 28
VALUE_BYTES_MIN = 512
TEXTS_MAX = 500  # expressions in one SELECT; SQLite's limit is 2,000
_FUNCTIONS = ("Function", "PureFunc", "Concat")
_TOO_MUCH = (apsw.TooBigError, apsw.NoMemError, apsw.InterruptError)
# The large integer shows expressions that make as many bytes as a column says.
_VALUES = (None, 0, 1, -1, 1.5, 1_000_000_000, "", "a", "2000-01-01", "{}", '[{"a":1}]', b"\x00")


@functools.lru_cache(maxsize=512)
def refusal_of(table: str, index: str = "") -> str:
    """Return why a CREATE TABLE, or a CREATE INDEX on its table, must not enter a user's file; "" if it may.

    SQL that SQLite does not take is refused with SQLite's words. An error for a made-up row is no reason: real rows may differ.
    """
    try:
        with scratch(table) as db:
            if index:
                execute_one(db, index, authorize_create(apsw.SQLITE_CREATE_INDEX))
            _try_rows(db, user_tables(db)[0][0])
    except _TOO_MUCH as error:
        return f"its expressions are too costly to compute for each row ({error})"
    except (apsw.Error, IndexError) as error:
        return str(error)
    return ""


def read_ahead(sql: str) -> None:
    """Read and try a CREATE TABLE of the mesh, so that a pass that asks for that under the write lock has the answers at once."""
    if len(sql) > SQL_MAX or "\0" in sql:  # `Facts` knows no such definition
        return
    defined = read_definition(sql)
    if defined is not None:
        missing_collation(defined.sql)
        refusal_of(defined.sql, "")  # the cache knows calls by their arguments


def _try_rows(db: Any, table: str) -> None:
    columns = column_names(db, table)
    holders = ", ".join("?" * len(columns))
    inserts = [
        (f"INSERT INTO {quoted(table)} DEFAULT VALUES", 0),
        (f"INSERT OR REPLACE INTO {quoted(table)}({', '.join(map(quoted, columns))}) VALUES({holders})", len(columns)),
    ]
    listing = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden IN (2, 3) ORDER BY cid"
    texts = [f"typeof({quoted(name)})" for (name,) in db.execute(listing, (table,)).fetchall()] + checks(db, table)
    calls = sum(_calls(db, sql, bindings) for sql, bindings in inserts)
    calls += sum(_calls(db, f"SELECT {text} FROM {quoted(table)}", 0) for text in texts)
    own = 16 * len(columns)  # what the made-up values and the record of a row take at most
    db.limit(apsw.SQLITE_LIMIT_LENGTH, own + max(math.isqrt(ROW_WORK_MAX // max(calls, 1)), VALUE_BYTES_MIN))
    # The SELECT computes the CHECKs. In the INSERT the first one that is not met would hide those behind it, and the indexes.
    db.execute("PRAGMA ignore_check_constraints = 1").fetchall()
    for value in _VALUES:
        for sql, bindings in inserts:
            _attempt(db, sql, (value,) * bindings)
        for start in range(0, len(texts), TEXTS_MAX):
            _select(db, table, texts[start : start + TEXTS_MAX])
        db.execute(f"DELETE FROM {quoted(table)}")


def _select(db: Any, table: str, texts: Sequence[str]) -> None:
    """Compute expressions for each row, those behind one that fails too."""
    # A name for each, or the text of the expression is its name, and a value that counts.
    if (
        not _attempt(db, f"SELECT {', '.join(f'{text} AS x' for text in texts)} FROM {quoted(table)}")
        and len(texts) > 1
    ):
        for half in (texts[: len(texts) // 2], texts[len(texts) // 2 :]):
            _select(db, table, half)


def _attempt(db: Any, sql: str, values: tuple[Any, ...] = ()) -> bool:
    """Run a statement; return False if it fails for these values, and raise what shows that it costs too much."""
    try:
        db.execute(sql, values).fetchall()
    except _TOO_MUCH:
        raise
    except REFUSALS:
        return False
    return True


def _calls(db: Any, sql: str, bindings: int) -> int:
    """Return how many functions a statement calls for each row."""
    try:
        return sum(row[1] in _FUNCTIONS for row in db.execute(f"EXPLAIN {sql}", (None,) * bindings, can_cache=False))
    except apsw.SQLError:  # a CHECK whose text cannot be selected: the INSERT still computes it
        return 0
