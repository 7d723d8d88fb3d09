"""Pumps: tasks that bring batches of messages from several subscriptions to one `receive`, with bounded memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mycomesh.tools.bridges.scheme import Arrival

__all__ = ["Pumps"]

BATCHES_MAX = 2  # that wait to be written; more stay with the outside system


class Pumps:
    """Tasks, and the queue that they fill."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[list[Arrival] | BaseException] = asyncio.Queue(BATCHES_MAX)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Run a task that calls `put`; the error that ends it is raised by `get`."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._run(work)))

    async def _run(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 -- it is raised where the batches are read
            await self._queue.put(error)

    async def put(self, arrivals: list[Arrival]) -> None:
        """Pass a batch on; wait while others wait."""
        await self._queue.put(arrivals)

    async def get(self) -> list[Arrival]:
        """Return the next batch, or raise the error of a task."""
        found = await self._queue.get()
        if isinstance(found, BaseException):
            raise found
        return found

    async def close(self) -> None:
        """End all tasks, and forget the batches that wait."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._queue = asyncio.Queue(BATCHES_MAX)
