"""Models the loss of unsynced commits when a machine loses power, for a database in WAL mode.

With `synchronous = NORMAL` commits stay in the operating system's cache until a checkpoint or the file system's journal writes
them out, so any suffix of the commits since then may be lost (https://sqlite.org/pragma.html#pragma_synchronous).

Invariants: synced commits survive; the shared-memory index never does.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

__all__ = ["Disk"]

HEADER_BYTES = (
    32  # of a WAL; its salts change with each restart of the WAL (https://sqlite.org/fileformat2.html#walformat)
)


class Disk:
    """How much of one node's WAL is on the disk; tracked only from `watch` on, since most runs cut no power."""

    __slots__ = ("_header", "_path", "_size", "synced_us", "watched")

    def __init__(self) -> None:
        self.watched = False
        self.synced_us = 0  # commits before this time survive
        self._path = ""
        self._header = b""
        self._size = 0

    def watch(self, path: str, now_us: int) -> None:
        """Start tracking syncs, before a power cut. The present content counts as synced."""
        self.watched = True
        self.record_sync(path, now_us)

    def record_sync(self, path: str, now_us: int) -> None:
        """Record that everything committed so far is on the disk."""
        wal = _wal(path)
        self._path = path
        self._header, self._size = b"", 0
        if wal.exists():
            with wal.open("rb") as file:
                self._header = file.read(HEADER_BYTES)
            self._size = wal.stat().st_size
        self.synced_us = now_us

    def cut_power(self, path: str, kept: str, rng: random.Random) -> int:
        """Copy to `kept` what a power cut leaves of the database at `path`; return how many bytes of the WAL are lost."""
        self.watched = False
        shutil.copyfile(path, kept)
        wal = _wal(path)
        if not wal.exists():
            return 0
        data = wal.read_bytes()
        # A WAL restarts only after a checkpoint, so its earlier content is in the database file, and synced.
        same = path == self._path and data[:HEADER_BYTES] == self._header
        size = rng.randint(min(self._size, len(data)) if same else 0, len(data))
        _wal(kept).write_bytes(data[:size])
        return len(data) - size


def _wal(path: str) -> Path:
    return Path(path + "-wal")
