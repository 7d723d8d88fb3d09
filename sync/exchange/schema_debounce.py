"""Debounce of schema changes: the exchange drains a changed schema once other programs have been quiet for a moment.

Capturing a changed schema holds the write lock for milliseconds, and many clients do not wait for a lock. Without the
pause, a script that creates a table and fills it, with one run of the `sqlite3` shell each, would meet the node at every
step. Invariant: a schema that keeps changing is drained within `DEFER_MS_MAX`.
"""

from __future__ import annotations

__all__ = ["DEFER_MS_MAX", "QUIET_MS", "SchemaDebounce"]

QUIET_MS = 50  # longer than a shell needs to start its next client
DEFER_MS_MAX = 1_000


class SchemaDebounce:
    """The timer for schema changes that the exchange has seen and not drained yet."""

    def __init__(self) -> None:
        self._since_ms: int | None = None
        self._version = -1
        self._due_ms = 0

    def defer(self, version: int, now_ms: int) -> int | None:
        """Return when to drain a changed schema, None for at once; `version` changes with each commit of other programs."""
        if self._since_ms is None:
            self._since_ms = now_ms
            self._version = -1
        if version != self._version:
            self._version = version
            self._due_ms = min(now_ms + QUIET_MS, self._since_ms + DEFER_MS_MAX)
        return self._due_ms if now_ms < self._due_ms else None

    def reset(self) -> None:
        """Forget the changes seen so far, because a drain has captured them."""
        self._since_ms = None
