"""Tells programs beside the node that something has happened: a commit to the file, or another set of members in reach.

They wait for the number of the latest news instead of asking again and again. Nothing is computed while nobody waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COMPARE_S", "News"]

COMPARE_S = 0.25  # after the first event of a burst, which may have changed who is in reach


class News:
    """The news of one node. All methods run on the event loop's thread."""

    def __init__(self, first: int, reach: Callable[[], object]) -> None:
        """Begin with a number that no earlier run of the node has had; `reach` returns what is compared."""
        self._loop = asyncio.get_running_loop()
        self._reach = reach
        self._known: object = None
        self._waiting: dict[asyncio.Event, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.number = first

    def on_commit(self) -> None:
        """Note that some program, or the node, has committed to the file."""
        self._tell()

    def on_event(self) -> None:
        """Look soon whether an event of the mesh has changed who is in reach, if anyone waits."""
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_later(COMPARE_S, self._compare)

    def wake(self) -> None:
        """Let those that wait look again, as when the node ends."""
        for woken in self._waiting:
            woken.set()

    async def wait(self, seen: int, wait_s: float) -> None:
        """Return once there is a number other than `seen`, at the latest after `wait_s` seconds."""
        self._compare()
        if self.number != seen:
            return
        woken = asyncio.Event()
        self._waiting[woken] = None
        try:
            async with asyncio.timeout(wait_s):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            del self._waiting[woken]
            if not self._waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _compare(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reach = self._reach()
        if reach != self._known:
            self._known = reach
            self._tell()

    def _tell(self) -> None:
        self.number += 1
        self.wake()
