"""Looks for a commit that follow each hint of one, at growing distances.

Owns one timer. Why: in WAL mode a commit becomes visible in shared memory, of which inotify knows nothing, only after the
write that inotify tells of (https://sqlite.org/walformat.html, section 2.1); with synchronous=FULL an fsync of milliseconds
lies between, so whoever looks at the hint alone looks too early. What always holds: a commit waits no longer than about
its own fsync did; without hints nothing happens. It must not know what a look does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AFTER_S", "Clock", "CommitPoll", "Timer"]

# Doubling keeps the delay below the fsync's own time and the looks few: each costs one PRAGMA and two thread switches.
# Beyond a quarter of a second (a stalled disk) the once-a-second safety check of the Exchange takes over.
AFTER_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)


class Timer(Protocol):
    """What a planned call offers."""

    def cancel(self) -> None:
        """Do not call."""


class Clock(Protocol):
    """What is needed of an event loop."""

    def call_later(self, delay: float, callback: Callable[[int], None], turn: int, /) -> Timer:
        """Call `callback(turn)` after `delay` seconds."""
        ...


class CommitPoll:
    """Calls `look` after each hint, again and again, until the last of `AFTER_S`; a fresh hint begins anew."""

    def __init__(self, clock: Clock, look: Callable[[], None]) -> None:
        self._clock = clock
        self._look = look
        self._timer: Timer | None = None

    def hint(self) -> None:
        """Something was written: a commit may follow."""
        self._plan(0)

    def cancel(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self, turn: int) -> None:
        self.cancel()
        if turn < len(AFTER_S):
            self._timer = self._clock.call_later(AFTER_S[turn], self._on_timer, turn)

    def _on_timer(self, turn: int) -> None:
        self._timer = None
        self._look()
        self._plan(turn + 1)
