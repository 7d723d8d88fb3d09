"""Reads the served file under limits: a read-only connection, an authorizer, and caps on time, rows and bytes.

Queries come from people and programs that can see everything in the file, and shall change nothing and disturb nobody: no
statement that writes, attaches or loads, no read transaction that outlives its time. `execute` is an ordinary client that
writes, for consoles that allow it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from sys import getsizeof
from typing import Any, TypeVar

import apsw

from mycomesh.sync.sqlite.identifiers import fold, is_internal, quoted
from mycomesh.sync.sqlite.raw_text import raw_select, restore
from mycomesh.tools.web.bounded import bound
from mycomesh.tools.web.errors import BusyError, HttpError, QueryError, UnknownError
from mycomesh.tools.web.values import TooLong

__all__ = [
    "BYTES_MAX",
    "HEAP_BYTES_MAX",
    "QUERIES_MAX",
    "QUERY_S_MAX",
    "ROWS_MAX",
    "VALUE_BYTES_MAX",
    "Database",
    "Rows",
    "Table",
    "limit_heap",
]

T = TypeVar("T")

QUERY_S_MAX = 3.0  # of one query, as long as a person waits
ROWS_MAX = 20_000  # of one answer
BYTES_MAX = 20 << 20  # of the values of one answer as Python holds them, so that one of the longest fits
VALUE_BYTES_MAX = 16 << 20  # of one value, also in the middle of a query
HEAP_BYTES_MAX = 128 << 20  # of SQLite in the whole process: sorting rows of megabytes takes several of them at once
SQL_BYTES_MAX = 65_536
QUERIES_MAX = 32  # that run or wait, of all clients
THREADS = 3
BUSY_MS = 5_000
STEPS = 1_000  # of SQLite's machine between two looks at the clock
SAMPLE_ROWS = 20
_PRAGMAS = frozenset(
    ("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list")
)
_READ_PRAGMAS = frozenset(
    ("user_version", "data_version", "schema_version", "application_id", "encoding", "page_count", "page_size")
)
_FUNCTIONS = frozenset(("load_extension", "fts3_tokenizer"))
_CONTROL = tuple(map(chr, range(32)))


@dataclass(frozen=True, slots=True)
class Rows:
    """The answer of a query; `more`: it was cut at a limit."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the user's: its columns in order, the columns of its key, and whether rows have a rowid."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    rowid: str


def limit_heap() -> None:
    """Limit the memory of SQLite in this process; a statement that needs more is refused."""
    apsw.hard_heap_limit(HEAP_BYTES_MAX)


class Database:
    """The served file, read by a few threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="query")
        self._waiting = 0

    def close(self) -> None:
        """End the threads; their connections close with them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function that calls the methods below in a thread; return its result.

        Raises:
            HttpError: too many queries wait, or SQLite refuses one.
        """
        if self._waiting >= QUERIES_MAX:
            raise BusyError(f"{QUERIES_MAX} queries run or wait; try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (apsw.Error, MemoryError) as error:
            raise _refusal(error) from error
        except UnicodeDecodeError as error:
            raise QueryError("a value is text that is not UTF-8; select CAST(... AS BLOB)") from error
        finally:
            self._waiting -= 1

    def query(self, sql: str, values: Sequence[Any] = (), *, rows_max: int = ROWS_MAX) -> Rows:
        """Return the answer of one SELECT, cut at the limits."""
        found = _read(self._connection(), sql, values, rows_max=min(rows_max, ROWS_MAX))
        if found.more and rows_max and not found.rows:
            raise QueryError(f"the first row has more than {BYTES_MAX >> 20} MiB; select fewer columns")
        return found

    def tables(self) -> dict[str, Table]:
        """Return the tables of the user's by name, without those of the node and of SQLite; at most `ROWS_MAX`."""
        listing = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')"
        found = {}
        for name, kind, rowless in self.query(f"{listing} ORDER BY name").rows:
            if not is_internal(name) and not fold(name).startswith("sqlite_"):
                with contextlib.suppress(apsw.SQLError):  # a virtual table of an extension that is not here
                    found[name] = self._table(name, kind, rowless)
        return found

    def table(self, name: str) -> Table:
        """Return one table.

        Raises:
            HttpError: no table has that name.
        """
        listing = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE"
        for known in self.query(listing, (name,)).rows:
            return self._table(*known)
        raise UnknownError(f"no table {name!r}; GET /api/tables lists them")

    def _table(self, name: str, kind: str, rowless: int) -> Table:
        found = self.query("SELECT name, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid", (name,)).rows
        columns = tuple(column for column, _ in found)
        key = tuple(column for column, place in sorted(found, key=lambda each: each[1]) if place)
        taken = {fold(column) for column in columns}
        free = [alias for alias in ("rowid", "_rowid_", "oid") if alias not in taken]
        return Table(name, columns, key, free[0] if free and not rowless and kind != "view" else "")

    def page(
        self,
        table: Table,
        *,
        where: str = "",
        order: str = "",
        descending: bool = False,
        limit: int = 100,
        offset: int = 0,
    ) -> Rows:
        """Return some rows of a table; the first column of the answer is the row's key as text.

        The condition is a person's SQL; it can read whatever the whole file holds, and nothing else.
        """
        key = table.key or ((table.rowid,) if table.rowid else ())
        by = order or (key[0] if key else table.columns[0])
        if fold(by) not in {fold(column) for column in (*table.columns, table.rowid)}:
            raise HttpError(f"table {table.name!r} has no column {by!r}")
        condition = f" WHERE (\n{where}\n)" if where.strip() else ""  # a comment in it ends with its line
        tail = f" FROM {quoted(table.name)}{condition} ORDER BY {quoted(by)} {'DESC' if descending else 'ASC'}"
        tail += f" LIMIT {int(limit) + 1} OFFSET {int(offset)}"
        names = [*(name for name in key if name not in table.columns), *table.columns]
        try:
            found = self.query(f"SELECT {', '.join(map(quoted, names))}{tail}", rows_max=limit)
            rows = found.rows
        except (UnicodeDecodeError, apsw.TooBigError):
            found = self.query(f"SELECT {', '.join(_any_cell(quoted(name)) for name in names)}{tail}", rows_max=limit)
            rows = [_cells(row) for row in found.rows]
        places = [names.index(name) for name in key]
        first = len(names) - len(table.columns)
        return Rows(("", *table.columns), [(tuple(row[at] for at in places), *row[first:]) for row in rows], found.more)

    def sample(self, table: Table, column: str) -> list[Any]:
        """Return some values of a column, without NULL."""
        name = quoted(column)
        try:
            found = self.query(f"SELECT {name} FROM {quoted(table.name)} WHERE {name} IS NOT NULL LIMIT {SAMPLE_ROWS}")
        except (UnicodeDecodeError, apsw.TooBigError):
            return []
        return [value for (value,) in found.rows]

    def execute(self, sql: str, values: Sequence[Any]) -> Rows:
        """Run one statement that may write, as any client of the file does; triggers capture what it writes."""
        db = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            _limit(db)
            db.set_busy_timeout(BUSY_MS)
            db.authorizer = _may_write
            found = _read(db, sql, values, rows_max=ROWS_MAX)
            return found if found.columns else Rows(("changes",), [(db.changes(),)], more=False)
        finally:
            db.close()

    def _connection(self) -> apsw.Connection:
        db: apsw.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
            db.set_busy_timeout(BUSY_MS)
            _limit(db)
            db.authorizer = _may_read
            self._local.db = db
        return db


def _any_cell(name: str) -> str:
    """Return SQL for a cell that may be no UTF-8, or longer than what is read: the columns of `raw_select`, and its length."""
    too_long = f"octet_length({name}) > {VALUE_BYTES_MAX}"
    return f"{raw_select(f'CASE WHEN {too_long} THEN NULL ELSE {name} END')}, CASE WHEN {too_long} THEN octet_length({name}) END"


def _cells(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of the columns that `_any_cell` selected."""
    values = restore([cell for at, cell in enumerate(row) if at % 3 != 2])
    return tuple(value if length is None else TooLong(length) for value, length in zip(values, row[2::3], strict=True))


def _limit(db: apsw.Connection) -> None:
    db.limit(apsw.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
    db.limit(apsw.SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX)
    db.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
    db.limit(apsw.SQLITE_LIMIT_WORKER_THREADS, 0)
    bound(db, VALUE_BYTES_MAX)


def _may_read(operation: int, first: str | None, second: str | None, _schema: str | None, _trigger: str | None) -> int:
    match operation:
        case apsw.SQLITE_SELECT | apsw.SQLITE_READ | apsw.SQLITE_RECURSIVE:
            return apsw.SQLITE_OK
        case apsw.SQLITE_FUNCTION if (second or "").lower() not in _FUNCTIONS:
            return apsw.SQLITE_OK
        case apsw.SQLITE_PRAGMA if first in _PRAGMAS or (first in _READ_PRAGMAS and second is None):
            return apsw.SQLITE_OK
        case _:
            return apsw.SQLITE_DENY


def _may_write(operation: int, first: str | None, second: str | None, schema: str | None, trigger: str | None) -> int:
    match operation:
        case apsw.SQLITE_INSERT | apsw.SQLITE_UPDATE | apsw.SQLITE_DELETE:
            # A program's triggers and those of the node may write anything; the statement itself not the node's tables.
            return apsw.SQLITE_DENY if trigger is None and is_internal(first or "") else apsw.SQLITE_OK
        case apsw.SQLITE_SELECT | apsw.SQLITE_READ | apsw.SQLITE_RECURSIVE:
            return apsw.SQLITE_OK
        case _:
            return _may_read(operation, first, second, schema, trigger)


def _read(db: apsw.Connection, sql: str, values: Sequence[Any], *, rows_max: int) -> Rows:
    deadline = time.monotonic() + QUERY_S_MAX
    db.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
    cursor = db.cursor()
    columns: list[tuple[str, ...]] = []  # of each statement

    def on_statement(started: apsw.Cursor, _sql: str, _bindings: Any) -> bool:
        if columns:
            raise QueryError("give one statement at a time")
        columns.append(tuple(str(each[0]) for each in started.get_description()))
        return True

    cursor.exec_trace = on_statement
    rows: list[tuple[Any, ...]] = []
    size, more = 0, False
    try:
        cursor.execute(sql, tuple(values))
        for row in cursor:
            size += sum(map(_cost, row))
            if len(rows) >= rows_max or size > BYTES_MAX:
                more = True
                break
            rows.append(row)
    finally:
        cursor.close(force=True)
        db.set_progress_handler(None)
    return Rows(columns[0] if columns else (), rows, more)


def _cost(value: Any) -> int:
    """Return the bytes of a value in Python, or in JSON, where a control character takes six."""
    size = getsizeof(value)
    if type(value) is str and not value.isprintable():
        size += 5 * sum(map(value.count, _CONTROL))
    return size


def _refusal(error: apsw.Error | MemoryError) -> HttpError:
    if isinstance(error, apsw.InterruptError):
        return QueryError(f"the query took longer than {QUERY_S_MAX:g} s; narrow it, or add an index")
    if isinstance(error, apsw.NoMemError | MemoryError):
        return QueryError(
            f"the query needs more than {HEAP_BYTES_MAX >> 20} MiB of memory; narrow it, or sort by a shorter column"
        )
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return BusyError("another program holds the write lock; try again")
    if isinstance(error, apsw.AuthError):
        return QueryError(f"this statement is not allowed here: {error}", 403)
    return QueryError(f"SQLite: {error}")
