"""A file watch: detects writes by other programs to a database, through inotify on its directory.

The watch never opens the database: closing any descriptor of it would drop the POSIX locks that SQLite holds in this process.

Invariant: a write is reported at once, a burst of writes at most once in `COALESCE_S`, and once more after its last write.

See inotify(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

from mycomesh.mesh.io.inotify import open_inotify

__all__ = ["Watch", "written_ms"]

# The interval between reports while commits keep coming; each report leads to a drain of everything committed by then.
COALESCE_S = 0.005
# Without inotify (another kernel, no watches left) the watch compares the file's size and time this often.
POLL_S = 0.05
_IN_MODIFY = 0x2
_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_UNMOUNT = 0x2000
_IN_Q_OVERFLOW = 0x4000
_RENAMED = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_DIRECTORY_GONE = _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_UNMOUNT
_MASK = _IN_MODIFY | _RENAMED | _IN_DELETE_SELF | _IN_MOVE_SELF
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65_536


class Watch:
    """Calls `on_commit` when the file or its journal changed, and `on_replaced` once when the path names another file."""

    def __init__(self, path: Path, on_commit: Callable[[], None], on_replaced: Callable[[], None]) -> None:
        """Resolve `path`, which may be a link: SQLite keeps its journal beside the file itself."""
        self._path = path.resolve()
        self._on_commit = on_commit
        self._on_replaced = on_replaced
        self._names = {os.fsencode(self._path.name + suffix) for suffix in ("", "-wal", "-journal")}
        self._fd = -1
        self._polling = False
        self._timer: asyncio.TimerHandle | None = None
        self._identity = _identity(self._path)
        self._seen = _stat(self._path)

    def start(self) -> None:
        """Start watching; poll where inotify is not available."""
        self._fd = open_inotify(self._path.parent, _MASK)
        loop = asyncio.get_running_loop()
        if self._fd >= 0:
            loop.add_reader(self._fd, self._on_readable)
        else:
            self._polling = True
            self._timer = loop.call_later(POLL_S, self._on_poll)

    @property
    def polling(self) -> bool:
        """True if inotify is not available and the watch polls instead."""
        return self._polling

    def close(self) -> None:
        """Stop watching. Not an error if it was stopped already."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    # ---- inotify

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        written, renamed = _classify(data, self._names)
        if renamed and _identity(self._path) != self._identity:
            self.close()
            self._on_replaced()
            return
        # Events of the next milliseconds wait in the kernel, which merges them; they cause one more call afterwards.
        # That holds for other files of the directory too: a program's busy log does not keep this process awake.
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._fd)
        self._timer = loop.call_later(COALESCE_S, self._on_coalesced)
        if written:
            self._on_commit()

    def _on_coalesced(self) -> None:
        self._timer = None
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    # ---- polling

    def _on_poll(self) -> None:
        if _identity(self._path) != self._identity:
            self.close()
            self._on_replaced()
            return
        self._timer = asyncio.get_running_loop().call_later(POLL_S, self._on_poll)
        seen = _stat(self._path)
        if seen != self._seen:
            self._seen = seen
            self._on_commit()


def written_ms(path: Path) -> int:
    """Return when the file or its journal was last written, Unix time in milliseconds; 0 if the file does not exist."""
    return max((changed_ns // 1_000_000 for changed_ns, _ in _stat(path.resolve())), default=0)


def _stat(path: Path) -> tuple[tuple[int, int], ...]:
    """Return modification time in nanoseconds and size in bytes of the file and its journal."""
    state = []
    for suffix in ("", "-wal"):
        with contextlib.suppress(OSError):
            found = Path(f"{path}{suffix}").stat()
            state.append((found.st_mtime_ns, found.st_size))
    return tuple(state)


def _classify(data: bytes, names: set[bytes]) -> tuple[bool, bool]:
    """Return whether inotify events concern one of the names, and whether one of those was renamed, created or removed."""
    written = renamed = False
    at = 0
    while at < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
        at += _EVENT.size + length
        # An overflow may hide any event, and a directory that is gone took the file along.
        if mask & (_IN_Q_OVERFLOW | _DIRECTORY_GONE) or name in names:
            written = True
            renamed = renamed or bool(mask & (_RENAMED | _DIRECTORY_GONE | _IN_Q_OVERFLOW))
    return written, renamed


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which differ for another file of the same name; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
