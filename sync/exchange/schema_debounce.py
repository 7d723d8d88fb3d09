"""When a changed schema is taken in: as soon as the programs that change it have been quiet for a moment.

Why: adoption holds the write lock for milliseconds, and many a client does not wait for a lock. A script that makes a table
and fills it, each in a run of the `sqlite3` shell, would meet the node at every step. Owns that moment. What always holds:
a schema that goes on changing is taken in within `DEFER_MS_MAX`. It must not know what adoption does.
"""

from __future__ import annotations

__all__ = ["DEFER_MS_MAX", "QUIET_MS", "SchemaDebounce"]

QUIET_MS = 50  # longer than a shell needs to start its next client
DEFER_MS_MAX = 1_000


class SchemaDebounce:
    """The changes of a schema that have been seen and not taken in."""

    def __init__(self) -> None:
        self._since_ms: int | None = None
        self._version = -1
        self._due_ms = 0

    def defer(self, version: int, now_ms: int) -> int | None:
        """Return when to take in a schema that has changed, None: at once; `version` changes with each commit of others."""
        if self._since_ms is None:
            self._since_ms = now_ms
            self._version = -1
        if version != self._version:
            self._version = version
            self._due_ms = min(now_ms + QUIET_MS, self._since_ms + DEFER_MS_MAX)
        return self._due_ms if now_ms < self._due_ms else None

    def reset(self) -> None:
        """What has changed was taken in."""
        self._since_ms = None
