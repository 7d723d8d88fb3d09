"""Measures how long the node locks the file against writes by other programs.

The SQL thread alone calls the timer; other threads read one number.
"""

from __future__ import annotations

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

    def __call__(self, locked: bool, /) -> None:
        """Record that the write lock was taken, or that it is free again."""
        now_s = self._clock()
        if locked:
            self._locked_at_s = now_s
        else:
            self.longest_s = max(self.longest_s, now_s - self._locked_at_s)
