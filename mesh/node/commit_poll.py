"""Polls for a commit after each hint, with exponential backoff.

In WAL mode a commit becomes visible in shared memory, which inotify does not watch, and only after the write that inotify
reports (https://sqlite.org/walformat.html, section 2.1). With synchronous=FULL an fsync of several milliseconds lies between
the two, so a single check at the time of the hint comes too early.

Invariants: a commit waits for a poll about as long as its own fsync took, at most; without hints nothing runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DELAYS_S", "Clock", "CommitPoll", "Timer"]

# Doubling keeps each delay below the fsync's own time and the polls few: each costs one PRAGMA and two thread switches.
# Beyond a second (a stalled disk) the safety check of the Exchange takes over.
DELAYS_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512)


class Timer(Protocol):
    """The handle of a scheduled call."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock(Protocol):
    """The part of an event loop that a `CommitPoll` uses."""

    def call_later(self, delay: float, callback: Callable[[int], None], attempt: int, /) -> Timer:
        """Call `callback(attempt)` after `delay` seconds."""
        ...


class CommitPoll:
    """Calls `poll` after each of `DELAYS_S` once there is a hint; another hint restarts the series."""

    def __init__(self, clock: Clock, poll: Callable[[], None]) -> None:
        self._clock = clock
        self._poll = poll
        self._timer: Timer | None = None

    def hint(self) -> None:
        """Start polling: a program wrote to the file, and a commit may follow."""
        self._schedule(0)

    def cancel(self) -> None:
        """Stop polling until the next hint."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, attempt: int) -> None:
        self.cancel()
        if attempt < len(DELAYS_S):
            self._timer = self._clock.call_later(DELAYS_S[attempt], self._on_timer, attempt)

    def _on_timer(self, attempt: int) -> None:
        self._timer = None
        self._poll()
        self._schedule(attempt + 1)
