"""Schedules writes of the node's state tables, which any SQLite client can read (`sync.admin.state_tables`).

Invariants: an idle node writes nothing and reads nothing. A busy node writes at most once in `PERIOD_S`, and so rarely that
counting the rows takes at most a hundredth of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.shell import clock
from mycomesh.sync.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["FIRST_S", "PERIOD_S", "StateWriter"]

FIRST_S = 0.5  # after the first event of a burst, so that one write covers the burst
PERIOD_S = 5.0  # each write costs some flash pages
PAUSE_FACTOR = 100  # the pause after a refresh, in multiples of the time that the refresh took


class StateWriter:
    """Calls `refresh` some time after `touch`; runs on the event loop's thread."""

    def __init__(self, refresh: Callable[[], Awaitable[None]]) -> None:
        self._refresh = refresh
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._not_before_ms = 0

    def touch(self) -> None:
        """Plan a refresh: the state may have changed."""
        if self._timer is None and self._task is None:
            wait_s = max(FIRST_S, (self._not_before_ms - clock()[0]) / 1000)
            self._timer = self._loop.call_later(wait_s, self._start)

    def cancel(self) -> None:
        """Stop writing for good; cancel a refresh that is planned or running."""
        self._not_before_ms = 1 << 62
        for pending in (self._timer, self._task):
            if pending is not None:
                pending.cancel()

    def _start(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        started_ms = clock()[0]
        with contextlib.suppress(SyncError, NodeError):  # the file is locked or closing; the next refresh catches up
            await self._refresh()
        ended_ms = clock()[0]
        self._not_before_ms = ended_ms + max(round(1000 * PERIOD_S), PAUSE_FACTOR * (ended_ms - started_ms))
        self._task = None
