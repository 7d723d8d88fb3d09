"""Directory watches through inotify(7), by ctypes: the standard library has none."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["add_watch", "open_inotify"]

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


def open_inotify(directory: Path, mask: int) -> int:
    """Return an inotify descriptor on a directory, -1 where inotify is not available or the directory cannot be watched."""
    try:
        fd = int(ctypes.CDLL(None, use_errno=True).inotify_init1(_FLAGS))
    except (OSError, AttributeError):
        return -1
    if fd >= 0 and not add_watch(fd, directory, mask):
        os.close(fd)
        return -1
    return fd


def add_watch(fd: int, directory: Path, mask: int) -> bool:
    """Watch one more directory; return whether that is possible. A watch that exists stays."""
    return int(ctypes.CDLL(None, use_errno=True).inotify_add_watch(fd, os.fsencode(directory), mask)) >= 0
