"""When the write-ahead log is copied into the file: once the file is at rest, for programs that read the file alone.

Such are a reader with `immutable=1` and a backup of the disk. Otherwise a file could keep its newest 16 MiB in the log for weeks.
Checkpoints are rare, because of the WAL-reset bug of older clients, and happen while nobody writes.

Invariant: nothing is due on a file that nobody writes.
"""

from __future__ import annotations

from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.storage.store import Store

__all__ = ["CheckpointSchedule"]

REST_MS = 5_000  # without a commit
BETWEEN_MS = 60_000  # a program that writes now and then costs one checkpoint a minute
# A reader that stays for long keeps the log. After so many tries, each with twice the wait, the next commit begins again.
TRIES_MAX = 6


class CheckpointSchedule:
    """When one node checkpoints its file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._due_at: int | None = None
        self._not_before = 0
        self._tries = 0

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        return self._due_at

    def on_commit(self, now_ms: int) -> None:
        """Note that somebody has written the file."""
        self._due_at, self._tries = max(now_ms + REST_MS, self._not_before), 0

    def on_timer(self, turn: Turn) -> None:
        """Checkpoint if the file is at rest."""
        if self._due_at is None or turn.now_ms < self._due_at:
            return
        self._due_at, self._not_before = None, turn.now_ms + BETWEEN_MS
        if not self._store.wal.empty() and self._tries < TRIES_MAX:
            self._due_at = turn.now_ms + (BETWEEN_MS << self._tries)
            self._tries += 1
