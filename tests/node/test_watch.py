"""The watch on a database: other programs' commits, storms of them, files that change places, and no work in between."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import itertools
import os
import sqlite3
import termios
from pathlib import Path

import pytest
import uvloop

from mesh.node import watch as module
from mesh.node.watch import Watch

WAIT_S = 20  # only a broken watch takes this long


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine to its end on one kind of loop."""

    def run(coroutine):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, WAIT_S))

    return run


@pytest.fixture(params=["inotify", "polling"])
def way(request, monkeypatch):
    """Both ways to watch."""
    if request.param == "polling":
        monkeypatch.setattr(module, "_open_inotify", lambda _: -1)
        monkeypatch.setattr(module, "POLL_S", 0.005)
    return request.param


@pytest.fixture(params=["wal", "delete"])
def database(request, tmp_path):
    """A database in either journal mode, and a connection of another program."""
    other = sqlite3.connect(tmp_path / "fleet.db", isolation_level=None)
    other.execute(f"PRAGMA journal_mode={request.param}")
    other.execute("CREATE TABLE drones(drone_id)")
    yield tmp_path / "fleet.db", other
    other.close()


class Seen:
    """A watch and what it has told."""

    def __init__(self, path):
        self.commits = 0
        self.replaced = 0
        self.on_commit = lambda: None
        self._news = asyncio.Event()
        self.watch = Watch(path, self._commit, self._replace)
        self.watch.start()

    def _commit(self):
        self.commits += 1
        self.on_commit()
        self._news.set()

    def _replace(self):
        self.replaced += 1
        self._news.set()

    async def until(self, check):
        while not check():
            self._news.clear()
            await self._news.wait()

    async def calm(self):
        """Wait until everything that has happened is told: the kernel queues it during the very call that does it."""
        if self.watch.polling:
            for _ in range(3):
                await asyncio.sleep(module.POLL_S)
            return
        for _ in itertools.count():
            if self.watch._timer is None and not self._queued():
                return
            await asyncio.sleep(module.COALESCE_S / 5)

    def _queued(self):
        if self.watch._fd < 0:
            return 0
        count = array.array("i", [0])
        fcntl.ioctl(self.watch._fd, termios.FIONREAD, count)
        return count[0]


def test_a_commit_of_another_program_is_told(run, way, database):
    path, other = database

    async def story():
        seen = Seen(path)
        assert seen.watch.polling == (way == "polling")
        other.execute("INSERT INTO drones VALUES (1)")
        await seen.until(lambda: seen.commits)
        assert seen.replaced == 0
        seen.watch.close()

    run(story())


def test_the_last_of_many_commits_is_told(run, way, database):
    path, other = database

    async def story():
        seen = Seen(path)
        reader = sqlite3.connect(path)
        rows = 0

        def count():
            nonlocal rows
            rows = reader.execute("SELECT count(*) FROM drones").fetchone()[0]

        seen.on_commit = count
        for number in range(200):
            other.execute("INSERT INTO drones VALUES (?)", (number,))
            await asyncio.sleep(0)
        await seen.until(lambda: rows == 200)
        reader.close()
        seen.watch.close()

    run(story())


def test_a_storm_is_told_in_few_calls(run, database):
    path, other = database

    async def story():
        seen = Seen(path)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(300):
            other.execute("INSERT INTO drones VALUES (?)", (number,))
            await asyncio.sleep(0)
        await seen.calm()
        # One call at once, then at most one each pause: what the clock says is no limit here but the divisor.
        assert 1 <= seen.commits <= 1 + (loop.time() - began) / module.COALESCE_S
        assert seen.commits < 300
        seen.watch.close()

    run(story())


def test_reading_and_other_files_are_not_told(run, tmp_path):
    path = tmp_path / "fleet.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE drones(drone_id)")

    async def story():
        seen = Seen(path)
        other.execute("SELECT * FROM drones").fetchall()
        for name in ("fleet.db2", "fleet", "fleet.db-wal2", "notes.txt"):
            (tmp_path / name).write_text("not the database")
        await seen.calm()
        assert seen.commits == 0
        assert seen.replaced == 0
        seen.watch.close()

    run(story())
    other.close()


@pytest.mark.parametrize("deed", ["moved over", "deleted", "moved away", "directory moved"])
def test_a_replaced_file_is_told_once(run, way, tmp_path, deed):
    place = tmp_path / "place"
    place.mkdir()
    path = place / "fleet.db"
    path.write_bytes(b"as it was")

    async def story():
        seen = Seen(path)
        match deed:
            case "moved over":
                (place / "other").write_bytes(b"restored")
                (place / "other").replace(path)
            case "deleted":
                path.unlink()
            case "moved away":
                path.rename(place / "away")
            case "directory moved":
                place.rename(tmp_path / "elsewhere")
        await seen.until(lambda: seen.replaced)
        if place.exists():
            path.write_bytes(b"and again")
        await seen.calm()
        assert seen.replaced == 1
        seen.watch.close()

    run(story())


def test_a_link_is_watched_where_it_leads(run, way, tmp_path):
    (tmp_path / "real").mkdir()
    path = tmp_path / "link.db"
    path.symlink_to(tmp_path / "real" / "fleet.db")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode=wal")
    other.execute("CREATE TABLE drones(drone_id)")

    async def story():
        seen = Seen(path)
        other.execute("INSERT INTO drones VALUES (1)")
        await seen.until(lambda: seen.commits)
        seen.watch.close()

    run(story())
    other.close()


def test_a_wal_that_appears_later_is_told(run, way, tmp_path):
    path = tmp_path / "fleet.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE drones(drone_id)")

    async def story():
        seen = Seen(path)
        other.execute("PRAGMA journal_mode=wal")
        await seen.until(lambda: seen.commits)
        await seen.calm()
        before = seen.commits
        other.execute("INSERT INTO drones VALUES (1)")
        await seen.until(lambda: seen.commits > before)
        seen.watch.close()

    run(story())
    other.close()


def _held():
    """The files that this process has open."""
    links = []
    for one in sorted(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the descriptor that listed them
            links.append(str(one.readlink()))
    return links


def test_the_database_is_never_opened(run, way, database, monkeypatch):
    """An open and close of the file in this process would drop the locks that SQLite holds in it."""
    path, other = database

    def refuse(*_, **__):
        raise AssertionError("the watch opened a file")

    async def story():
        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr("builtins.open", refuse)
        monkeypatch.setattr(Path, "open", refuse)
        seen = Seen(path)
        held = _held()
        # The connection of the other program, in this same process, holds it once; in WAL mode its -wal and -shm as well.
        assert held.count(str(path)) == 1
        other.execute("INSERT INTO drones VALUES (1)")
        await seen.until(lambda: seen.commits)
        seen.watch.close()

    run(story())


def test_an_idle_watch_has_nothing_to_do(database):
    path, other = database

    async def story():
        seen = Seen(path)
        other.execute("INSERT INTO drones VALUES (1)")
        await seen.until(lambda: seen.commits)
        await seen.calm()
        loop = asyncio.get_running_loop()
        # The only timer left is the limit of this very test; nothing is ready but this very task.
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]
        assert len(timers) == 1
        assert not loop._ready
        seen.watch.close()

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(story(), WAIT_S))


def test_after_close_nothing_is_told(run, way, database):
    path, other = database

    async def story():
        seen = Seen(path)
        seen.watch.close()
        seen.watch.close()
        other.execute("INSERT INTO drones VALUES (1)")
        await seen.calm()
        assert seen.commits == 0

    run(story())


def test_an_overflow_of_the_kernel_s_queue_counts_as_a_commit():
    overflow = module._EVENT.pack(-1, module._IN_Q_OVERFLOW, 0, 0)
    assert module._sort(overflow, {b"fleet.db"}) == (True, True)


def test_only_the_three_files_of_a_database_count():
    def event(mask, name):
        padded = name.ljust(len(name) // 16 * 16 + 16, b"\0")
        return module._EVENT.pack(1, mask, 0, len(padded)) + padded

    names = {b"fleet.db", b"fleet.db-wal", b"fleet.db-journal"}
    assert module._sort(event(module._IN_MODIFY, b"fleet.db-wal"), names) == (True, False)
    assert module._sort(event(module._IN_MODIFY, b"fleet.db-shm"), names) == (False, False)
    both = event(module._IN_MODIFY, b"other") + event(module._IN_MOVED_TO, b"fleet.db")
    assert module._sort(both, names) == (True, True)
