"""A VFS that sees every write, and can say what a disk would hold if the machine had died right before it.

`Recorder` is below SQLite. For each file it keeps what is on the disk for certain (the content at the last sync) and
what was written since. A process that is killed leaves all that was written; a power cut leaves the synced content and any
part of the rest, each write torn at most at its own boundaries.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw

SUFFIXES = ("", "-wal", "-journal")


class _Disk:
    """One file: durable bytes, and writes since the last sync as (offset, bytes) or (size, None) for a truncation."""

    def __init__(self, content=b""):
        self.durable = content
        self.since = []

    def content(self, keep=lambda _write: True):
        image = bytearray(self.durable)
        for write in self.since:
            if keep(write):
                _apply(image, write)
        return bytes(image)

    def sync(self):
        self.durable = self.content()
        self.since = []


def _apply(image, write):
    offset, data = write
    if data is None:
        del image[offset:]
        return
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


class Recorder(apsw.VFS):
    """The default VFS while it lives. `points` calls back right before each write, sync, truncation and deletion."""

    NAME = "mycomesh-recorder"

    def __init__(self, path, on_point):
        self.path = str(path)
        self.on_point = on_point
        self.disks = {}
        for suffix in SUFFIXES:
            with contextlib.suppress(FileNotFoundError), Path(self.path + suffix).open("rb") as file:
                self.disks[self.path + suffix] = _Disk(file.read())
        super().__init__(self.NAME, "unix", makedefault=True)

    def xOpen(self, name, flags):  # noqa: N802 -- SQLite's own name
        filename = name if isinstance(name, str) or name is None else name.filename()
        return _File(self, filename, name, flags)

    def xDelete(self, filename, syncdir):  # noqa: N802
        if filename in self.disks:
            self.on_point()
            del self.disks[filename]
        super().xDelete(filename, syncdir)

    def survivors(self, keep):
        """Returns {suffix: bytes} as a crash would leave the file set; `keep` chooses among the unsynced writes."""
        return {
            suffix: self.disks[self.path + suffix].content(keep)
            for suffix in SUFFIXES
            if self.path + suffix in self.disks
        }


class _File(apsw.VFSFile):
    def __init__(self, recorder, filename, name, flags):
        super().__init__("unix", name, flags)
        self.recorder = recorder
        self.disk = None
        if filename is not None and filename in {recorder.path + suffix for suffix in SUFFIXES}:
            self.disk = recorder.disks.setdefault(filename, _Disk())

    def xWrite(self, data, offset):  # noqa: N802
        if self.disk is not None:
            self.recorder.on_point()
            self.disk.since.append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size):  # noqa: N802
        if self.disk is not None:
            self.recorder.on_point()
            self.disk.since.append((size, None))
        super().xTruncate(size)

    def xSync(self, flags):  # noqa: N802
        if self.disk is not None:
            self.recorder.on_point()
            self.disk.sync()
        super().xSync(flags)
