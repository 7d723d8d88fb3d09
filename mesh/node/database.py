"""An SQLite connection for a program that embeds a node: runs on a thread of its own, so the event loop never waits for SQL.

The node captures its writes like those of any other client. It uses apsw as the node does: a second SQLite library in the same
process would drop the first one's locks when it closes the file (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from mycomesh.mesh.node.errors import SqlError
from mycomesh.sync.storage.store import set_float_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["BUSY_MS", "Database", "Row", "Value", "Values"]

BUSY_MS = 5_000  # the node locks the file for milliseconds at a time; other programs may take longer
# Errors that apsw raises for invalid SQL or values; KeyError: a named parameter without a value.
REFUSALS = (apsw.Error, TypeError, OverflowError, KeyError)
QUOTED_CHARS_MAX = 120  # of a statement that failed

Value = int | float | str | bytes | None
Values = Sequence[Value] | Mapping[str, Value]  # for ? in order, or for :name
Row = tuple[Any, ...]
T = TypeVar("T")


class Database:
    """One connection on a thread of its own."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mycomesh-query")
        self._db: apsw.Connection | None = None

    async def open(self) -> None:
        """Open the file now, so that later calls use this very file even if its path comes to name another.

        Raises:
            SqlError: there is no such file, or it cannot be read.
        """
        await self._run(self._open)

    async def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Run one or more statements, each in a transaction of its own; return all rows.

        Raises:
            SqlError: SQLite refuses a statement; those before it remain committed.
        """
        return await self._run(lambda: self._execute(sql, values))

    async def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Run one statement for each row of values, in one transaction.

        Raises:
            SqlError: SQLite refuses it; nothing was changed.
        """
        await self._run(lambda: self._executemany(sql, rows))

    async def version(self) -> int:
        """Return a number that changes with each commit of another connection (PRAGMA data_version)."""
        return await self._run(lambda: int(self._connection().pragma("data_version")))

    async def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ---- on the thread

    def _open(self) -> None:
        try:
            self._connection().pragma("schema_version")  # a read, so that SQLite opens the -wal and -shm files too
        except apsw.Error as error:
            raise SqlError(f"{error}: {self._path}") from error

    def _connection(self) -> apsw.Connection:
        if self._db is None:
            self._db = apsw.Connection(str(self._path), flags=self._flags)
            self._db.set_busy_timeout(BUSY_MS)
            set_float_digits(self._db)
        return self._db

    def _execute(self, sql: str, values: Values) -> list[Row]:
        try:
            bound = values if isinstance(values, Mapping) else tuple(values)
            return self._connection().execute(sql, bound).fetchall()
        except REFUSALS as error:
            raise _sql_error(error, sql) from error

    def _executemany(self, sql: str, rows: Iterable[Values]) -> None:
        try:
            with self._connection() as db:
                db.executemany(sql, rows)
        except REFUSALS as error:
            raise _sql_error(error, sql) from error

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _sql_error(error: Exception, sql: str) -> SqlError:
    text = " ".join(sql.split())
    quoted = text if len(text) <= QUOTED_CHARS_MAX else f"{text[: QUOTED_CHARS_MAX - 3]}..."
    reason = f"no value for {error}" if isinstance(error, KeyError) else error
    return SqlError(f"{reason}: {quoted}")
