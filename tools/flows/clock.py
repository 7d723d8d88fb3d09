"""The clock of a flow's statements: SQLite interrupts one that is beyond its time, on the flow's connection."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["StatementClock"]

STEPS = 50_000  # of SQLite's machine between two looks at the clock


class StatementClock:
    """The time that is left for what runs on one connection."""

    def __init__(self, db: Any) -> None:
        self._until_s = 0.0
        db.set_progress_handler(self._is_late, STEPS)

    @contextlib.contextmanager
    def running(self, seconds: float) -> Iterator[None]:
        """Let a statement of the block raise `apsw.InterruptError` after so many seconds."""
        self._until_s = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until_s = 0.0

    def _is_late(self) -> bool:
        return self._until_s > 0 and time.monotonic() > self._until_s
