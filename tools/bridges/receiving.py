"""Pumps: bring messages from several subscriptions, pulled or pushed, to one `receive` in batches, with bounded memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mycomesh.tools.bridges.scheme import LinkError
from mycomesh.tools.tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mycomesh.tools.bridges.scheme import Arrival

__all__ = ["Pumps"]

BATCHES_MAX = 2  # that wait to be written; more stay with the outside system
BATCH_S = 0.01  # pushed messages that come within it are one transaction


class Pumps:
    """Tasks and callbacks, and the queue that they fill."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[list[Arrival] | BaseException] = asyncio.Queue(BATCHES_MAX)
        self._tasks: list[asyncio.Task[None]] = []
        self._collected: list[Arrival] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a task that calls `put`; the error that ends it is raised by `get`."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(work)))

    async def _run(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self._queue.put(LinkError("the client library gave up a request"))
        except Exception as error:  # noqa: BLE001 -- it is raised where the batches are read
            await self._queue.put(error)

    async def put(self, arrivals: list[Arrival]) -> None:
        """Pass a batch on; wait while others wait."""
        await self._queue.put(arrivals)

    def collect(self, arrival: Arrival) -> None:
        """Take a message that a client pushes; the number without an acknowledgement is bounded there."""
        self._collected.append(arrival)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self._pass_on)

    def _pass_on(self) -> None:
        self._timer = None
        if self._queue.full():
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self._pass_on)
            return
        collected, self._collected = self._collected, []
        self._queue.put_nowait(collected)

    async def get(self) -> list[Arrival]:
        """Return the next batch, or raise the error of a task."""
        found = await self._queue.get()
        if isinstance(found, BaseException):
            raise found
        return found

    async def close(self) -> None:
        """End all tasks, and forget the messages that wait."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._collected = None, []
        self._queue = asyncio.Queue(BATCHES_MAX)
