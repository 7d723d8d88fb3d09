"""Measures how long the node locks the file against writes by other programs, and keeps Python's garbage collector out.

A collection walks through all objects of the process, which takes tens of milliseconds on a small machine, so it waits until
the lock is free. The SQL thread alone calls the timer; other threads read one number.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LockTimer"]


class LockTimer:
    """Called with True when SQLite's write lock is taken and with False when it is free.

    `clock` returns monotonic seconds. `longest_s` is the longest time between the two since the node started.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.longest_s = 0.0
        self._clock = clock
        self._locked_at_s = 0.0
        self._gc_enabled = False  # a program that embeds the node may have turned the collector off

    def __call__(self, locked: bool, /) -> None:
        """Record that the write lock was taken, or that it is free again."""
        now_s = self._clock()
        if locked:
            self._gc_enabled = gc.isenabled()
            gc.disable()  # a collection that falls due meanwhile runs after the lock is free
            self._locked_at_s = now_s
        else:
            self.longest_s = max(self.longest_s, now_s - self._locked_at_s)
            if self._gc_enabled:
                gc.enable()
