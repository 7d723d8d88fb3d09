"""When the node writes its state into its own file, so that any SQLite client can read it (`sync.state`).

Owns the pace. What always holds: an idle node writes nothing and looks at nothing; while things happen the tables are
written at most once in `PERIOD_S`, and so rarely that counting rows takes a hundredth of the time. It must not know what is
written.
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

FIRST_S = 0.5  # after the first of several events: what belongs together is written at once
PERIOD_S = 5.0  # flash wears: some pages each time
SHARE = 100  # of the time that a refresh took


class StateWriter:
    """Calls `refresh` some time after `touch`; belongs on the event loop's thread."""

    def __init__(self, refresh: Callable[[], Awaitable[None]]) -> None:
        self._refresh = refresh
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._not_before_ms = 0

    def touch(self) -> None:
        """Something has happened that may have changed the state."""
        if self._timer is None and self._task is None:
            wait_s = max(FIRST_S, (self._not_before_ms - clock()[0]) / 1000)
            self._timer = self._loop.call_later(wait_s, self._begin)

    def cancel(self) -> None:
        """Write no more."""
        self._not_before_ms = 1 << 62
        for planned in (self._timer, self._task):
            if planned is not None:
                planned.cancel()

    def _begin(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        started_ms = clock()[0]
        with contextlib.suppress(SyncError, NodeError):  # the lock is held, or the file closes: the next time
            await self._refresh()
        ended_ms = clock()[0]
        self._not_before_ms = ended_ms + max(round(1000 * PERIOD_S), SHARE * (ended_ms - started_ms))
        self._task = None
