"""Gives back the pages of a library's program code that a process has read, and does not need at the moment.

A large library is read in blocks of 64 KiB around each function that runs, most of them once, when it starts. They count as
memory of the process until the kernel is short of it. The code comes back from the page cache, for a page fault a block.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

__all__ = ["LibraryCode"]

_DONTNEED = 4  # MADV_DONTNEED


class LibraryCode:
    """The code of loaded libraries that have one of these texts in their file names."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._parts: list[tuple[int, int]] = []

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Address and length of each part; none before the libraries are loaded, and without proc(5)."""
        if not self._parts:
            with contextlib.suppress(OSError):
                for line in Path("/proc/self/maps").read_text().splitlines():
                    span, flags, _, _, _, *path = line.split(maxsplit=5)
                    if flags == "r-xp" and path and any(name in path[0].rpartition("/")[2] for name in self._names):
                        start, end = (int(part, 16) for part in span.split("-"))
                        self._parts.append((start, end - start))
        return self._parts

    def release(self) -> None:
        """Give back the pages (madvise(2)). Code is never written to, so that nothing but its place in memory is lost."""
        with contextlib.suppress(OSError, AttributeError):
            advise = ctypes.CDLL(None).madvise
            for start, length in self.parts:
                advise(ctypes.c_void_p(start), ctypes.c_size_t(length), _DONTNEED)
