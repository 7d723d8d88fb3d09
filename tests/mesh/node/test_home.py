"""The home: where it is, that it stays private, and that two nodes never share it or a file."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mycomesh.mesh.node.errors import AlreadyServedError, HomeError, KeystoreError
from mycomesh.mesh.node.home import (
    PRIVATE_BYTES_MAX,
    FileLock,
    Home,
    HomeLock,
    read_private,
    remove_private,
    write_private,
)

HOLDER = """
import sys
from pathlib import Path
from mesh.node.home import FileLock, Home, HomeLock
what, path = sys.argv[1], Path(sys.argv[2])
held = HomeLock.acquire(Home.locate(path, {})) if what == "home" else FileLock.acquire(path)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path):
    return Home.locate(tmp_path / "home", {})


@pytest.fixture
def holder():
    """Start processes that hold a lock until they are killed."""
    started = []

    def hold(what, path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, what, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_an_explicit_home_holds_everything(tmp_path):
    home = Home.locate(tmp_path, {"MYCOMESH_HOME": "/elsewhere", "XDG_STATE_HOME": "/elsewhere"})
    assert (home.config, home.state, home.runtime) == (tmp_path, tmp_path / "state", tmp_path / "run")
    assert home.sockets[0] == tmp_path / "run" / "control.sock"


def test_mycomesh_home_comes_before_xdg():
    home = Home.locate(None, {"MYCOMESH_HOME": "/m", "XDG_STATE_HOME": "/s"})
    assert home.state == Path("/m/state")


def test_xdg_directories_are_used_as_their_specification_says(tmp_path):
    environ = {"HOME": "/u", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": str(tmp_path)}
    home = Home.locate(None, environ)
    assert (home.config, home.state, home.runtime) == (Path("/c/mycomesh"), Path("/s/mycomesh"), tmp_path / "mycomesh")
    assert home.sockets == (tmp_path / "mycomesh/control.sock", Path("/s/mycomesh/run/control.sock"))


def test_without_xdg_defaults_hold_and_relative_values_are_ignored():
    home = Home.locate(None, {"HOME": "/u", "XDG_STATE_HOME": "relative", "XDG_RUNTIME_DIR": "/does/not/exist"})
    assert home.config == Path("/u/.config/mycomesh")
    assert home.state == Path("/u/.local/state/mycomesh")
    assert home.runtime == Path("/u/.local/state/mycomesh/run")
    assert len(home.sockets) == 1


def test_directories_are_private_whatever_the_umask(home):
    mask = os.umask(0)
    try:
        home.prepare()
    finally:
        os.umask(mask)
    assert [mode(directory) for directory in (home.config, home.state, home.runtime)] == [0o700] * 3


@pytest.mark.parametrize("what", ["config", "state", "runtime"])
@pytest.mark.parametrize("bits", [0o777, 0o770, 0o722])
def test_a_home_that_others_can_change_is_refused(home, what, bits):
    home.prepare()
    getattr(home, what).chmod(bits)
    with pytest.raises(HomeError, match=f"chmod 700 {getattr(home, what)}$"):
        home.prepare()


def test_a_home_may_be_readable(home):
    home.prepare()
    home.config.chmod(0o755)
    home.prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_home_and_keys_of_another_user_are_refused(home):
    home.prepare()
    write_private(home.state / "key", b"secret")
    os.chown(home.state / "key", 12345, -1)
    with pytest.raises(KeystoreError, match=r"belongs to user 12345, not to root; run the node as its owner"):
        read_private(home.state / "key")
    for directory in (home.runtime, home.state, home.config):
        os.chown(directory, 12345, -1)
        with pytest.raises(HomeError, match=rf"belongs to user 12345, not to root; run: chown -R 0 {directory}"):
            home.prepare()


def test_a_home_below_a_plain_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="cannot create"):
        Home.locate(tmp_path / "file" / "home", {}).prepare()


def test_a_private_file_is_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "key"
    write_private(path, b"secret")
    assert read_private(path) == b"secret"
    assert mode(path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_an_absent_private_file_is_none_and_removable(tmp_path):
    assert read_private(tmp_path / "key") is None
    remove_private(tmp_path / "key")


def test_writing_replaces_whole_files(tmp_path):
    path = tmp_path / "key"
    write_private(path, b"long long long")
    write_private(path, b"short")
    assert read_private(path) == b"short"


def test_a_full_disk_leaves_only_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "key"
    write_private(path, b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HomeError, match="No space left on device; check free space"):
        write_private(path, b"new")
    assert read_private(path) == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_exclusive_writing_never_replaces(tmp_path):
    path = tmp_path / "key"
    write_private(path, b"first", exclusive=True)
    with pytest.raises(KeystoreError, match="never replaced"):
        write_private(path, b"second", exclusive=True)
    assert read_private(path) == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o601])
def test_key_that_others_can_reach_is_refused_with_remedy(tmp_path, bits):
    path = tmp_path / "key"
    write_private(path, b"secret")
    path.chmod(bits)
    with pytest.raises(KeystoreError, match=f"chmod 600 {path}"):
        read_private(path)


def test_link_in_place_of_key_is_not_followed(tmp_path):
    write_private(tmp_path / "elsewhere", b"secret")
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeystoreError, match="cannot read"):
        read_private(tmp_path / "key")


def test_something_else_in_place_of_key_is_one_line(tmp_path):
    (tmp_path / "key").mkdir(mode=0o700)
    with pytest.raises(KeystoreError, match="not a plain file"):
        read_private(tmp_path / "key")


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "key"
    write_private(path, b"x" * (PRIVATE_BYTES_MAX + 1))
    with pytest.raises(KeystoreError, match="larger than any file that a node writes"):
        read_private(path)


def test_a_second_process_learns_which_one_has_the_home(home, holder):
    process = holder("home", home.config)
    with pytest.raises(AlreadyServedError, match=f"process {process.pid}"):
        HomeLock.acquire(home)


def test_the_home_is_free_again_after_a_kill(home, holder):
    process = holder("home", home.config)
    process.kill()
    process.wait()
    with home.locked():
        pass


def test_one_file_has_one_node_under_any_path(tmp_path, holder):
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    os.link(file, tmp_path / "same.db")
    holder("file", file)
    with pytest.raises(AlreadyServedError, match="already served"):
        FileLock.acquire(tmp_path / "same.db")


def test_a_file_is_free_again_after_a_kill(tmp_path, holder):
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    process = holder("file", file)
    process.kill()
    process.wait()
    FileLock.acquire(file).release()


@pytest.mark.parametrize("what", ["home", "file"])
def test_lock_left_with_a_starting_child_is_awaited(home, tmp_path, what):
    """A node that is killed between fork and exec leaves a child with its lock, for an instant."""
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")

    def acquire():
        return HomeLock.acquire(home) if what == "home" else FileLock.acquire(file)

    lock = acquire()
    child = subprocess.Popen(["sleep", "0.1"], pass_fds=(lock.descriptor,))
    os.close(lock.descriptor)
    acquire().release()
    child.wait()


def test_a_released_lock_leaves_nothing_beside_the_file(tmp_path):
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    FileLock.acquire(file).release()
    assert [entry.name for entry in tmp_path.iterdir()] == ["fleet.db"]


def test_other_users_cannot_open_the_lock_file(tmp_path):
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    mask = os.umask(0)
    try:
        lock = FileLock.acquire(file)
    finally:
        os.umask(mask)
    assert mode(lock.path) == 0o600
    lock.release()


def test_lock_file_removed_by_its_holder_is_not_taken(tmp_path, monkeypatch):
    """A node opens the lock file, its holder ends and removes it, a third node creates and locks another one."""
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    first, locks, real = FileLock.acquire(file), [], fcntl.flock

    def flock(descriptor, how):
        if not locks:
            locks.append(None)
            first.release()
            locks.append(FileLock.acquire(file))
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(AlreadyServedError):
        FileLock.acquire(file)
    locks[1].release()


def test_link_in_place_of_lock_file_is_not_followed(tmp_path):
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    lock = FileLock.acquire(file)
    lock.release()
    lock.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HomeError, match="the lock of another user's node"):
        FileLock.acquire(file)
    assert not (tmp_path / "elsewhere").exists()


def test_releasing_keeps_a_lock_file_of_another_node(tmp_path):
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    lost = FileLock.acquire(file)
    lost.path.unlink()
    held = FileLock.acquire(file)
    lost.release()
    with pytest.raises(AlreadyServedError):
        FileLock.acquire(file)
    held.release()


def test_another_users_abstract_socket_blocks_no_node(tmp_path):
    file = tmp_path / "fleet.db"
    file.write_bytes(b"")
    info = file.stat()
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(f"\0mycomesh-{info.st_dev:x}-{info.st_ino:x}")
        FileLock.acquire(file).release()


def test_a_file_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(HomeError, match="cannot reach"):
        FileLock.acquire(tmp_path / "absent.db")
