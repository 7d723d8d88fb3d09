"""Watching a database for commits of other programs, without opening it.

Owns an inotify instance (inotify(7)) on the directory of the file. What always holds: the database itself is never opened
here, since closing it would drop the locks that SQLite holds in this process (POSIX advisory locks); a change is told at
once, and a storm of changes at most every few milliseconds with a last word after it. It must not know what was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

__all__ = ["Watch", "written_ms"]

# While commits keep coming they are told at most this often; each telling drains everything that has come by then.
COALESCE_S = 0.005
# Without inotify (another kernel, no watches left) the file's size and time are looked at this often.
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
_MOVED = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_DIRECTORY_GONE = _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_UNMOUNT
_MASK = _IN_MODIFY | _MOVED | _IN_DELETE_SELF | _IN_MOVE_SELF
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65_536


class Watch:
    """Calls `on_commit` when the file or its journal changed, `on_replaced` (once) when another file took its place."""

    def __init__(self, path: Path, on_commit: Callable[[], None], on_replaced: Callable[[], None]) -> None:
        """`path` may be a link to the file: SQLite's own files lie beside what it leads to."""
        self._path = path.resolve()
        self._on_commit = on_commit
        self._on_replaced = on_replaced
        self._names = {os.fsencode(self._path.name + suffix) for suffix in ("", "-wal", "-journal")}
        self._fd = -1
        self._polling = False
        self._timer: asyncio.TimerHandle | None = None
        self._identity = _identity(self._path)
        self._seen = _look(self._path)

    def start(self) -> None:
        """Begins to watch; polls where inotify is not to be had."""
        self._fd = _open_inotify(self._path.parent)
        loop = asyncio.get_running_loop()
        if self._fd >= 0:
            loop.add_reader(self._fd, self._on_readable)
        else:
            self._polling = True
            self._timer = loop.call_later(POLL_S, self._on_poll)

    @property
    def polling(self) -> bool:
        """True if inotify is not available here and the file is looked at instead."""
        return self._polling

    def close(self) -> None:
        """Stop watching; not an error when it was stopped already."""
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
        touched, moved = _sort(data, self._names)
        if moved and _identity(self._path) != self._identity:
            self.close()
            self._on_replaced()
        elif touched:
            # What comes in the next milliseconds waits in the kernel, which merges it, and is one more call after them.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            self._timer = loop.call_later(COALESCE_S, self._on_calm)
            self._on_commit()

    def _on_calm(self) -> None:
        self._timer = None
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)

    # ---- polling

    def _on_poll(self) -> None:
        if _identity(self._path) != self._identity:
            self.close()
            self._on_replaced()
            return
        self._timer = asyncio.get_running_loop().call_later(POLL_S, self._on_poll)
        seen = _look(self._path)
        if seen != self._seen:
            self._seen = seen
            self._on_commit()


def written_ms(path: Path) -> int:
    """Return when the file or its journal was last written, Unix time in milliseconds; 0 if there is none."""
    return max((changed_ns // 1_000_000 for changed_ns, _ in _look(path.resolve())), default=0)


def _look(path: Path) -> tuple[tuple[int, int], ...]:
    """Return when the file and its journal were changed, in nanoseconds, and their sizes in bytes."""
    state = []
    for suffix in ("", "-wal"):
        with contextlib.suppress(OSError):
            found = Path(f"{path}{suffix}").stat()
            state.append((found.st_mtime_ns, found.st_size))
    return tuple(state)


def _sort(data: bytes, names: set[bytes]) -> tuple[bool, bool]:
    """Return whether inotify's events touch one of the names, and whether any of them was moved, made or removed."""
    touched = moved = False
    at = 0
    while at < len(data):
        _, mask, _, length = _EVENT.unpack_from(data, at)
        name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
        at += _EVENT.size + length
        if mask & (_IN_Q_OVERFLOW | _DIRECTORY_GONE) or name in names:
            touched = True
            moved = moved or bool(mask & (_MOVED | _DIRECTORY_GONE | _IN_Q_OVERFLOW))
    return touched, moved


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another of the same name."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_inotify(directory: Path) -> int:
    """Return an inotify descriptor on the directory, -1 if there is none to be had."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = int(libc.inotify_init1(_FLAGS))
    except (OSError, AttributeError):
        return -1
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(directory), _MASK) < 0:
        os.close(fd)
        return -1
    return fd
