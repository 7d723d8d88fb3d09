"""The process of one flow: `mycomesh flow run NAME`, by hand or as a child of the node.

It reads pages of the change feed, one ahead, and runs its function for them. A mistake in config.toml or in the SQL ends it with
exit code 2; a node that is away is waited for. The log of changes is its queue: a flow lags, and programs that write never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.judge import FlowStoppedError
from mycomesh.sync.feed.windows import SET_ROWS_MAX
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.tools.child import Parent, Reports, end_with_parent, run_until_signal
from mycomesh.tools.child_state import ChildState
from mycomesh.tools.feed_session import FeedSession
from mycomesh.tools.flows.function import wrong
from mycomesh.tools.flows.keys import site_of
from mycomesh.tools.flows.set_function import LogSet
from mycomesh.tools.flows.settings import HERE, ONE, load, load_with_others
from mycomesh.tools.flows.sql_function import FunctionError, NotReadyError
from mycomesh.tools.flows.writer import Batch, MovedError, Writer
from mycomesh.tools.node_link import NodeLink, serving_status
from mycomesh.tools.succession import FLOWS, Seat, Succession
from mycomesh.tools.tasks import run_together
from mycomesh.tools.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["Flow", "run", "yield_to_urgent"]

PAUSES_S = (0.2, 0.5, 1, 2, 5)  # before the next try, when the node or the file is away
NICE = 5  # of a flow without an urgent table
TABLE_PAUSE_S = 0.2  # while a table is not there yet
ROWS = 1_024  # of a transaction: other programs wait for it some 20 ms
ROWS_MIN = 64
HELD_S = 0.02  # that the statements of one transaction should take, while other programs wait


def run(home: Home, name: str) -> None:
    """Run a flow until SIGTERM or SIGINT.

    Raises:
        ConfigError: its section is wrong, or does not fit its tables.
    """
    settings = load(home, name)
    _, others = load_with_others(home, name)
    parent = end_with_parent()
    run_until_signal(lambda: Flow(home, settings, others, Reports(), parent).run())


def yield_to_urgent(names: Iterable[str], settings: FlowSettings) -> None:
    """Let flows of urgent tables have the processor first, if there are some and neither table of this flow is one."""
    urgent = {fold(name) for name in names}
    if urgent and not urgent & {fold(settings.table), fold(settings.into)}:
        os.nice(NICE)


class Next(Enum):
    """Which changes come next: those behind the page, the page again, or the page again as rows."""

    BEHIND = auto()
    AGAIN = auto()
    AS_ROWS = auto()


class Flow:
    """One flow of one node."""

    def __init__(
        self, home: Home, settings: FlowSettings, others: Sequence[FlowSettings], reports: Reports, parent: Parent
    ) -> None:
        self._home = home
        self._settings = settings
        self._others = others
        self._reports = reports
        self._parent = parent
        self._state = ChildState(reports, lambda: self._writer.figures if self._writer is not None else {})
        self._set = self._state.set
        self._own = ""  # how the sites of this node begin
        self._writer: Writer | None = None
        self._succession: Succession | None = None
        self._turn = asyncio.Lock()  # of the writer: a thread cannot be cancelled, and the file is closed after it

    async def run(self) -> None:
        """Run for ever; what is wrong outside of the section is reported and tried again.

        Raises:
            ConfigError: the SQL does not fit the tables.
        """
        status = await serving_status(self._home, lambda why: self._set("waiting", why))
        self._own = status["node_id"][:16]
        yield_to_urgent(await self._urgent(), self._settings)
        settings = self._settings
        if isinstance(settings.where, tuple) and status["node"] not in settings.where:
            self._set("standing by", f"'where' names other nodes: {', '.join(settings.where)}")
            await asyncio.Event().wait()
        writer = self._writer = Writer(status["file"], settings, self._others)
        try:
            await run_together(
                self._take_turns(writer) if settings.where == ONE else self._keep_running(writer),
                self._state.keep(lambda *now: self._on_thread(writer.show, *now)),
                self._state.retry(self._parent, lambda: self._retry(writer)),
            )
        except FunctionError as error:
            raise wrong(settings.name, str(error)) from error
        finally:
            writer.show("ended", "")
            writer.close()

    async def _urgent(self) -> Sequence[str]:
        """Return the names of the urgent tables, by config.toml or by options of the node."""
        link = NodeLink(self._home)
        try:
            urgent: list[str] = (await link.ask("status", brief=True)).get("urgent", [])
        except NodeError:  # it has ended meanwhile
            return []
        finally:
            link.close()
        return urgent

    async def _take_turns(self, writer: Writer) -> None:
        """Run whenever it is this node's turn. The cursor moves only from where a process left it, also when the turn ends."""
        settings, turn = self._settings, Turn()
        seat = Seat(FLOWS, settings.name, settings.cursor, (settings.table,), settings.begin == "now")
        succession = self._succession = Succession(self._home, seat, turn, self._state.warn)
        try:
            await run_together(self._run_in_turns(writer, turn), succession.run())
        finally:
            await succession.end()

    async def _run_in_turns(self, writer: Writer, turn: Turn) -> None:
        while True:
            while not turn.active:
                self._set("standing by", f"{turn.holder} runs it" if turn.holder else "finding out whose turn it is")
                await turn.wait_for_news()
            await run_together(self._keep_running(writer), turn.wait_for_end())

    async def _keep_running(self, writer: Writer) -> None:
        failures = 0
        while True:
            try:
                await self._read(writer, await self._wait_for_tables(writer))
            except MovedError:
                failures = 0
            except (
                NodeError,
                NotReadyError,
                apsw.BusyError,
                apsw.ReadOnlyError,
                apsw.FullError,
                apsw.IOError,
            ) as error:
                self._set("waiting", str(error))
                await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1
            except FlowStoppedError as error:
                name = self._settings.name
                text = f"{error}; 'mycomesh dead' lists them; repair the cause, then run: mycomesh flow resume {name}"
                self._set("stopped", str(error))
                if self._succession is not None:
                    self._succession.leave()
                self._reports.notify("flow.stopped", f"flow {name!r}: {text}", "warning")
                await asyncio.Event().wait()

    async def _wait_for_tables(self, writer: Writer) -> bool:
        """Return once the tables exist: whether the flow is new, so that it begins with what comes after it."""
        older = await asyncio.to_thread(writer.note_wait)
        while writer.columns() is None:
            self._set("waiting", writer.missing())
            await asyncio.sleep(TABLE_PAUSE_S)
        writer.check()
        return not older

    async def _read(self, writer: Writer, new: bool) -> None:
        """Run the function for page after page; raise what ends it."""
        settings = self._settings
        had = writer.read_position()
        from_now = settings.begin == "now" and new
        stirs = writer.function.depends_on_others
        session = FeedSession(
            self._home, settings.table, settings.cursor, from_now=from_now, rows_max=ROWS, stirs=stirs
        )
        moved = 0
        try:
            size = ROWS
            page = await session.page_beyond(0, wait_ms=0, sets=self._set_size(writer, size))
            if not had:
                writer.read_position()
            while True:
                following = Next.BEHIND
                if not page:
                    await self._on_thread(writer.function.make_ready)
                if self._state.now != ("running", writer.function.note):
                    self._set("running", writer.function.note)
                if isinstance(page, dict) and settings.priority:
                    moved, following = await self._write_first(writer, session, LogSet(**page))
                elif isinstance(page, dict):
                    moved, size = await self._write_set(writer, session, LogSet(**page), size)
                    following = Next.BEHIND if moved else Next.AS_ROWS
                elif page:
                    moved = await self._write(writer, session, self._batch(page))
                if page and writer.judge.stops:
                    raise FlowStoppedError(f"{writer.judge.text} changes of {settings.table} failed")
                if isinstance(page, list) and moved < len(page):
                    return  # there was no time for all: the rest comes from the cursor
                sets = 0 if following is Next.AS_ROWS else self._set_size(writer, size)
                self._state.touch()
                page = await session.page_beyond(moved, sets=sets, back=following is not Next.BEHIND)
                moved = 0
        finally:
            await session.close()

    def _set_size(self, writer: Writer, size: int) -> int:
        """Return how many changes may come as a set, 0 for rows."""
        return SET_ROWS_MAX if self._settings.priority else size * writer.takes_sets

    async def _write_first(self, writer: Writer, session: FeedSession, page: LogSet) -> tuple[int, Next]:
        """Write the results of the most important changes of a page; return how many are done with, and which come next."""
        own = self._own if self._settings.where == HERE else ""
        found: bool | None = await self._on_thread(writer.write_first, page, own, session.place)
        if found is None:
            return 0, Next.AS_ROWS
        return (page.count, Next.BEHIND) if found else (0, Next.AGAIN)

    async def _write_set(self, writer: Writer, session: FeedSession, page: LogSet, size: int) -> tuple[int, int]:
        """Write the results of a page; return how many changes are done with, 0 if they have to go in singly, and the next size.

        The size keeps other programs waiting for `HELD_S` at most, as far as the last page can tell.
        """
        own = self._own if self._settings.where == HERE else ""
        took_s: float | None = await self._on_thread(writer.write_set, page, own, session.place)
        if took_s is None:
            return 0, max(ROWS_MIN, min(size, ROWS) // 2)
        if took_s > HELD_S:
            return page.count, max(ROWS_MIN, size // 2)
        return page.count, min(SET_ROWS_MAX, 2 * size) if took_s < HELD_S / 2 and page.count == size else size

    async def _write(self, writer: Writer, session: FeedSession, batch: Batch) -> int:
        """Write a batch; return how many changes of its page are done with."""
        loop = asyncio.get_running_loop()

        def place_after(count: int) -> bytes:
            return asyncio.run_coroutine_threadsafe(session.place_after(count), loop).result()

        done: int = await self._on_thread(writer.write, batch, session.place, place_after)
        return done

    async def _on_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the writer on a thread, one at a time and to its end."""
        async with self._turn:
            writing = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
            try:
                return await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait([writing])
                raise

    def _batch(self, page: Sequence[dict[str, Any]]) -> Batch:
        """Return what the flow takes in of a page: writes, not deletes, and `here` those of the sites of this node."""
        batch = Batch(len(page))
        here, own = self._settings.where == HERE, self._own
        for place, change in enumerate(page):  # runs for each change
            if change["values"] is None:
                continue
            if here and not (change["id"].rpartition("/")[2].isdigit() and site_of(change["id"]).startswith(own)):
                continue
            batch.changes.append(change)
            batch.places.append(place)
        return batch

    async def _retry(self, writer: Writer) -> None:
        """Run the function again for dead letters; a function that fits no more stops at the next page."""
        with contextlib.suppress(FunctionError):
            await self._on_thread(writer.retry)
            self._state.touch()
