"""The database side of a serving node: one replica and its exchange, reached through the SQL thread.

The event loop calls the public methods, which never block it: they queue a function or an event and await the outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from mycomesh.mesh.node.authority import NodeAuthority
from mycomesh.mesh.node.disk_space import floor_bytes, free_bytes
from mycomesh.mesh.node.errors import HomeError
from mycomesh.mesh.node.extensions import checked_extensions
from mycomesh.mesh.node.idle_trim import trim_heap
from mycomesh.mesh.node.lock_holder import lock_holder
from mycomesh.mesh.node.lock_timer import LockTimer
from mycomesh.mesh.node.shell import clock
from mycomesh.mesh.node.snapshot import reader_states
from mycomesh.mesh.node.sql_thread import ExchangeActed, Report, SqlThread
from mycomesh.mesh.node.status import WritePosition
from mycomesh.mesh.node.watch import written_ms
from mycomesh.sync.errors import DatabaseBusyError, DatabaseError
from mycomesh.sync.events import CommitSeen, Notice
from mycomesh.sync.exchange.acknowledgements import write_position
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig, LinkStatus
from mycomesh.sync.exchange.intake import Host
from mycomesh.sync.exchange.turn import publish_actions
from mycomesh.sync.replica import ConflictLimits, Hooks, Replica, ReplicaConfig, ReplicaStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.node.clock_notes import ClockNotes
    from mycomesh.mesh.node.config import NodeConfig
    from mycomesh.sync.admin.state_tables import NodeState
    from mycomesh.sync.events import Event
    from mycomesh.sync.exchange.area_status import AreaStatus
    from mycomesh.sync.exchange.intake import FileTrouble
    from mycomesh.sync.feed.feed import Cursor, Feed
    from mycomesh.sync.feed.position import Position
    from mycomesh.sync.feed.reader import Page
    from mycomesh.sync.feed.windows import SetPage

    FullStatus = tuple[ReplicaStatus, tuple[LinkStatus, ...], tuple[AreaStatus, ...]]

__all__ = ["ReplicaThread"]

T = TypeVar("T")

DRAIN_STEPS_MAX = 10_000  # chunks that one request drains; the rest follows from the log
STOP_DRAIN_MS_MAX = 4_000  # of the last drain, so that the node ends in time; the next start drains the rest
LOW = "disk.low"  # the one trouble in which the file still takes writes


class ReplicaThread:
    """One replica behind a `SqlThread`. `report` receives what the exchange does; it is called on that thread."""

    def __init__(
        self,
        file: Path,
        identity: Identity,
        config: NodeConfig,
        clock_notes: ClockNotes,
        report: Callable[[Report], None],
    ) -> None:
        self._file = file
        self._identity = identity
        self._config = config
        self._clock_notes = clock_notes
        self._report = report
        self._note_fault = ""  # why the clock could not be noted last, as reported
        self._exchange: Exchange | None = None
        self._on_commit: Callable[[], None] | None = None
        self._last_cursors: list[Cursor] = []
        self._last_status: FullStatus | None = None
        self._lock_timer = LockTimer(time.perf_counter)
        self._sql = SqlThread(self._open, report, clock)

    async def start(self) -> None:
        """Start the thread and open the file; raise the error that prevents it."""
        await asyncio.wrap_future(self._sql.start())

    async def close(self, *, remove: bool) -> None:
        """Close the file and end the thread; with `remove`, first remove everything that replication added to the file."""
        await asyncio.wrap_future(self._sql.stop(self._replica.remove if remove else self._close))

    def submit(self, event: Event) -> None:
        """Queue an event for the exchange."""
        self._sql.submit(event)

    async def check_alive(self) -> None:
        """Return once the thread has run a job."""
        await asyncio.wrap_future(self._sql.call(lambda: None))

    async def status(self, members: Collection[bytes]) -> FullStatus:
        """Return the status of the replica, of its links and of its areas, including everything committed before the call.

        `members` are the node ids of the others. While the file cannot be read, return the last status that could be. During
        a long call, writes may lack their stamps.
        """
        try:
            self._last_status = await self._inspect(lambda between: self._status(members, between))
        except DatabaseError:  # a program has the file locked against readers too
            if self._last_status is None:
                raise
        return self._last_status

    async def links(self) -> tuple[LinkStatus, ...]:
        """Return the status of the links."""
        return await asyncio.wrap_future(self._sql.call(self._links))

    async def areas(self, members: Collection[bytes]) -> tuple[AreaStatus, ...]:
        """Return the status of the areas, given the node ids of the other members."""
        return await asyncio.wrap_future(self._sql.call(lambda: self._areas(members)))

    async def write_position(self) -> WritePosition:
        """Stamp all local writes; return their position."""
        return await self._call(self._write_position)

    async def count_replicas(self, position: WritePosition) -> tuple[int, int, str]:
        """Return how many nodes, including this one, have acknowledged a position, how many peers are linked, and the area.

        That is the area that is on fewer nodes than all tables, as `table[area]`, "" if none is.
        """
        return await asyncio.wrap_future(self._sql.call(lambda: self._count_replicas(position)))

    async def run(self, request: Callable[[Replica], T]) -> T:
        """Run a request on the replica and publish what it changed; return its result."""
        return await self._call(lambda: self._run(request))

    async def query(self, request: Callable[[Replica], T]) -> T:
        """Run a short request on the replica that publishes nothing; return its result."""
        return await self._call(lambda: request(self._replica))

    async def drain(self) -> None:
        """Stamp and publish local writes before the end, as many as the time allows.

        Raises:
            DatabaseError: the file takes no writes now.
        """
        await self._call(lambda: self._drain(clock()[0] + STOP_DRAIN_MS_MAX))

    async def write_state(
        self,
        state_of: Callable[[tuple[LinkStatus, ...], tuple[AreaStatus, ...]], NodeState],
        members: Collection[bytes],
        wall_ms: int,
    ) -> None:
        """Update the state tables to the state that `state_of` makes from links and areas; write only what differs.

        `members` are the node ids of the others.
        """
        await self._call(lambda: self._write_state(state_of(self._links(), self._areas(members)), wall_ms))

    async def begin_reading(self, table: str, cursor: str | None, *, from_now: bool) -> tuple[Position, str]:
        """Return where a reader of the change feed begins, and the table's name on the mesh; create a cursor that is new."""
        return await self._call(lambda: self._begin_reading(table, cursor, from_now=from_now))

    async def read_changes(self, table: str, position: Position, rows_max: int, set_max: int) -> Page | SetPage:
        """Return the changes of a table beyond a position, of everything committed before the call.

        With `set_max` above 0, they are up to so many without their rows, where that can be.
        """
        return await self._call(lambda: self._read_changes(table, position, rows_max, set_max))

    async def cursors(self) -> list[Cursor]:
        """Return the cursors of the change feed; while the file cannot be read, those that were there last."""
        with contextlib.suppress(DatabaseError):
            self._last_cursors = await self._inspect(lambda _: self._replica.feed.cursors(clock()[1]))
        return self._last_cursors

    async def run_feed(self, request: Callable[[Feed, int], T]) -> T:
        """Run a request on the change feed, with the wall time; return its result."""
        return await self._call(lambda: request(self._replica.feed, clock()[1]))

    def observe_commits(self, on_commit: Callable[[], None] | None) -> None:
        """Call a function after each commit of the replica, on its thread."""
        self._on_commit = on_commit
        if self._exchange is not None:
            self._replica.feed.on_commit = on_commit

    def check_for_commit(self) -> None:
        """Drain if another program has committed. Calls that wait in the queue together are one."""
        self._sql.call_once(self._drain_if_stale)

    def note_clock(self) -> None:
        """Record the site's clock in the clock notes."""
        self._sql.call(self._note_clock)

    def trim_memory(self) -> None:
        """Release SQLite's caches and return free memory to the kernel."""
        self._sql.call(self._trim_memory)

    @property
    def trouble(self) -> FileTrouble | None:
        """Why the file takes in no rows of other nodes; None while it does."""
        return None if self._exchange is None else self._exchange.file_trouble

    @property
    def lock_held_ms(self) -> float:
        """The longest time in milliseconds that this node has had the file locked."""
        return self._lock_timer.longest_s * 1000

    async def _call(self, run: Callable[[], T]) -> T:
        """Run a function on the SQL thread, with SQLite's errors about the file as `DatabaseError`."""

        def translated() -> T:
            with self._replica.store.translated():
                return run()

        return await asyncio.wrap_future(self._sql.call(translated))

    async def _inspect(self, run: Callable[[bool], T]) -> T:
        """Run a function that only reads, as `_call`, and also between two transactions of a long call: it then gets True."""

        def translated(between: bool) -> T:
            with self._replica.store.translated():
                return run(between)

        return await asyncio.wrap_future(self._sql.inspect(translated))

    # ---- on the SQL thread

    def _write_state(self, state: NodeState, wall_ms: int) -> None:
        if self._replica.feed.active:
            state = replace(state, readers=reader_states(self._replica.feed.cursors(wall_ms)))
        self._replica.state.refresh(state, wall_ms)

    def _begin_reading(self, table: str, cursor: str | None, *, from_now: bool) -> tuple[Position, str]:
        feed, wall_ms = self._replica.feed, clock()[1]
        self._drain()  # the table may have been created a moment ago
        if cursor is not None:
            self._publish(feed.create(cursor, table, wall_ms, from_now=from_now)[0])
            return feed.position(cursor, table), feed.table(table).spec.folded
        found: list[Position] = []
        self._publish(
            self._replica.outbox.read_drained(wall_ms, lambda: found.append(feed.start(table, from_now=from_now)))
        )
        return found[-1], feed.table(table).spec.folded

    def _read_changes(self, table: str, position: Position, rows_max: int, set_max: int) -> Page | SetPage:
        if set_max:
            found, published = self._replica.feed.read_set(table, position, clock()[1], rows_max=set_max)
            self._publish(published)
            if found is not None:
                return found
        page, published = self._replica.feed.read(table, position, clock()[1], rows_max=rows_max)
        self._publish(published)
        return page

    def _publish(self, batches: list[bytes]) -> None:
        if batches:
            exchange = self._exchange  # None while the file is opened for the first time
            self._report(ExchangeActed(publish_actions(batches) if exchange is None else exchange.publish(batches)))

    @property
    def _replica(self) -> Replica:
        assert self._exchange is not None, "used before the file was open"
        return self._exchange.replica

    def _open(self) -> Exchange:
        if self._exchange is not None:  # a backup has replaced the file's content
            self._note_clock()
            self._replica.close()
        last_ms = written_ms(self._file)  # before this node writes to it
        replica = Replica.open(
            str(self._file),
            node_id=self._identity.node_id,
            mesh_key=self._identity.digest_key,
            entropy=os.urandom,
            config=ReplicaConfig(
                only=self._config.only,
                exclude=self._config.exclude,
                urgent=self._config.urgent,
                tables=self._config.tables,
                conflicts=ConflictLimits(
                    records=self._config.conflicts_max,
                    size=self._config.conflicts_mb_max * 1_000_000,
                    age_days=self._config.conflicts_days_max,
                ),
                sqlite_floor=self._config.sqlite_floor,
                cursor_days=self._config.cursor_days,
                extensions=checked_extensions(self._config.extensions),
                interest=self._config.keep.interest(self._identity.name),
            ),
            recalled=self._clock_notes.clocks(),
            hooks=Hooks(
                authority=NodeAuthority(self._identity),
                on_lock=self._lock_timer,
                sleep=time.sleep,
                pause=self._sql.pause_if_due,
                publish=self._publish,
            ),
        )
        replica.outbox.record_last_write(last_ms)
        host = Host(
            free_bytes=lambda: free_bytes(self._file),
            free_bytes_min=floor_bytes(self._file, self._config.free_mb_min),
            lock_holder=lambda: lock_holder(self._file),
        )
        replica.feed.on_commit = self._on_commit
        self._exchange = Exchange(
            replica,
            rng=random.Random(os.urandom(16)),
            config=ExchangeConfig(copies=self._config.keep.copies),
            host=host,
        )
        return self._exchange

    def _close(self) -> None:
        try:
            self._note_clock()
        finally:
            self._replica.close()

    def _note_clock(self) -> None:
        try:
            self._clock_notes.record(*self._replica.noted)
        except HomeError as error:  # peers know the stamps too; without the home a restored backup is noticed later
            if str(error) != self._note_fault:
                self._report(ExchangeActed([Notice("home.unwritable", str(error), {}, "warning")]))
            self._note_fault = str(error)
        else:
            self._note_fault = ""

    def _trim_memory(self) -> None:
        self._replica.shrink()
        trim_heap()

    def _status(self, members: Collection[bytes], between: bool) -> FullStatus:
        if not between and self._replica.outbox.stale():  # so that a user sees the table that he has just created
            self._sql.handle_now(CommitSeen())
        return self._replica.status(), self._links(), self._areas(members)

    def _links(self) -> tuple[LinkStatus, ...]:
        assert self._exchange is not None
        return self._exchange.links(clock()[0])

    def _areas(self, members: Collection[bytes]) -> tuple[AreaStatus, ...]:
        assert self._exchange is not None
        return self._exchange.areas(members, clock()[0])

    def _write_position(self) -> WritePosition:
        self._drain()
        return WritePosition(self._replica.site, write_position(self._replica))

    def _count_replicas(self, position: WritePosition) -> tuple[int, int, str]:
        assert self._exchange is not None
        count, least = self._exchange.acknowledgements.replicas(position.site, position.tables)
        return count, len(self._links()), self._replica.registry.local_name(least) if least else ""

    def _run(self, request: Callable[[Replica], T]) -> T:
        self._drain()  # writes before the request get earlier stamps
        result = request(self._replica)
        self._sql.handle_now(CommitSeen())
        return result

    def _drain(self, end_ms: int | None = None) -> None:
        """Stamp all local writes, or those that can be stamped until `end_ms` (monotonic)."""
        for _ in range(DRAIN_STEPS_MAX):
            self._sql.handle_now(CommitSeen())
            if not self._replica.outbox.stale() or (end_ms is not None and clock()[0] >= end_ms):
                return
            trouble = self.trouble
            if trouble is not None and trouble.code != LOW:
                raise DatabaseBusyError(trouble.text)

    def _drain_if_stale(self) -> None:
        with self._replica.store.translated():
            stale = self._replica.outbox.stale()
        if stale:
            self._sql.handle_now(CommitSeen(writing=True))
