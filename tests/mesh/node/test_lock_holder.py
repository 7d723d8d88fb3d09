"""The holder of a lock: read from /proc as the kernel writes it, without opening the file."""

from __future__ import annotations

import os

import pytest

from mycomesh.mesh.node.lock_holder import lock_holder


@pytest.fixture
def proc(tmp_path):
    """A /proc with two programs, and a function that fills its lock table."""
    for pid, name in ((71, "sqlitebrowser"), (72, "evil\x1b[2J")):
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "comm").write_text(f"{name}\n")
    return tmp_path / "proc"


def locks(proc, *lines):
    (proc / "locks").write_text("".join(f"{number}: {line}\n" for number, line in enumerate(lines, 1)))


def inode(path):
    found = path.stat()
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.db"
    path.touch()
    return path


def with_wal(file):
    shm = file.with_name(f"{file.name}-shm")
    shm.touch()
    return inode(shm)


def test_wal_mode_names_the_writer_but_not_readers(proc, file):
    shm = with_wal(file)
    locks(
        proc,
        f"POSIX  ADVISORY  READ 72 {shm} 124 124",
        f"POSIX  ADVISORY  READ 72 {inode(file)} 1073741826 1073742335",
        f"POSIX  ADVISORY  WRITE 71 {shm} 120 120",
    )
    assert lock_holder(file, proc) == "sqlitebrowser (process 71)"


def test_in_rollback_mode_a_reader_keeps_a_commit_waiting(proc, file):
    locks(proc, f"POSIX  ADVISORY  READ 71 {inode(file)} 1073741826 1073742335")
    assert lock_holder(file, proc) == "sqlitebrowser (process 71)"


def test_in_rollback_mode_writers_come_before_readers(proc, file):
    locks(
        proc,
        f"POSIX  ADVISORY  READ 71 {inode(file)} 1073741826 1073742335",
        f"POSIX  ADVISORY  WRITE 72 {inode(file)} 1073741825 1073741825",
    )
    assert lock_holder(file, proc) == "evil?[2J (process 72) and sqlitebrowser (process 71)"


@pytest.mark.parametrize(
    "line",
    [
        "POSIX  ADVISORY  WRITE 71 fe:00:1 1073741825 1073741825",  # another file
        "-> POSIX  ADVISORY  WRITE 71 {inode} 1073741825 1073741825",  # one that waits
        "FLOCK  ADVISORY  WRITE 71 {inode} 0 EOF",  # SQLite does not use it
        "POSIX  ADVISORY  WRITE 71 {inode} 0 100",  # not SQLite's bytes
        "POSIX",
    ],
)
def test_other_locks_name_nobody(proc, file, line):
    locks(proc, line.format(inode=inode(file)))
    assert lock_holder(file, proc) == ""


def test_the_own_process_is_named_as_such(proc, file):
    locks(proc, f"POSIX  ADVISORY  WRITE {os.getpid()} {inode(file)} 1073741824 1073742335")
    assert lock_holder(file, proc) == "this program itself"


def test_a_process_of_another_container_has_a_number_only(proc, file):
    locks(proc, f"POSIX  ADVISORY  WRITE 99 {inode(file)} 1073741824 EOF")
    assert lock_holder(file, proc) == "process 99"


def test_without_proc_nobody_is_named(tmp_path, file):
    assert lock_holder(file, tmp_path / "nowhere") == ""
