"""The embedding API: `mesh.open` runs a node within a program, `mesh.open_sync` within a script that has no event loop.

The node is the daemon of `mycomesh up`, so all commands work beside it. Leaving the `async with` block ends it as SIGTERM
would.

A program that embeds a node must not open the same file with another SQLite library (Python's own `sqlite3`) in the same
process: closing it there would drop the node's locks (https://sqlite.org/howtocorrupt.html, section 2.2.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mycomesh.mesh.node.changes import Change, ChangePage, SyncChange, SyncChangePage, change_pages
from mycomesh.mesh.node.commit_poll import CommitPoll
from mycomesh.mesh.node.config import NodeConfig, load
from mycomesh.mesh.node.daemon import Daemon
from mycomesh.mesh.node.database import WITHIN, Database, Row, Transaction, Values
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.journal import LEVELS
from mycomesh.mesh.node.run_loop import as_node_errors
from mycomesh.mesh.node.uv_loop import event_loop
from mycomesh.mesh.node.watch import Watch
from mycomesh.sync.feed.reader import PAGE_ROWS_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
    from types import TracebackType

    from mycomesh.mesh.events import Notice
    from mycomesh.mesh.node.serving import ServingNode
    from mycomesh.mesh.node.status import Status

__all__ = ["Node", "SyncNode", "SyncTransaction", "open_node", "open_sync"]

LOGGER = logging.getLogger("mycomesh")
STEP_MS = 2_000  # how long one of the requests of a wait takes at most

T = TypeVar("T")


def open_node(file: str | Path, *, home: str | Path | None = None, config: NodeConfig | None = None) -> Node:
    """Return a node that serves `file` within `async with`.

    Args:
        file: the SQLite database; created if it is absent.
        home: the directory for keys and state, as `mycomesh --home`; None means the same default as the command's.
        config: the settings; None means those of the home's config.toml.

    Raises:
        NodeError: the configuration file is invalid.
    """
    located = Home.locate(None if home is None else Path(home), os.environ)
    return Node(located, Path(file), load(located.config_file) if config is None else config)


def open_sync(file: str | Path, *, home: str | Path | None = None, config: NodeConfig | None = None) -> SyncNode:
    """Return a node for programs without an event loop; it runs on a thread of its own within `with`."""
    return SyncNode(open_node(file, home=home, config=config))


class Node:
    """A node in this program. Its notices go to the logger `mycomesh`; every error is a `NodeError` of one line."""

    def __init__(self, home: Home, file: Path, config: NodeConfig) -> None:
        self._home = home
        self._file = file.absolute()
        self._config = config
        self._daemon: Daemon | None = None
        self._run: asyncio.Task[None] | None = None
        self._writer = Database(self._file, extensions=config.extensions)
        self._reader = Database(self._file, read_only=True, extensions=config.extensions)
        self._watch: Watch | None = None
        self._commit_poll: CommitPoll | None = None
        self._watchers: dict[asyncio.Event, None] = {}

    async def __aenter__(self) -> Self:
        """Start the node; return when it serves the file.

        Raises:
            NodeError: the home has no mesh, another process serves the file, or it is not a database; nothing was changed.
        """
        loop = asyncio.get_running_loop()
        self._daemon = Daemon(self._home, self._file, self._config, _log)
        self._run = loop.create_task(_run_daemon(self._daemon))
        try:
            either: list[asyncio.Future[Any]] = [self._run, self._daemon.serving]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self._run.done():
                for database in (self._writer, self._reader):
                    await database.open()
        except (asyncio.CancelledError, NodeError):
            await self._end()
            raise
        if self._run.done():
            self._run.result()
            raise NodeError("the node ended before it served the file; see its notices in the log for the reason")
        self._watch = Watch(self._file, self._on_commit, self._wake)
        self._watch.start()
        self._commit_poll = CommitPoll(loop, self._wake)
        self._run.add_done_callback(lambda _: self._wake())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stamp what is committed, close the links and the file."""
        if self._watch is not None:
            self._watch.close()
        if self._commit_poll is not None:
            self._commit_poll.cancel()
        await self._end()

    # ---- SQL

    async def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Run SQL on the file, as any client would; return the rows, an empty list if the SQL returns none.

        Raises:
            SqlError: SQLite refuses it, or the text leaves a transaction open; what it began is rolled back.
        """
        self._serving()
        return await self._writer.execute(sql, values)

    async def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Run one statement for each row of values, in one transaction. Peers receive a large one in parts (ADR 0012).

        Raises:
            SqlError: SQLite refuses it; nothing was changed.
        """
        self._serving()
        await self._writer.executemany(sql, rows)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Begin a transaction; commit it when the block ends, or roll it back if an exception leaves the block.

        It holds the file's write lock: keep the block short, since other programs and the node wait.

        Raises:
            SqlError: another program keeps the write lock for 5 s, or SQLite refuses the commit; nothing was changed.
        """
        self._serving()
        async with self._writer.transaction() as transaction:
            yield transaction

    async def watch(self, select: str, values: Values = ()) -> AsyncGenerator[list[Row], None]:
        """Yield the result of a query, and again whenever this program, another program or a peer has changed it.

        Commits that come faster than the caller takes results share one result. Without commits nothing runs. The
        results end with the node.

        Raises:
            SqlError: SQLite refuses the query.
            NodeError: the node was not started, or an error ended it.
        """
        woken = asyncio.Event()
        self._watchers[woken] = None
        version, last = -1, None
        try:
            self._serving()
            while not self._ended():
                woken.clear()
                seen = await self._reader.version()
                if seen != version:
                    version = seen
                    rows = await self._reader.execute(select, values)
                    if rows != last:
                        last = rows
                        yield rows
                        continue
                await woken.wait()
        finally:
            del self._watchers[woken]

    # ---- the change feed

    async def changes(
        self, table: str, *, cursor: str | None = None, from_now: bool = False, rows_max: int = PAGE_ROWS_MAX
    ) -> AsyncGenerator[Change, None]:
        """Yield the committed changes of a table, local and remote, each with the values that its row has by now.

        A named cursor begins with the rows that are there, or with `from_now` at the next change; it goes on behind the last
        change for which `done` was called, also after a crash. Without a name nothing is remembered. The changes end with the
        node.

        Raises:
            NodeError: no such table, a cursor in use, 10,000 changes without `done`, or an error ended the node.
        """
        pages = self.change_pages(table, cursor=cursor, from_now=from_now, rows_max=rows_max)
        async with contextlib.aclosing(pages):
            async for page in pages:
                for number in range(len(page.changes)):
                    yield Change(page, number)

    async def change_pages(
        self, table: str, *, cursor: str | None = None, from_now: bool = False, rows_max: int = PAGE_ROWS_MAX
    ) -> AsyncGenerator[ChangePage, None]:
        """Yield the changes as `changes` does, up to `rows_max` together, which is faster."""
        with as_node_errors():
            reader = await self._serving().readers.open(table, cursor, from_now=from_now)
            async with contextlib.aclosing(change_pages(reader, rows_max)) as found:
                async for page in found:
                    yield page
        self._ended()

    # ---- the mesh

    async def wait(self, replicas: int, *, timeout_s: float | None = None) -> int:
        """Wait until `replicas` nodes, including this one, have everything committed here before the call; return their number.

        Raises:
            TimeoutError: fewer nodes have it after `timeout_s` seconds (None means no limit).
            NodeError: the node has ended.
        """
        clock = asyncio.get_running_loop().time
        end_s = math.inf if timeout_s is None else clock() + timeout_s
        position = await self._serving().write_position()
        while True:
            left_s = max(0.0, end_s - clock())
            wait_ms = STEP_MS if left_s * 1000 > STEP_MS else round(left_s * 1000)
            count, *_ = await self._serving().count_replicas(position, want=replicas, wait_ms=wait_ms)
            if count >= replicas:
                return count
            if not left_s:
                raise TimeoutError(f"on {count} of {replicas} nodes after {timeout_s:g} s")

    async def invite(
        self,
        *,
        expires_s: int = 3600,
        uses: int = 1,
        role: str = "member",
        write: Sequence[str] = (),
        read: Sequence[str] = (),
    ) -> str:
        """Return a join code that this node accepts from now on; the options are those of `mesh.invite`.

        Raises:
            NodeError: this node has no root key of the mesh, or an option is out of its range.
        """
        self._serving()
        assert self._daemon is not None
        return self._daemon.invite(expires_s=expires_s, uses=uses, role=role, write=list(write), read=list(read))

    async def status(self) -> Status:
        """Return the status of this node, its tables and its peers, as `mycomesh status --json` prints it."""
        self._serving()
        assert self._daemon is not None
        return await self._daemon.status()

    # ---- inside

    def _serving(self) -> ServingNode:
        if self._daemon is None or self._run is None:
            raise NodeError("this node was not started; use it within 'async with mesh.open(FILE) as node'")
        if self._ended():
            raise NodeError("this node has ended; open it again")
        return self._daemon.serving.result()

    def _ended(self) -> bool:
        """Return whether the node has ended; raise the error that ended it, if any."""
        assert self._run is not None
        if self._run.done():
            self._run.result()
            return True
        return False

    async def _end(self) -> None:
        assert self._daemon is not None
        assert self._run is not None
        await self._writer.close()  # before the node drains: an open transaction would keep the write lock from it
        self._daemon.end()
        await asyncio.wait([self._run])
        await self._reader.close()
        self._wake()
        if not self._run.cancelled():
            self._run.result()

    def _on_commit(self) -> None:
        self._wake()
        if self._commit_poll is not None:
            self._commit_poll.hint()

    def _wake(self) -> None:
        for woken in self._watchers:
            woken.set()


class SyncNode:
    """A `Node` for programs without an event loop, with the same methods; any thread may call them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loop = event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mycomesh-node", daemon=True)
        # The lock keeps calls from reaching the loop once `_stop` has begun: they would never return.
        self._lock, self._running = threading.Lock(), False
        self._owners: set[int] = set()  # threads within a transaction

    def __enter__(self) -> Self:
        """Start the node; return when it serves the file. Raise the errors of `Node`."""
        with self._lock:
            if self._thread.ident is not None:
                raise NodeError("this node was started before; open another one with mesh.open_sync(FILE)")
            self._thread.start()
            self._running = True
        try:
            self._wait_for(self._node.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the node."""
        try:
            self._wait_for(self._node.__aexit__(kind, error, trace))
        finally:
            self._stop()

    def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Do the same as `Node.execute`."""
        self._refuse_owner()
        return self._wait_for(self._node.execute(sql, values))

    def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Do the same as `Node.executemany`."""
        self._refuse_owner()
        self._wait_for(self._node.executemany(sql, rows))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[SyncTransaction]:
        """Do the same as `Node.transaction`."""
        self._refuse_owner()
        block, thread = self._node.transaction(), threading.get_ident()
        transaction = self._wait_for(block.__aenter__())
        self._owners.add(thread)
        try:
            yield SyncTransaction(transaction, self._wait_for)
        except BaseException as error:
            if not self._wait_for(block.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            self._wait_for(block.__aexit__(None, None, None))
        finally:
            self._owners.discard(thread)

    def _refuse_owner(self) -> None:
        """Refuse a call that would wait for the transaction of its own thread, for ever."""
        if threading.get_ident() in self._owners:
            raise NodeError(WITHIN)

    def watch(self, select: str, values: Values = ()) -> Iterator[list[Row]]:
        """Yield as `Node.watch`; the generator blocks until the next change."""
        yield from self._iterate(self._node.watch(select, values))

    def _iterate(self, results: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield what an asynchronous generator of the node yields."""
        try:
            while True:
                try:
                    yield self._wait_for(results.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            with contextlib.suppress(NodeError):  # it has ended with the node
                self._wait_for(results.aclose())

    def changes(
        self, table: str, *, cursor: str | None = None, from_now: bool = False, rows_max: int = PAGE_ROWS_MAX
    ) -> Iterator[SyncChange]:
        """Yield as `Node.changes`; the generator blocks until the next change."""
        pages = self._node.change_pages(table, cursor=cursor, from_now=from_now, rows_max=rows_max)
        for page in self._iterate(pages):
            for number in range(len(page.changes)):
                yield SyncChange(page, number, self._wait_for)

    def change_pages(
        self, table: str, *, cursor: str | None = None, from_now: bool = False, rows_max: int = PAGE_ROWS_MAX
    ) -> Iterator[SyncChangePage]:
        """Yield as `Node.change_pages`; the generator blocks until the next change."""
        pages = self._node.change_pages(table, cursor=cursor, from_now=from_now, rows_max=rows_max)
        for page in self._iterate(pages):
            yield SyncChangePage(page, self._wait_for)

    def wait(self, replicas: int, *, timeout_s: float | None = None) -> int:
        """Do the same as `Node.wait`."""
        return self._wait_for(self._node.wait(replicas, timeout_s=timeout_s))

    def invite(
        self,
        *,
        expires_s: int = 3600,
        uses: int = 1,
        role: str = "member",
        write: Sequence[str] = (),
        read: Sequence[str] = (),
    ) -> str:
        """Do the same as `Node.invite`."""
        return self._wait_for(self._node.invite(expires_s=expires_s, uses=uses, role=role, write=write, read=read))

    def status(self) -> Status:
        """Do the same as `Node.status`."""
        return self._wait_for(self._node.status())

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the node's loop; return its result."""
        with self._lock:
            if not self._running:
                work.close()
                raise NodeError("this node is not running; use it within 'with mesh.open_sync(FILE) as node'")
            result = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return result.result()
        except CancelledError as error:
            raise NodeError("this node has ended; open it again") from error
        except BaseException:
            result.cancel()  # for example after ^C
            raise

    def _stop(self) -> None:
        with self._lock:
            self._running = False
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncTransaction:
    """An open transaction of a `SyncNode`, with the methods of `Transaction`. Use it within its `with` block only."""

    def __init__(self, transaction: Transaction, wait_for: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.inner = transaction
        self._wait_for = wait_for  # runs a coroutine on the node's loop

    def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Do the same as `Transaction.execute`."""
        rows: list[Row] = self._wait_for(self.inner.execute(sql, values))
        return rows

    def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Do the same as `Transaction.executemany`."""
        self._wait_for(self.inner.executemany(sql, rows))


async def _cancel_others() -> None:
    """Cancel all other tasks of this loop, whose threads would wait forever once it has stopped."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _run_daemon(daemon: Daemon) -> None:
    """Run a daemon; raise errors that a user can cause as `NodeError`."""
    with as_node_errors():
        await daemon.run(signals=False)


def _log(notice: Notice) -> None:
    with contextlib.suppress(ValueError):  # the stream of a log handler is closed
        LOGGER.log(LEVELS.get(notice.level, logging.INFO), "%s", notice.text, extra={"event": notice.event})
