"""How long a node holds the write lock of its file: what a program that writes beside it waits at most for the lock itself.

Owns the longest hold since the node began, and keeps Python's cyclic collector out of each hold: it walks through all objects
of the process, tens of milliseconds on a small machine. What always holds: it is told on the SQL thread alone; others read one
number. It must not know what is written.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LockTimer"]


class LockTimer:
    """Told True when the lock is taken and False when it is free; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.longest_s = 0.0
        self._clock = clock
        self._taken_s = 0.0
        self._collects = False  # a program that a node is part of may have turned it off

    def __call__(self, held: bool, /) -> None:
        """The write lock was taken, or is free again."""
        now_s = self._clock()
        if held:
            self._collects = gc.isenabled()
            gc.disable()  # what has come to be due by then is done after the hold
            self._taken_s = now_s
        else:
            self.longest_s = max(self.longest_s, now_s - self._taken_s)
            if self._collects:
                gc.enable()
