"""What a power cut leaves of a database in WAL mode.

Owns the model of a disk: with `synchronous = NORMAL` commits are in the operating system's cache until a checkpoint or
the file system's own journal writes them out, so any prefix of what came since may be lost
(https://sqlite.org/pragma.html#pragma_synchronous). What always holds: what was synced stays; the shared-memory index
never survives. Must not know nodes or tables.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

__all__ = ["Disk"]

HEADER_BYTES = 32  # of a WAL: its salts change whenever it begins again (https://sqlite.org/fileformat2.html#walformat)


class Disk:
    """How far the WAL of one node's database is on the disk, as far as anybody will ask: see `watch`."""

    __slots__ = ("_header", "_path", "_size", "synced_us", "watched")

    def __init__(self) -> None:
        self.watched = False
        self.synced_us = 0  # nothing that was committed before is lost
        self._path = ""
        self._header = b""
        self._size = 0

    def watch(self, path: str, now_us: int) -> None:
        """What stands here will be written out before the power goes; from here on syncs count."""
        self.watched = True
        self.synced(path, now_us)

    def synced(self, path: str, now_us: int) -> None:
        """Everything that is committed at this moment is on the disk."""
        wal = _wal(path)
        self._path = path
        self._header, self._size = b"", 0
        if wal.exists():
            with wal.open("rb") as file:
                self._header = file.read(HEADER_BYTES)
            self._size = wal.stat().st_size
        self.synced_us = now_us

    def cut(self, path: str, kept: str, rng: random.Random) -> int:
        """Copy to `kept` what a power cut leaves of the database at `path`; return the bytes of the WAL it takes."""
        self.watched = False
        shutil.copyfile(path, kept)
        wal = _wal(path)
        if not wal.exists():
            return 0
        data = wal.read_bytes()
        # A WAL that has begun again did so after a checkpoint: what it held before is in the file, and synced.
        same = path == self._path and data[:HEADER_BYTES] == self._header
        size = rng.randint(min(self._size, len(data)) if same else 0, len(data))
        _wal(kept).write_bytes(data[:size])
        return len(data) - size


def _wal(path: str) -> Path:
    return Path(path + "-wal")
