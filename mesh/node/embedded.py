"""A node inside one's own program: `mesh.open` and, for scripts without an event loop, `mesh.open_sync`.

Owns the start and the end of one daemon within a running event loop, and the live queries on its file. What always holds:
the node is the very one that `mycomesh up` runs, so that every command works beside it; leaving the `async with` block ends
it as SIGTERM would. It must not know how syncing works.

A program that embeds a node must not open the same file with another SQLite library (Python's own `sqlite3`) in the same
process: closing it there would drop the locks of this one (https://sqlite.org/howtocorrupt.html, section 2.2.1).
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

from mycomesh.mesh.node.commit_poll import CommitPoll
from mycomesh.mesh.node.config import NodeConfig, load
from mycomesh.mesh.node.daemon import Daemon, complaints, event_loop
from mycomesh.mesh.node.database import Database, Row, Values
from mycomesh.mesh.node.errors import NodeError, SqlError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.journal import LEVELS
from mycomesh.mesh.node.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
    from types import TracebackType

    from mycomesh.mesh.events import Notice
    from mycomesh.mesh.node.serving import ServingNode
    from mycomesh.mesh.node.status import Status

__all__ = ["Node", "SyncNode", "open_node", "open_sync"]

LOGGER = logging.getLogger("mycomesh")
ASK_MS = 2_000  # a wait asks the peers for so long at a time

T = TypeVar("T")


def open_node(file: str | Path, *, home: str | Path | None = None, config: NodeConfig | None = None) -> Node:
    """Return a node that serves `file` within `async with`.

    Args:
        file: the SQLite database; made if it is absent.
        home: where keys and state are, as `mycomesh --home`; None: as the command finds it.
        config: settings; None: those of the home's config.toml.
    """
    found = Home.locate(None if home is None else Path(home), os.environ)
    return Node(found, Path(file), load(found.config_file) if config is None else config)


def open_sync(file: str | Path, *, home: str | Path | None = None, config: NodeConfig | None = None) -> SyncNode:
    """Return the same for programs without an event loop: the node runs on a thread of its own within `with`."""
    return SyncNode(open_node(file, home=home, config=config))


class Node:
    """A node in this program. Notices go to the logger `mycomesh`; every error is a `NodeError` of one line."""

    def __init__(self, home: Home, file: Path, config: NodeConfig) -> None:
        self._home = home
        self._file = file.absolute()
        self._config = config
        self._daemon: Daemon | None = None
        self._run: asyncio.Task[None] | None = None
        self._writer = Database(self._file)
        self._reader = Database(self._file, read_only=True)
        self._watch: Watch | None = None
        self._looks: CommitPoll | None = None
        self._watchers: dict[asyncio.Event, None] = {}

    async def __aenter__(self) -> Self:
        """Start the node; return when it serves the file.

        Raises:
            NodeError: this home is in no mesh, another process serves the file, or it is no database; nothing was changed.
        """
        loop = asyncio.get_running_loop()
        self._daemon = Daemon(self._home, self._file, self._config, _log)
        self._run = loop.create_task(_lived(self._daemon))
        try:
            either: list[asyncio.Future[Any]] = [self._run, self._daemon.serving]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self._run.done():
                for database in (self._writer, self._reader):
                    await database.open()
        except (asyncio.CancelledError, SqlError):
            await self._end()
            raise
        if self._run.done():
            self._run.result()
            raise NodeError("the node ended before it served; its notices in the log say why")
        self._watch = Watch(self._file, self._on_commit, self._wake)
        self._watch.start()
        self._looks = CommitPoll(loop, self._wake)
        self._run.add_done_callback(lambda _: self._wake())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stamp what is committed, take leave of the mesh, close the file."""
        if self._watch is not None:
            self._watch.close()
        if self._looks is not None:
            self._looks.cancel()
        await self._end()

    # ---- SQL

    async def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """Run SQL on the file, as any client would; return the rows as tuples, none where it asks for none.

        Raises:
            SqlError: SQLite refuses it.
        """
        self._serving()
        return await self._writer.execute(sql, values)

    async def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """Run one statement for each row of values in one transaction; a large one reaches peers in parts (ADR 0012).

        Raises:
            SqlError: SQLite refuses it; nothing was changed.
        """
        self._serving()
        await self._writer.executemany(sql, rows)

    async def watch(self, select: str, values: Values = ()) -> AsyncGenerator[list[Row], None]:
        """Yield the answer of a query, and again whenever it has changed, by whomever: this program, another, a peer.

        Commits that come faster than the answers are taken are told together. Nothing is done while nothing is committed. Ends
        with the node.

        Raises:
            SqlError: SQLite refuses the query.
            NodeError: the node was not started, or something broke it.
        """
        woken = asyncio.Event()
        self._watchers[woken] = None
        version, told = -1, None
        try:
            self._serving()
            while not self._ended():
                woken.clear()
                seen = await self._reader.version()
                if seen != version:
                    version = seen
                    rows = await self._reader.execute(select, values)
                    if rows != told:
                        told = rows
                        yield rows
                        continue
                await woken.wait()
        finally:
            del self._watchers[woken]

    # ---- the mesh

    async def wait(self, replicas: int, *, timeout_s: float | None = None) -> int:
        """Return on how many nodes, this one counted, everything is that was committed here before this call.

        Raises:
            TimeoutError: not on `replicas` nodes within `timeout_s` seconds (None: it is waited for ever).
            NodeError: the node has ended.
        """
        clock = asyncio.get_running_loop().time
        end_s = math.inf if timeout_s is None else clock() + timeout_s
        position = await self._serving().write_position()
        while True:
            left_s = max(0.0, end_s - clock())
            wait_ms = ASK_MS if left_s * 1000 > ASK_MS else round(left_s * 1000)
            found, _ = await self._serving().count_replicas(position, want=replicas, wait_ms=wait_ms)
            if found >= replicas:
                return found
            if not left_s:
                raise TimeoutError(f"on {found} of {replicas} nodes after {timeout_s:g} s")

    async def status(self) -> Status:
        """Return how this node, its tables and its peers are: what `mycomesh status --json` prints, as a dataclass."""
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
        """Whether the node has ended; raises what broke it."""
        assert self._run is not None
        if self._run.done():
            self._run.result()
            return True
        return False

    async def _end(self) -> None:
        assert self._daemon is not None
        assert self._run is not None
        self._daemon.end()
        await asyncio.wait([self._run])
        for database in (self._writer, self._reader):
            await database.close()
        self._wake()
        if not self._run.cancelled():
            self._run.result()

    def _on_commit(self) -> None:
        self._wake()
        if self._looks is not None:
            self._looks.hint()

    def _wake(self) -> None:
        for woken in self._watchers:
            woken.set()


class SyncNode:
    """A `Node` for programs without an event loop, with the same calls; usable from any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loop = event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mycomesh-node", daemon=True)
        # Nothing is asked of the loop once `_stop` has begun: nobody would answer.
        self._turn, self._running = threading.Lock(), False

    def __enter__(self) -> Self:
        """Start the node; return when it serves the file; raises as `Node` does."""
        with self._turn:
            if self._thread.ident is not None:
                raise NodeError("this node was started before; open another with mesh.open_sync(FILE)")
            self._thread.start()
            self._running = True
        try:
            self._do(self._node.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the node."""
        try:
            self._do(self._node.__aexit__(kind, error, trace))
        finally:
            self._stop()

    def execute(self, sql: str, values: Values = ()) -> list[Row]:
        """As `Node.execute`."""
        return self._do(self._node.execute(sql, values))

    def executemany(self, sql: str, rows: Iterable[Values]) -> None:
        """As `Node.executemany`."""
        self._do(self._node.executemany(sql, rows))

    def watch(self, select: str, values: Values = ()) -> Iterator[list[Row]]:
        """As `Node.watch`: a generator that waits for the next change."""
        answers = self._node.watch(select, values)
        try:
            while True:
                try:
                    yield self._do(answers.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            with contextlib.suppress(NodeError):  # it has ended with the node
                self._do(answers.aclose())

    def wait(self, replicas: int, *, timeout_s: float | None = None) -> int:
        """As `Node.wait`."""
        return self._do(self._node.wait(replicas, timeout_s=timeout_s))

    def status(self) -> Status:
        """As `Node.status`."""
        return self._do(self._node.status())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        with self._turn:
            if not self._running:
                work.close()
                raise NodeError("this node does not run; use it within 'with mesh.open_sync(FILE) as node'")
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except CancelledError as error:
            raise NodeError("this node has ended; open it again") from error
        except BaseException:
            waiting.cancel()  # a ^C while it is waited for
            raise

    def _stop(self) -> None:
        with self._turn:
            self._running = False
        asyncio.run_coroutine_threadsafe(_dismiss(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _dismiss() -> None:
    """Cancel what other threads still ask of this loop: nobody would answer them once it has stopped."""
    asked = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def _lived(daemon: Daemon) -> None:
    """Run a daemon; whatever its user can cause is a `NodeError`."""
    with complaints():
        await daemon.run(signals=False)


def _log(notice: Notice) -> None:
    with contextlib.suppress(ValueError):  # a handler whose stream is closed
        LOGGER.log(LEVELS.get(notice.level, logging.INFO), "%s", notice.text, extra={"event": notice.event})
