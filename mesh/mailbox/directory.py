"""A mailbox in a directory: a USB stick, a folder that Syncthing copies, or a network share.

An envelope is a file: PATH/mycomesh/MESH/STREAM/POSITION.box, all three in lower-case hexadecimal. FAT and exFAT take such names,
and file systems that ignore case keep them apart. A file gets its name when it is whole and on the disk. Only its gateway
writes into a stream's directory, so that a look before the rename is enough not to replace a file: FAT knows no hard links.

Another program may put anything into the directory. So nothing but regular files is opened, none larger than an envelope,
and the number of names that count and that are kept is bounded.

A gateway learns by inotify what appears here. A network share does not tell what other machines write, so it looks too.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import re
import select
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.io.inotify import add_watch, open_inotify
from mycomesh.mesh.mailbox.envelope import ENVELOPE_BYTES_MAX, STREAM_BYTES
from mycomesh.mesh.mailbox.mailbox import LISTED_MAX, STREAMS_MAX, Listed, MailboxError, Pace
from mycomesh.mesh.primitives import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DirectoryMailbox"]

PACE = Pace(
    spacing_ms=1_000, poll_ms=15_000
)  # one file a second at most; a share is looked at as often as links compare

_FOLDER = "mycomesh"
_CREATED, _MOVED_IN, _GONE = 0x100, 0x80, 0x400  # IN_CREATE, IN_MOVED_TO, IN_DELETE_SELF
_READ_BYTES = 65_536
_ONE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO)  # must not hold up the other files
_STREAM = re.compile(rf"[0-9a-f]{{{2 * STREAM_BYTES}}}")
_ENVELOPE = re.compile(r"[0-7][0-9a-f]{15}\.box")


class DirectoryMailbox:
    """The mailbox in the directory `path`, which must exist: a stick that is not mounted must not become a folder."""

    pace = PACE

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, mesh: bytes, stream: bytes, position: int, data: bytes) -> bool:
        """Store one envelope whole or not at all. Return False, and change nothing, if that position is taken."""
        folder = self._stream(mesh, stream)
        target = folder / _name(position)
        partial = folder / f"{position:016x}-{os.getpid()}.tmp"
        try:
            if not self._path.is_dir():
                raise FileNotFoundError(2, "no such directory")
            folder.mkdir(parents=True, exist_ok=True)
            if target.exists():
                return False
            try:
                with partial.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                partial.rename(target)
            except OSError:
                with contextlib.suppress(OSError):
                    partial.unlink()
                raise
            _sync(folder)
        except OSError as error:
            raise self._error(error) from error
        return True

    def list_after(self, mesh: bytes, stream: bytes, position: int) -> list[Listed]:
        """Return the envelopes of a stream beyond a position, in the order of their positions."""
        found: list[Listed] = []
        for name in self._first(self._stream(mesh, stream), _ENVELOPE, LISTED_MAX, f"{position + 1:016x}"):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = (self._stream(mesh, stream) / name).lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append(Listed(stream, int(name[:16], 16), status.st_size))
        return found

    def streams(self, mesh: bytes) -> list[bytes]:
        """Return the streams of a mesh, in byte order."""
        return [bytes.fromhex(name) for name in self._first(self._path / _FOLDER / mesh.hex(), _STREAM, STREAMS_MAX)]

    def get(self, mesh: bytes, listed: Listed) -> bytes | None:
        """Return one envelope, None if it is gone, may not be read, is no regular file or larger than an envelope can be."""
        path = self._stream(mesh, listed.stream) / _name(listed.position)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _ONE_FILE:
                return None
            raise self._error(error) from error
        with open(descriptor, "rb") as file:  # noqa: PTH123, a descriptor
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or status.st_size > ENVELOPE_BYTES_MAX:
                    return None
                return file.read(ENVELOPE_BYTES_MAX)
            except OSError as error:
                raise self._error(error) from error

    def remove(self, mesh: bytes, listed: Listed) -> None:
        """Remove one envelope. Only the gateway that appended it calls this."""
        try:
            (self._stream(mesh, listed.stream) / _name(listed.position)).unlink(missing_ok=True)
        except OSError as error:
            raise self._error(error) from error

    def watch(self, mesh: bytes, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` on a thread of its own after each change; without inotify never. Return a function that ends this."""
        fd = open_inotify(self._path, _CREATED | _MOVED_IN | _GONE)
        if fd < 0:
            return lambda: None
        stop_reading, stop_writing = os.pipe2(os.O_CLOEXEC)
        watching = (fd, stop_reading, self._path / _FOLDER / mesh.hex(), on_change)
        threading.Thread(target=_follow, args=watching, name="mycomesh-mailbox-watch", daemon=True).start()
        return lambda: os.close(stop_writing)

    def server_ms(self) -> int:
        """Return the file system's wall time in Unix milliseconds: a share has the clock of its server."""
        path = self._path / f"mycomesh-{os.getpid()}.tmp"
        try:
            with path.open("xb") as file:
                return os.fstat(file.fileno()).st_mtime_ns // 1_000_000
        except OSError as error:
            raise self._error(error) from error
        finally:
            path.unlink(missing_ok=True)

    def tidy(self, mesh: bytes) -> None:
        """Remove the folders of a mesh that has no envelopes."""
        folder = self._path / _FOLDER / mesh.hex()
        for each in (*(folder / stream.hex() for stream in self.streams(mesh)), folder):
            with contextlib.suppress(OSError):
                each.rmdir()

    def close(self) -> None:
        """Nothing is open between two calls."""

    def _stream(self, mesh: bytes, stream: bytes) -> Path:
        assert len(mesh) == ID_BYTES
        assert len(stream) == STREAM_BYTES
        return self._path / _FOLDER / mesh.hex() / stream.hex()

    def _first(self, folder: Path, pattern: re.Pattern[str], count: int, least: str = "") -> list[str]:
        """Return the first names of a folder that fit, in order and not below `least`; none if it has not been made yet.

        A folder may have any number of names. So they are read one by one, and no more than `count` are kept.
        """
        try:
            with os.scandir(folder) as entries:
                names = (entry.name for entry in entries)
                return heapq.nsmallest(count, (name for name in names if name >= least and pattern.fullmatch(name)))
        except FileNotFoundError as error:
            if self._path.is_dir():
                return []
            raise self._error(error) from error
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> MailboxError:
        text = f"mailbox {self._path}: {error.strerror or error}; check that it is mounted, writable and not full"
        return MailboxError(text)


def _follow(fd: int, stop: int, folder: Path, on_change: Callable[[], None]) -> None:
    """Report each change below a mesh's folder until the other end of `stop` is closed; streams may appear at any time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(stop, select.POLLHUP)
    mask, changed = _CREATED | _MOVED_IN, False
    while True:
        for each in (folder.parent, folder):
            add_watch(fd, each, mask)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if _STREAM.fullmatch(entry.name):
                    add_watch(fd, Path(entry.path), mask)
        if changed:  # after the watches, so that no file is missed in a folder that has just appeared
            on_change()
        if any(ready == stop for ready, _ in poll.poll()):
            os.close(fd)
            os.close(stop)
            return
        os.read(fd, _READ_BYTES)
        changed = True


def _name(position: int) -> str:
    return f"{position:016x}.box"


def _sync(folder: Path) -> None:
    """Write a directory's names to the disk, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
