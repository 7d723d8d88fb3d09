"""Tells when a running node loses its home: the directory was removed, or a file in it cannot be written.

A node goes on serving without its home, because its keys are in memory and its rows in the database. But commands do not reach
it, and what the mesh decides meanwhile is lost with the process, so a person must learn of it.

Invariant: each fault is reported once, until it has gone away.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from mycomesh.mesh.events import Notice
from mycomesh.mesh.node.errors import HomeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.mesh.node.control.server import ControlServer
    from mycomesh.mesh.node.home import Home

__all__ = ["CHECK_S", "HomeWatch"]

CHECK_S = 10  # between two looks at the home: two stat calls each, and a person notices no sooner
KEYS = ("identity", "join")  # a home has one of these as long as a node runs


class HomeWatch:
    """Watches the home of one run, and stores what may fail to be stored. Runs on the event loop's thread."""

    def __init__(self, home: Home, control: ControlServer, notify: Callable[[Notice], None]) -> None:
        self._home = home
        self._control = control
        self._notify = notify
        self._task: asyncio.Task[None] | None = None
        self._removed = ""
        self._unwritable = ""

    @property
    def fault(self) -> str:
        """The known fault of the home, in one line; empty without one."""
        return self._removed or self._unwritable

    def start(self) -> None:
        """Begin to look at the home now and then."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def stop(self) -> None:
        """Stop looking. Not an error if it was never started."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def store(self, write: Callable[[], None]) -> None:
        """Write a file of the home; report an error instead of raising it, because what is in memory stays valid."""
        try:
            write()
        except HomeError as error:
            text = f"{error}; what changes in the mesh is kept in memory only"
            if text != self._unwritable:
                self._notify(Notice("home.unwritable", text, level="warning"))
            self._unwritable = text
        else:
            self._unwritable = ""

    async def check(self) -> None:
        """Look at the home once: report its removal, and open the control socket again if only that is gone."""
        if not any((self._home.state / name).exists() for name in KEYS):
            if not self._removed:
                self._removed = (
                    f"the keys in {self._home.state} were removed while the node runs: they are in memory only, and commands"
                    f" do not reach the node; put them back from a backup, or stop process {os.getpid()} and join again"
                )
                self._notify(Notice("home.removed", self._removed, level="warning"))
            return
        self._removed = ""
        if self._control.is_reachable():
            return
        try:  # a login session that ended took its runtime directory along, or a cleaner removed the socket
            self._home.prepare()
            await self._control.reopen()
        except HomeError as error:
            self.store(_failing(error))
        else:
            self._notify(
                Notice("control.reopened", f"the control socket {self._home.sockets[0]} was removed; it is back")
            )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self.check()


def _failing(error: HomeError) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
