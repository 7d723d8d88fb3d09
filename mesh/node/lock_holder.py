"""Finds the process that has an SQLite file locked: /proc/locks names processes and inodes, /proc/PID names programs.

It opens neither the file nor its -shm: closing a descriptor of them would drop the POSIX locks that SQLite holds in this
process. Where /proc tells nothing (a process of another container, a network file system) the answer is "".

See https://sqlite.org/src/file/src/os_unix.c ("Posix Advisory Locking") for the bytes, and proc(5).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["lock_holder"]

# In WAL mode the write lock is byte 120 of the -shm file, in the other modes bytes from 0x40000000 on of the file itself.
WAL_WRITE_BYTE = 120
PENDING_BYTE = 0x4000_0000
# A lock table longer than this belongs to a server with thousands of clients. A search that takes long holds up the node.
LOCKS_MAX = 10_000
NAME_CHARS_MAX = 64  # the kernel cuts names at 15; a program may choose any


def lock_holder(file: Path, proc: Path = Path("/proc")) -> str:
    """Return who has the file locked against writes, as "NAME (process PID)", or "" if that is not known."""
    pids = dict.fromkeys(_holders(file, proc))
    names = [_named(pid, proc) for pid in pids if pid != os.getpid()]
    if not names and os.getpid() in pids:
        return "this program itself"
    return " and ".join(names)


def _holders(file: Path, proc: Path) -> Iterator[int]:
    """Yield the processes with a lock that keeps others from writing; those with write locks first."""
    shm = _inode(Path(f"{file}-shm"))
    database = _inode(file)
    readers: list[int] = []
    try:
        lines = (proc / "locks").read_text().splitlines()[:LOCKS_MAX]
    except OSError:
        return
    for line in lines:
        parts = line.split()
        if len(parts) != 8 or parts[1] != "POSIX":  # a waiting process has an arrow in second place
            continue
        _, _, _, access, pid, inode, first, last = parts
        end = 1 << 63 if last == "EOF" else int(last)
        if inode == shm and access == "WRITE" and int(first) <= WAL_WRITE_BYTE <= end:
            yield int(pid)
        elif inode == database and end >= PENDING_BYTE:
            if access == "WRITE":
                yield int(pid)
            elif shm is None:  # in rollback modes a program that only reads keeps a commit waiting
                readers.append(int(pid))
    yield from readers


def _inode(path: Path) -> str | None:
    """Return a file's device and inode as /proc/locks writes them; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"


def _named(pid: int, proc: Path) -> str:
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return f"process {pid}"
    printable = "".join(char if char.isprintable() else "?" for char in name)
    return f"{printable[:NAME_CHARS_MAX]} (process {pid})"
