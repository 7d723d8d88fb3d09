"""Tells live queries of commits to the file, by the same watch as the node's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from mycomesh.mesh.node.watch import Watch

__all__ = ["Commits"]


class Commits:
    """Wakes the live queries of one console; nothing is watched without one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch: Watch | None = None
        self._waiting: dict[asyncio.Event, None] = {}

    @contextlib.contextmanager
    def observing(self) -> Iterator[Callable[[float], Awaitable[bool]]]:
        """Yield a function that waits for a commit, at most so many seconds, and returns whether there was one."""
        woken = asyncio.Event()

        async def committed(limit_s: float) -> bool:
            try:
                async with asyncio.timeout(limit_s):
                    await woken.wait()
            except TimeoutError:
                return False
            woken.clear()
            return True

        self._waiting[woken] = None
        if self._watch is None:
            self._watch = Watch(self._path, self._wake, self._wake)
            self._watch.start()
        try:
            yield committed
        finally:
            del self._waiting[woken]
            if not self._waiting and self._watch is not None:
                self._watch.close()
                self._watch = None

    def _wake(self) -> None:
        for woken in self._waiting:
            woken.set()
