"""What a node that has come to rest gives back to the machine.

Owns one timer. Why: after a bulk load the pages that SQLite cached and that Python freed stay with the process, scattered among
those in use, and glibc returns none of them by itself: measured, 7.5 MB of 50 after 100k rows. What always holds: a node that
goes on working is not disturbed, one at rest is asked once and then left alone. It must not know what work is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["QUIET_S", "IdleTrim", "trim_heap"]

QUIET_S = 3.0  # heartbeats are no work; a burst of writes has gaps shorter than that


class IdleTrim:
    """Calls `rest` once, some seconds after the last `touch`; belongs on the event loop's thread."""

    def __init__(self, rest: Callable[[], None]) -> None:
        self._rest = rest
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._touched = False

    def touch(self) -> None:
        """There was work."""
        if self._timer is None:
            self._arm()
        else:
            self._touched = True

    def cancel(self) -> None:
        """The node ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._touched = False
        self._timer = self._loop.call_later(QUIET_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._touched:
            self._arm()
        else:
            self._rest()


def trim_heap() -> None:
    """Return the free pages of the heap to the kernel (malloc_trim(3)); nothing where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
