"""The write-ahead log of a file: when it is copied into the file, and what it keeps of the disk.

Checkpoints are rare and never concurrent, because of the WAL-reset bug of clients before SQLite 3.51.3 (design.md section 3).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

__all__ = ["WAL_KEPT_BYTES_MAX", "WAL_PAGES_MAX", "Wal"]

WAL_PAGES_MAX = 4_096  # 16 MiB: a larger one is copied after the transaction
# A WAL keeps that much of the disk at rest: the size at which SQLite itself writes it from its beginning again, 1,000 pages.
WAL_KEPT_BYTES_MAX = 4 << 20


class Wal:
    """The log of one connection's file."""

    def __init__(self, db: Any, path: str, wait_for_locks: Callable[[], None]) -> None:
        """Follow the log through a hook of the connection; `wait_for_locks` makes the connection wait for locks again."""
        self._db = db
        self._path = Path(f"{path}-wal")
        self._wait_for_locks = wait_for_locks
        self.pages_max = WAL_PAGES_MAX  # less where many replicas lie in memory
        self._pages = 0
        self._requested = False
        db.set_wal_hook(self._on_commit)

    @property
    def is_due(self) -> bool:
        """True if a checkpoint was requested, or the log has grown large."""
        return self._requested or self._pages > self.pages_max

    def request_checkpoint(self) -> None:
        """Checkpoint after this transaction: GDAL and `file` read the header of the file itself, past SQLite and its WAL."""
        self._requested = True

    def checkpoint(self) -> None:
        """Copy the WAL into the file as far as readers and the disk allow, without waiting for them; the WAL keeps the rest."""
        self._pages = 0
        with contextlib.suppress(apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError):
            frames, copied = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._requested = self._requested and copied < frames

    def empty(self) -> bool:
        """Copy the whole WAL into the file, and cut it if it is large; return False if a reader or a writer is in the way.

        Nobody waits for it: call it when nobody writes.
        """
        with contextlib.suppress(apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.IOError):
            frames, copied = self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if frames == copied:
                self._pages = 0
                return self._bytes() <= WAL_KEPT_BYTES_MAX or self._cut()
        return False

    def _cut(self) -> bool:
        self._db.set_busy_timeout(0)  # else it would wait for the readers, and keep writers waiting meanwhile
        try:
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._wait_for_locks()
        return True

    def _bytes(self) -> int:
        with contextlib.suppress(OSError):
            return self._path.stat().st_size
        return 0

    def _on_commit(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK
