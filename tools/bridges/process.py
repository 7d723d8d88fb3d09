"""The process of one bridge: `mycomesh bridge run NAME`, by hand or as a child of the node.

It connects, runs one task for each table that goes out and one for what comes in, and begins again when the connection is lost.
A mistake in config.toml ends it with exit code 2; anything outside that is wrong is reported and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import apsw

from mycomesh.mesh.node.errors import ConfigError, NodeError
from mycomesh.mesh.node.judge import FlowStoppedError
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.tools.bridges.figures import Figures
from mycomesh.tools.bridges.inbound import receive
from mycomesh.tools.bridges.outbound import Outbound, check_columns, cursor_of
from mycomesh.tools.bridges.scheme import LinkError, SchemeError
from mycomesh.tools.bridges.settings import load
from mycomesh.tools.bridges.writer import Writer
from mycomesh.tools.child import Parent, Reports, end_with_parent, run_until_signal
from mycomesh.tools.child_state import ChildState
from mycomesh.tools.node_link import serving_status
from mycomesh.tools.succession import BRIDGES, Seat, Succession
from mycomesh.tools.tasks import run_together
from mycomesh.tools.turn import Turn

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.bridges.scheme import Scheme
    from mycomesh.tools.bridges.settings import BridgeSettings

__all__ = ["Bridge", "run"]

PAUSES_S = (0.2, 0.5, 1, 2, 5)  # before the next connection
REFUSED_PAUSE_S = 15  # where the outside system refuses, a person has to act
TABLE_PAUSE_S = 1  # while a table is not there yet
STEADY_S = 10  # a connection that has served for so long begins with the shortest pause, and the log has its end


def run(home: Home, name: str) -> None:
    """Run a bridge until SIGTERM or SIGINT.

    Raises:
        ConfigError: its section is wrong.
    """
    settings = load(home, name)
    parent = end_with_parent()
    run_until_signal(lambda: Bridge(home, settings, Reports(), parent).run())


class Bridge:
    """One bridge of one node."""

    def __init__(self, home: Home, settings: BridgeSettings, reports: Reports, parent: Parent) -> None:
        self._home = home
        self._settings = settings
        self._reports = reports
        self._parent = parent
        self._state = ChildState(reports, lambda: self._figures.values)
        self._set = self._state.set
        self._figures = Figures(self._state.touch)
        self._turn = Turn()
        self._told = ""
        self._members: frozenset[str] = frozenset()
        self._succession: Succession | None = None

    async def run(self) -> None:
        """Run for ever; what is wrong is reported and tried again.

        Raises:
            ConfigError: the section does not fit the table.
        """
        status = await serving_status(self._home, lambda why: self._set("waiting", why))
        self._on_members([status["node_id"], *(peer["node_id"] for peer in status["peers"])])
        settings = self._settings
        if settings.on and status["node"] not in settings.on:
            self._set("standing by", f"'on' names other nodes: {', '.join(settings.on)}")
            await asyncio.Event().wait()
        options = settings.options(status["node"], settings.secrets(), self._figures.add, self._notify)
        writer = Writer(status["file"], settings, self._figures, self._is_own)
        try:
            scheme = settings.scheme(options)
            self._make_tables(writer, scheme)
            await self._wait_for_tables(writer)
            await run_together(
                self._take_turns(scheme, writer),
                self._state.keep(lambda *now: asyncio.to_thread(writer.show, *now)),
                self._state.retry(self._parent, lambda: self._retry(writer), always=True),
            )
        finally:
            with contextlib.suppress(apsw.Error):
                writer.show("ended", "")
            writer.close()

    def _is_own(self, message_id: str) -> bool:
        """Return whether the id of a message is that of a change of this mesh: its site begins with a member's id."""
        parts = message_id.split("/")
        return len(parts) >= 3 and any(part[:16] in self._members for part in parts[1:] if len(part) == 32)

    def _make_tables(self, writer: Writer, scheme: Scheme) -> None:
        if not self._settings.create:
            return
        for pattern in self._settings.incoming:
            if pattern.text in scheme.schema:
                writer.execute(scheme.schema[pattern.text].replace("{table}", quoted(pattern.table)))

    async def _wait_for_tables(self, writer: Writer) -> None:
        """Return once every table is there; raise `ConfigError` if a topic does not fit its table."""
        tables = {*self._settings.out, *(pattern.table for pattern in self._settings.incoming)}
        for table in sorted(tables):
            while (shape := writer.shape(table)) is None:
                self._set("waiting", f"there is no table {table} yet")
                await asyncio.sleep(TABLE_PAUSE_S)
            wrong = (
                check_columns(self._settings, table, list(shape.columns), shape.key)
                if table in self._settings.out
                else ""
            )
            if wrong:
                raise ConfigError(f"[bridge.{self._settings.name}] {wrong}")

    async def _take_turns(self, scheme: Scheme, writer: Writer) -> None:
        """Serve whenever it is this node's turn, which for some schemes is always."""
        if scheme.everywhere:
            self._turn.set(active=True, holder="")
            await self._serve(scheme, writer)
            return
        name, begin, out = self._settings.name, self._settings.begin, self._settings.out
        seat = Seat(BRIDGES, name, cursor_of(name), out, begin == "now", writer.offsets, writer.follow)
        succession = self._succession = Succession(self._home, seat, self._turn, self._warn)
        try:
            await run_together(self._serve(scheme, writer), succession.run(self._on_members))
        finally:
            await succession.end()

    def _on_members(self, ids: list[str]) -> None:
        self._members = frozenset(each[:16] for each in ids)

    async def _stand_by(self) -> None:
        """Return once it is this node's turn; say meanwhile whose turn it is."""
        while not self._turn.active:
            holder = self._turn.holder
            self._set("standing by", f"{holder} publishes" if holder else "finding out whose turn it is")
            await self._turn.wait_for_news()

    async def _serve(self, scheme: Scheme, writer: Writer) -> None:
        failures = 0
        while True:
            if not scheme.receives_everywhere:
                await self._stand_by()
            pause_s: float = 0
            try:
                await scheme.connect()
                began = time.monotonic()
                try:
                    await self._flow(scheme, writer)
                finally:
                    if time.monotonic() - began > STEADY_S:
                        self._told, failures = "", 0
            except (LinkError, NodeError) as error:
                pause_s = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
                failures += 1
                self._set("waiting", str(error))
                self._tell("bridge.waiting", f"{error}; tries again")
                self._figures.add("reconnects")
            except apsw.BusyError:
                pause_s = PAUSES_S[-1]
                self._set("waiting", "another program keeps the file locked; the bridge goes on when it has ended")
            except SchemeError as error:
                pause_s = REFUSED_PAUSE_S
                self._set("refused", str(error))
                self._tell("bridge.refused", str(error))
            except FlowStoppedError as error:
                self._set("stopped", str(error))
                self._tell(
                    "bridge.stopped",
                    f"{error}; 'mycomesh dead' lists them; repair the cause, then run: mycomesh bridge"
                    f" resume {self._settings.name}",
                )
                if self._succession is not None:
                    self._succession.leave()
                await scheme.close()
                await asyncio.Event().wait()
            finally:
                await scheme.close()
            await asyncio.sleep(pause_s)

    async def _flow(self, scheme: Scheme, writer: Writer) -> None:
        """Run all directions until one of them fails; raise its error."""
        settings = self._settings
        is_echo = (lambda _change: False) if scheme.returns_rows else writer.is_echo
        works = [
            Outbound(self._home, settings, table, self._figures, is_echo).run(scheme, self._turn)
            for table in settings.out
        ]
        if settings.incoming:
            alone = scheme.everywhere or scheme.receives_everywhere
            works.append(receive(scheme, writer, None if alone else self._turn, lambda: self._set("running", "")))
        if not scheme.receives_everywhere:
            works.append(self._turn.wait_for_end())
        if not settings.incoming:
            self._set("running", "")
        await run_together(*works, scheme.watch())

    # ---- reports

    def _tell(self, event: str, text: str) -> None:
        """Let the node log a notice, once for each cause in turn."""
        if text != self._told:
            self._told = text
            self._reports.notify(event, f"bridge {self._settings.name!r}: {text}", "warning")

    def _warn(self, text: str) -> None:
        self._state.warn(text)
        if text:
            self._tell("child.alone", text)

    def _notify(self, event: str, text: str) -> None:
        """Let the node log a notice of the scheme."""
        self._reports.notify(event, f"bridge {self._settings.name!r}: {text}", "warning")

    async def _retry(self, writer: Writer) -> None:
        """Write the dead letters again that are to be tried again."""
        if self._settings.incoming:
            await asyncio.to_thread(writer.retry)
