"""The state and the figures of a bridge or a flow, reported and kept for SQL when they change, and retries on request.

Nothing runs while nothing changes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.tools.child import Parent, Reports, is_supervised

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["ChildState"]

REPORT_S = 1  # between two reports
RETRY_S = 2  # before dead letters are tried again whose file was locked
ALONE_S = 2  # between two looks for them without a node that tells of them


class ChildState:
    """The state of one child."""

    def __init__(self, reports: Reports, figures: Callable[[], Mapping[str, float]]) -> None:
        """Take where reports go, and a function that returns the figures."""
        self._reports = reports
        self._figures = figures
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._touched = False  # `_changed` is set, or about to be
        self._running = asyncio.Event()
        self._last: tuple[Any, ...] = ()
        self.now = ("starting", "")
        self._plain = self.now
        self._warning = ""

    def set(self, state: str, text: str) -> None:
        """Report a state at once, and why."""
        self._plain = (state, text)
        text = "; ".join(part for part in (text, self._warning) if part)
        self.now = (state, text)
        if state == "running":
            self._running.set()
        else:
            self._running.clear()
        self._reports.report(state, text, self._figures())
        self.touch()

    def warn(self, text: str) -> None:
        """Add a text to this state and those that follow, until another call takes its place; "" removes it."""
        if text != self._warning:
            self._warning = text
            self.set(*self._plain)

    def touch(self) -> None:
        """Note that figures may have changed; from any thread."""
        if not self._touched:
            self._touched = True
            self._loop.call_soon_threadsafe(self._changed.set)

    async def keep(self, show: Callable[[str, str], Awaitable[None]]) -> None:
        """Report figures when they have changed, and write them with the state by `show`, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._touched = False
            seen = (self.now, dict(self._figures()))
            if seen != self._last:
                self._last = seen
                self._reports.report(*self.now, seen[1])
                await show(*self.now)
            await asyncio.sleep(REPORT_S)

    async def retry(self, parent: Parent, again: Callable[[], Awaitable[None]], *, always: bool = False) -> None:
        """Try dead letters again by `again` at first and whenever the node asks for it, for ever.

        That waits for the state `running`, unless it may be done `always`.
        """
        asked = parent.retry_event()
        while True:
            await asked.wait()
            if not always:
                await self._running.wait()
            asked.clear()
            try:
                await again()
            except apsw.BusyError:
                asked.set()
                await asyncio.sleep(RETRY_S)
            if not is_supervised():  # nobody asks
                asked.set()
                await asyncio.sleep(ALONE_S)
