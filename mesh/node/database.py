"""An SQLite connection for a program that embeds a node: runs on a thread of its own, so the event loop never waits for SQL.

The node captures its writes like those of any other client. It uses apsw as the node does: a second SQLite library in the same
process would drop the first one's locks when it closes the file (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from mycomesh.mesh.node.errors import NodeError, SqlError
from mycomesh.mesh.node.extensions import checked_extensions
from mycomesh.mesh.node.rows import Row, row_type
from mycomesh.sync.errors import ExtensionError
from mycomesh.sync.sqlite.extensions import load_extensions
from mycomesh.sync.storage.connection import set_float_digits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

__all__ = ["BUSY_MS", "Database", "Row", "Transaction", "Value", "Values"]

BUSY_MS = 5_000  # the node locks the file for milliseconds at a time; other programs may take longer
# Errors that apsw raises for invalid SQL or values; KeyError: a named parameter without a value.
REFUSALS = (apsw.Error, TypeError, OverflowError, KeyError)
QUOTED_CHARS_MAX = 120  # of a statement that failed
WITHIN = "within 'node.transaction()' run SQL on the transaction, not on the node: the node waits until the block ends"
ENDED = "the transaction of this block has ended: by its own COMMIT or ROLLBACK, or by SQLite after an error"
LEFT_OPEN = "the text leaves its transaction open, so it was rolled back; add COMMIT, or use node.transaction()"

Value = int | float | str | bytes | None
Values = Sequence[Value] | Mapping[str, Value]  # for ? in order, or for :name
T = TypeVar("T")


class Database:
    """One connection on a thread of its own. Invariant: between two calls no transaction is open, but in `transaction`."""

    def __init__(self, path: Path, *, read_only: bool = False, extensions: Sequence[str] = ()) -> None:
        self._path = path
        self._extensions = extensions
        self._flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mycomesh-query")
        self._db: apsw.Connection | None = None
        self._turn = asyncio.Lock()  # held by the one call or transaction that uses the connection
        self._owner: asyncio.Task[Any] | None = None  # the task whose transaction is open
        self._closed = False

    async def open(self) -> None:
        """Open the file now, so that later calls use this very file even if its path comes to name another.

        Raises:
            SqlError: there is no such file, or it cannot be read.
        """
        await self._run(self._open)

    async def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Run one or more statements, each in a transaction of its own or in those that the text begins; return all rows.

        Raises:
            SqlError: SQLite refuses a statement, or the text leaves a transaction open. The transaction that it did
                not commit is rolled back; earlier statements remain committed.
        """
        return await self._run_alone(lambda: self._execute_whole(sql, values))

    async def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Run one statement for each row of values, in one transaction.

        Raises:
            SqlError: SQLite refuses it; nothing was changed.
        """
        await self._run_alone(lambda: self._executemany(sql, rows))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Hold the file's write lock and the connection for one transaction.

        Leaving the block commits; an exception that leaves it rolls back.

        Raises:
            SqlError: another program keeps the write lock, or SQLite refuses the commit; nothing was changed.
        """
        self._refuse_owner()
        async with self._turn:
            self._owner = asyncio.current_task()
            try:
                await self._run(self._begin)
                yield Transaction(self)
                await self._run(self._commit)
            except BaseException:
                with contextlib.suppress(NodeError):  # the node has ended, and closed the connection
                    await self._run(self._roll_back)
                raise
            finally:
                self._owner = None

    async def execute_within(self, sql: str, values: Values) -> list[Row]:
        """Run statements in the open transaction; for `Transaction`."""
        return await self._run(lambda: self._within(lambda: self._execute(sql, values)))

    async def executemany_within(self, sql: str, rows: Iterable[Values]) -> None:
        """Run one statement for each row in the open transaction; for `Transaction`."""
        await self._run(lambda: self._within(lambda: self._executemany(sql, rows)))

    async def version(self) -> int:
        """Return a number that changes with each commit of another connection (PRAGMA data_version)."""
        return await self._run(lambda: int(self._connection().pragma("data_version")))

    async def close(self) -> None:
        """Close the connection; a running statement is interrupted, and an open transaction rolled back."""
        if self._closed:
            return
        if self._db is not None:
            self._db.interrupt()
        closing = self._run(self._close)
        self._closed = True
        await closing
        self._thread.shutdown(wait=False)

    async def _run_alone(self, work: Callable[[], T]) -> T:
        self._refuse_owner()
        async with self._turn:
            return await self._run(work)

    def _refuse_owner(self) -> None:
        """Refuse a call that would wait for the transaction of its own task, for ever."""
        if self._owner is not None and self._owner is asyncio.current_task():
            raise NodeError(WITHIN)

    def _run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        if self._closed:
            raise NodeError("this node has ended; open it again")
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ---- on the thread

    def _open(self) -> None:
        try:
            load_extensions(self._connection(), checked_extensions(self._extensions))
            self._connection().pragma("schema_version")  # a read, so that SQLite opens the -wal and -shm files too
        except (apsw.Error, ExtensionError) as error:
            raise SqlError(f"{error}: {self._path}") from error

    def _connection(self) -> apsw.Connection:
        if self._db is None:
            self._db = apsw.Connection(str(self._path), flags=self._flags)
            self._db.set_busy_timeout(BUSY_MS)
            set_float_digits(self._db)
        return self._db

    def _execute(self, sql: str, values: Values) -> list[Row]:
        kind: type[Row] = Row

        def begin(cursor: apsw.Cursor, _sql: str, _bindings: object) -> bool:
            nonlocal kind
            with contextlib.suppress(apsw.ExecutionCompleteError):  # a statement without rows
                kind = row_type(tuple(column[0] for column in cursor.get_description()))
            return True

        try:
            bound = values if isinstance(values, Mapping) else tuple(values)
            cursor = self._connection().cursor()
            cursor.exec_trace = begin  # once a statement: a text may have several
            cursor.row_trace = lambda _cursor, row: kind(row)
            rows: list[Any] = cursor.execute(sql, bound).fetchall()
        except REFUSALS as error:
            raise _sql_error(error, sql) from error
        return rows

    def _execute_whole(self, sql: str, values: Values) -> list[Row]:
        """Run a text and leave no transaction open: another program would wait for it, and so would the node."""
        try:
            rows = self._execute(sql, values)
        except BaseException:
            self._roll_back()
            raise
        if self._connection().in_transaction:
            self._roll_back()
            raise _sql_error(LEFT_OPEN, sql)
        return rows

    def _executemany(self, sql: str, rows: Iterable[Values]) -> None:
        try:
            with self._connection() as db:
                db.executemany(sql, rows)
        except REFUSALS as error:
            raise _sql_error(error, sql) from error

    def _within(self, run: Callable[[], T]) -> T:
        if not self._connection().in_transaction:
            raise SqlError(ENDED)
        return run()

    def _begin(self) -> None:
        self._execute("BEGIN IMMEDIATE", ())

    def _commit(self) -> None:
        self._within(lambda: self._execute("COMMIT", ()))

    def _roll_back(self) -> None:
        if self._db is not None and self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class Transaction:
    """An open transaction of a node. Use it within its `async with` block only."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Run SQL in the transaction; return the rows, an empty list if the SQL returns none.

        Raises:
            SqlError: SQLite refuses it. The transaction goes on without the refused statement, unless SQLite has ended it.
        """
        return await self._database.execute_within(sql, values)

    async def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Run one statement for each row of values in the transaction, all of them or none.

        Raises:
            SqlError: SQLite refuses it.
        """
        await self._database.executemany_within(sql, rows)


def _sql_error(error: Exception | str, sql: str) -> SqlError:
    text = " ".join(sql.split())
    quoted = text if len(text) <= QUOTED_CHARS_MAX else f"{text[: QUOTED_CHARS_MAX - 3]}..."
    reason = f"no value for {error}" if isinstance(error, KeyError) else error
    return SqlError(f"{reason}: {quoted}")
