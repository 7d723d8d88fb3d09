"""Readers of the change feed at one node: each waits without polling for changes of a table, and moves its cursor.

The replica's thread wakes waiting readers after each commit. A named cursor has one reader at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from mycomesh.mesh.node.judge import FAILED_MAX, JUDGED_MAX
from mycomesh.sync.errors import FeedError
from mycomesh.sync.feed.reader import PAGE_ROWS_MAX, Page
from mycomesh.sync.feed.windows import SetPage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mycomesh.mesh.node.replica_thread import ReplicaThread
    from mycomesh.sync.feed.change import Change
    from mycomesh.sync.feed.position import Position

__all__ = ["FAILED_MAX", "JUDGED_MAX", "READERS_MAX", "UNDONE_MAX", "Reader", "Readers"]

READERS_MAX = 256
# Changes that a reader has got and not acknowledged: beyond it nothing more is delivered, so that memory is bounded.
UNDONE_MAX = 10_000
STIR_S = 0.5  # between two answers to a reader that asks for commits to any table


class Readers:
    """The readers of one node. All methods run on the event loop's thread."""

    def __init__(self, replica: ReplicaThread, names: Callable[[], dict[str, str]]) -> None:
        """Take the replica, and a function that returns the members' names by the first 16 hexadecimal digits of their sites."""
        self._replica = replica
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Event, None] = {}
        self._open: dict[Reader, None] = {}
        self._ended = False

    async def open(self, table: str, cursor: str | None = None, *, from_now: bool = False) -> Reader:
        """Begin to read a table, from a cursor if it has a name; a new cursor begins with the rows that are there.

        Raises:
            FeedError: no such table, a cursor that another reader uses, or too many readers.
        """
        if len(self._open) >= READERS_MAX:
            raise FeedError(f"{READERS_MAX} readers are open already; end some of them")
        reader = Reader(self, self._replica, table, cursor)
        if any(cursor is not None and other.is_same(reader) for other in self._open):
            raise FeedError(
                f"cursor {cursor!r} of {table} is in use by another reader; end that one, or give another name"
            )
        self._open[reader] = None
        try:
            await reader.start(from_now=from_now)
        except BaseException:
            del self._open[reader]
            raise
        return reader

    def close(self, reader: Reader) -> None:
        """Let another reader use the cursor."""
        self._open.pop(reader, None)

    def end(self) -> None:
        """End all readers, as the node ends."""
        self._ended = True
        self._wake()

    @contextlib.contextmanager
    def observing(self, woken: asyncio.Event) -> Iterator[None]:
        """Set `woken` after each commit within the block, and when the node ends."""
        self._waiting[woken] = None
        self._replica.observe_commits(self._on_commit)
        try:
            yield
        finally:
            del self._waiting[woken]
            if not self._waiting:
                self._replica.observe_commits(None)

    @property
    def ended(self) -> bool:
        """Whether the node has begun to end."""
        return self._ended

    def name_of(self, site: bytes) -> str:
        """Return the name of the member that writes under a site, "" if it is not known."""
        return self._names().get(site.hex()[:16], "")

    def _on_commit(self) -> None:
        """Wake the readers; the replica's thread calls this."""
        self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for woken in self._waiting:
            woken.set()


class Reader:
    """One reader of one table. `page` and `move` are called one after another."""

    def __init__(self, readers: Readers, replica: ReplicaThread, table: str, cursor: str | None) -> None:
        self._readers = readers
        self._replica = replica
        self._position: Position | None = None  # behind the last page that was returned
        self._undone = 0
        self._judged: deque[bool] = deque(maxlen=JUDGED_MAX)  # whether each of the last changes failed
        self.table = table
        self.canonical = table  # the table's name on the mesh, by which cursors know it
        self.cursor = cursor

    def is_same(self, other: Reader) -> bool:
        """Return True if both read one table from one cursor."""
        return self.cursor == other.cursor and self.table.casefold() == other.table.casefold()

    async def start(self, *, from_now: bool) -> None:
        """Find the position to begin at; raises `FeedError` as `Readers.open`."""
        self._position, self.canonical = await self._replica.begin_reading(self.table, self.cursor, from_now=from_now)

    async def page(self, *, rows_max: int = PAGE_ROWS_MAX, wait_s: float | None = None) -> Page | None:
        """Return the next page with changes; None if the node ends, or if there are none within `wait_s` seconds.

        Raises:
            FeedError: the table is gone, or `UNDONE_MAX` changes wait for their acknowledgement.
            DatabaseError: the file cannot be read now; the same call may succeed later.
        """
        page = await self.page_or_set(rows_max=rows_max, wait_s=wait_s)
        assert not isinstance(page, SetPage), "not asked for"
        return page

    async def page_or_set(
        self, *, rows_max: int = PAGE_ROWS_MAX, set_max: int = 0, wait_s: float | None = None, stirs: bool = False
    ) -> Page | SetPage | None:
        """Return the next page as `page` does; with `set_max`, up to so many changes without their rows, where that can be.

        With `stirs`, return None after a commit to any table, too, but not sooner than after `STIR_S`.

        Raises:
            FeedError: the table is gone, or `UNDONE_MAX` changes wait for their acknowledgement.
            DatabaseError: the file cannot be read now; the same call may succeed later.
        """
        assert self._position is not None, "started"
        if self.stopped:
            raise FeedError(
                f"{sum(self._judged)} of the last {len(self._judged)} changes of {self.table} failed, so the reader stops;"
                " repair the cause and read again ('mycomesh dead' lists the changes)"
            )
        if self.cursor is not None and self._undone >= UNDONE_MAX:
            raise FeedError(
                f"the reader of {self.table} with cursor {self.cursor!r} has {self._undone:,} changes that it has not"
                " acknowledged; acknowledge them before it gets more"
            )
        woken, clock = asyncio.Event(), asyncio.get_running_loop().time
        end = None if wait_s is None else clock() + wait_s
        stirs_from = clock() + STIR_S
        with self._readers.observing(woken):
            while not self._readers.ended:
                woken.clear()
                page = await self._replica.read_changes(self.table, self._position, rows_max, set_max)
                self._position = page.position
                if page.count:
                    self._undone += page.count
                    for change in page.changes if isinstance(page, Page) else ():
                        change.who = self.name_of(change.site)
                    return page
                if page.more:
                    continue
                try:
                    async with asyncio.timeout(None if end is None else end - clock()):
                        await woken.wait()
                except TimeoutError:
                    return None
                if stirs:
                    end = min(stirs_from, end or stirs_from)
        return None

    def name_of(self, site: bytes) -> str:
        """Return the name of the member that writes under a site, "" if it is not known."""
        return self._readers.name_of(site)

    def go_back(self, pages: Sequence[Page | SetPage]) -> None:
        """Read again from before some pages that are not acknowledged, the oldest first."""
        if pages:
            self._position = pages[0].before.copy()
            self._undone = max(0, self._undone - sum(page.count for page in pages))

    async def move(self, position: Position, count: int) -> None:
        """Acknowledge so many changes, up to a position of a page: the cursor does not return before it."""
        self.acknowledged(count)
        if self.cursor is not None:
            cursor = self.cursor
            await self._replica.run_feed(lambda feed, wall_ms: feed.move(cursor, self.table, position, wall_ms))

    async def set_aside(self, change: Change, why: str, tries: int) -> None:
        """Keep a change as a dead letter of this reader's cursor."""
        if self.cursor is None:
            raise FeedError(f"a reader of {self.table} without a cursor has no dead letters; give it a name")
        cursor = self.cursor
        await self._replica.run_feed(lambda feed, wall_ms: feed.set_aside(cursor, change, why, tries, wall_ms))
        self._undone = max(0, self._undone - 1)
        self._judged.append(True)

    def resume(self) -> None:
        """Forget the failures."""
        self._judged.clear()

    @property
    def stopped(self) -> bool:
        """Whether too many of the last changes have failed."""
        return sum(self._judged) >= FAILED_MAX

    def acknowledged(self, count: int) -> None:
        """Note that a cursor has moved by so many changes, perhaps in a transaction of the reader's own."""
        self._undone = max(0, self._undone - count)
        self._judged.extend([False] * min(count, JUDGED_MAX))

    def close(self) -> None:
        """End this reader; its cursor stays."""
        self._readers.close(self)
