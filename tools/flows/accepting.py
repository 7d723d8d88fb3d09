"""The process behind [flows]: follows the rows of `mycomesh_flows`, and lets the node run those that config.toml accepts.

It runs none itself: `mycomesh flow run NAME` checks a flow again in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.mesh.node.config import NAME
from mycomesh.mesh.node.errors import ConfigError, NodeError
from mycomesh.tools.child import Reports, end_with_parent, run_until_signal
from mycomesh.tools.feed_session import FeedSession
from mycomesh.tools.flows.accepted import (
    ACCEPTED_MAX,
    CREATE,
    ROWS_MAX,
    SECTION_CHARS_MAX,
    TABLE,
    Acceptance,
    Shared,
    read_accepted,
    shared_flow,
    write_accepted,
)
from mycomesh.tools.flows.settings import names
from mycomesh.tools.node_link import NodeLink, serving_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.node.home import Home

__all__ = ["Accepting", "run"]

PAUSE_S = 2  # before the next try, when the node or the file is away
BUSY_MS = 5_000
NAME_CHARS_MAX = 64
WHY_CHARS_MAX = 500  # of a refusal, which may quote what the member has written
UNSIGNED = f"{TABLE} is not signed, so that its rows prove no author; run: mycomesh policy {TABLE} signed"


def run(home: Home) -> None:
    """Follow the table until SIGTERM or SIGINT.

    Raises:
        ConfigError: the section [flows] is wrong.
    """
    acceptance = Acceptance.load(home)
    end_with_parent()
    run_until_signal(lambda: Accepting(home, acceptance, Reports()).run())


class Accepting:
    """The accepted flows of one node."""

    def __init__(self, home: Home, acceptance: Acceptance, reports: Reports) -> None:
        self._home = home
        self._acceptance = acceptance
        self._reports = reports
        self._rows: dict[str, Shared] = {}
        self._told: dict[str, str] = {}  # name of a flow -> why it was refused

    async def run(self) -> None:
        """Follow the table for ever."""
        while True:
            status = await serving_status(self._home, lambda why: self._reports.report("waiting", why))
            try:
                await asyncio.to_thread(_make_table, status["file"])
                await self._follow()
            except (NodeError, apsw.Error) as error:
                self._reports.report("waiting", str(error))
            await asyncio.sleep(PAUSE_S)

    async def _follow(self) -> None:
        session, link = FeedSession(self._home, TABLE, None, from_now=False, rows_max=256), NodeLink(self._home)
        self._rows.clear()
        try:
            page = await session.page(wait_ms=0)
            while True:
                for change in page:
                    self._take(change)
                if (await link.ask("policy", table=TABLE))["policy"] == "signed":
                    await self._offer(link)
                else:
                    self._reports.report("waiting", UNSIGNED)
                page = await session.page(done=len(page))
        finally:
            link.close()
            await session.close()

    def _take(self, change: Mapping[str, Any]) -> None:
        """Note a change of a row; the author of a flow is the one who wrote its section last."""
        values = change["values"]
        if values is None:
            self._rows.pop(str(change["key"].get("name")), None)
            return
        name, text = values.get("name"), values.get("section")  # a member may have made the table with other columns
        if not isinstance(name, str) or len(name) > NAME_CHARS_MAX:
            return
        known = self._rows.get(name)
        author = change["who"] if "section" in change["columns"] else known.author if known is not None else ""
        if not self._acceptance.takes(author):  # nor does it count: a member that nobody accepts may write any number
            self._rows.pop(name, None)
            return
        if known is None and len(self._rows) >= ROWS_MAX:
            return
        try:
            section = json.loads(text) if isinstance(text, str) and len(text) <= SECTION_CHARS_MAX else None
        except (ValueError, RecursionError):
            section = None
        self._rows[name] = Shared(name, author, section if isinstance(section, dict) else {})

    async def _offer(self, link: NodeLink) -> None:
        """Let the node run what is accepted, each in the version that the table has by now."""
        before = {each.name: each for each in read_accepted(self._home)}
        found = self._accepted()
        same = [each.name for each in found if before.get(each.name) == each]
        await link.ask("children", action="also", kind="flow", names=same)  # ends those with another section
        await asyncio.to_thread(write_accepted, self._home, found)
        await link.ask("children", action="also", kind="flow", names=[each.name for each in found])
        refused = f"; {len(self._told)} refused" if self._told else ""
        self._reports.report("running", f"{len(found)} of {len(self._rows)} shared flows run here{refused}")

    def _accepted(self) -> list[Shared]:
        """Return the rows to run; tell once why others cannot."""
        own, found, refused = set(names(self._home)), list[Shared](), dict[str, str]()
        for row in _in_turns(self._rows):
            name = row.name
            if name in own:
                continue
            try:
                _check(row, len(found), self._acceptance.hosts)
            except ConfigError as error:
                refused[name] = why = (
                    str(error) if len(str(error)) <= WHY_CHARS_MAX else f"{str(error)[:WHY_CHARS_MAX]}..."
                )
                if self._told.get(name) != why:
                    self._reports.notify("flow.refused", f"{why} (shared by {row.author})", "warning")
            else:
                found.append(row)
        self._told = refused
        return found


def _in_turns(rows: Mapping[str, Shared]) -> list[Shared]:
    """Return the rows by name, in turns of their authors: one that shares very many leaves room for the others."""
    shared = Counter[str]()
    turns: list[tuple[int, Shared]] = []
    for _, row in sorted(rows.items()):
        turns.append((shared[row.author], row))
        shared[row.author] += 1
    return [row for _, row in sorted(turns, key=lambda turn: turn[0])]


def _check(row: Shared, others: int, hosts: tuple[str, ...]) -> None:
    if not NAME.fullmatch(row.name):
        raise ConfigError(f"flow {row.name[:80]!r}: a name has 1 to 64 letters, digits, '-' and '_'")
    if others >= ACCEPTED_MAX:
        raise ConfigError(f"[flow.{row.name}] more than {ACCEPTED_MAX} shared flows; remove some from {TABLE}")
    shared_flow(row, hosts, ".")


def _make_table(file: str) -> None:
    with contextlib.closing(apsw.Connection(file, apsw.SQLITE_OPEN_READWRITE)) as db:
        db.set_busy_timeout(BUSY_MS)
        db.execute(CREATE)
