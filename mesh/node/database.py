"""An embedding program's own way to its file: one connection on one thread, and live queries.

Owns an apsw connection and its thread. What always holds: the event loop never waits for SQL; what is written here is
captured as any client's writes are. apsw, because a second SQLite library in one process that closes the file would drop the
first one's locks (https://sqlite.org/howtocorrupt.html, section 2.2.1). It must not know the mesh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from mycomesh.mesh.node.errors import SqlError
from mycomesh.sync.storage.store import agree_on_digits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["BUSY_MS", "Database", "Row", "Value", "Values"]

BUSY_MS = 5_000  # the node itself holds the write lock for milliseconds; other programs may take longer
# What apsw raises for SQL or values that are none; KeyError: a name without its value.
REFUSALS = (apsw.Error, TypeError, OverflowError, KeyError)
TOLD_CHARS_MAX = 120  # of a statement that failed

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
        """Open the file now rather than at the first call: later calls work on this very file, whatever its path comes to name.

        Raises:
            SqlError: there is no such file, or it cannot be read.
        """
        await self._run(self._opened)

    async def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Run the statements of a text, each committed by itself; return all rows.

        Raises:
            SqlError: SQLite refuses it; statements before the refused one stand.
        """
        return await self._run(lambda: self._rows(sql, values))

    async def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Run one statement for each row of values, in one transaction: all of them or none.

        Raises:
            SqlError: SQLite refuses it; nothing was changed.
        """
        await self._run(lambda: self._many(sql, rows))

    async def version(self) -> int:
        """Return a number that another connection's commit changes (PRAGMA data_version)."""
        return await self._run(lambda: int(self._connection().pragma("data_version")))

    async def close(self) -> None:
        """Close the connection; a transaction that is open is undone."""
        await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ---- on the thread

    def _opened(self) -> None:
        try:
            self._connection().pragma("schema_version")  # reads, so that the -wal and -shm are open too
        except apsw.Error as error:
            raise SqlError(f"{error}: {self._path}") from error

    def _connection(self) -> apsw.Connection:
        if self._db is None:
            self._db = apsw.Connection(str(self._path), flags=self._flags)
            self._db.set_busy_timeout(BUSY_MS)
            agree_on_digits(self._db)
        return self._db

    def _rows(self, sql: str, values: Values) -> list[Row]:
        try:
            bound = values if isinstance(values, Mapping) else tuple(values)
            return self._connection().execute(sql, bound).fetchall()
        except REFUSALS as error:
            raise _refused(error, sql) from error

    def _many(self, sql: str, rows: Iterable[Values]) -> None:
        try:
            with self._connection() as db:
                db.executemany(sql, rows)
        except REFUSALS as error:
            raise _refused(error, sql) from error

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _refused(error: Exception, sql: str) -> SqlError:
    text = " ".join(sql.split())
    told = text if len(text) <= TOLD_CHARS_MAX else f"{text[: TOLD_CHARS_MAX - 3]}..."
    why = f"no value for {error}" if isinstance(error, KeyError) else error
    return SqlError(f"{why}: {told}")
