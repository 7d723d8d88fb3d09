"""Structured concurrency for tasks that call client libraries, which may lose a cancellation.

Before Python 3.12 `asyncio.wait_for` returns the result of its task, and no `CancelledError`, if both come at once. Libraries
call it, so one `cancel()` is no promise that a task ends. `asyncio.timeout` has no such gap; ruff bans `wait_for` here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

__all__ = ["end_tasks", "run_together"]

AGAIN_S = 5  # more than a task needs to clean up


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, again and again, until each has ended; their errors are left in them."""
    left = list(tasks)
    while left := [task for task in left if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=AGAIN_S)


async def run_together(*works: Coroutine[Any, Any, Any]) -> None:
    """Run coroutines until one of them ends, end the others, and raise the first error in the order of `works`."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    first = next((error for error in errors if error is not None), None)
    if first is not None:
        raise first
