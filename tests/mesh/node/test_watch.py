"""The watch: it reports commits of other programs at once and not too often, a replaced file once, and never opens the file."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
import uvloop

from mycomesh.mesh.node import watch as module
from mycomesh.mesh.node.watch import Watch, written_ms

WAIT_S = 10  # only a broken watch takes this long


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a test's coroutine on each of the two loops."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def start(work):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(work, WAIT_S * 2))

    return start


@pytest.fixture(params=["inotify", "polling"])
def way(request, monkeypatch):
    """Both ways of noticing; the second is what is left where inotify is not to be had."""
    if request.param == "polling":
        monkeypatch.setattr(module, "open_inotify", lambda _directory, _mask: -1)
    return request.param


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "fleet.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t(x)")
        db.commit()
    return file


class Watching:
    """A watch on a file and what it told."""

    def __init__(self, file):
        self.commits = 0
        self.replaced = 0
        self.told = asyncio.Event()
        self.watch = Watch(file, self.on_commit, self.on_replaced)

    async def __aenter__(self):
        self.watch.start()
        return self

    async def __aexit__(self, *_):
        self.watch.close()

    def on_commit(self):
        self.commits += 1
        self.told.set()

    def on_replaced(self):
        self.replaced += 1
        self.told.set()

    async def until(self, check):
        async with asyncio.timeout(WAIT_S):
            while not check():
                self.told.clear()
                await self.told.wait()

    async def calm(self):
        """Wait until the watch has reported every event in the directory: the commit of this test comes last."""
        loop = asyncio.get_running_loop()
        before = self.commits
        await loop.run_in_executor(None, os.utime, self.watch._path)
        with open(f"{self.watch._path}-journal", "wb") as journal:  # noqa: ASYNC230, PTH123 -- not the database
            journal.write(b"x")
        os.unlink(f"{self.watch._path}-journal")  # noqa: PTH108
        await self.until(lambda: self.commits > before)


def insert(file, rows=1):
    with closing(sqlite3.connect(file)) as db:
        for number in range(rows):
            db.execute("INSERT INTO t VALUES (?)", (number,))
            db.commit()


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE", "PERSIST"])
def test_a_commit_of_another_connection_is_told(run, way, file, mode):
    async def scene():
        with closing(sqlite3.connect(file)) as db:
            db.execute(f"PRAGMA journal_mode={mode}")
            async with Watching(file) as watching:
                assert watching.watch.polling == (way == "polling")
                for number in range(3):
                    before = watching.commits
                    db.execute("INSERT INTO t VALUES (?)", (number,))
                    db.commit()
                    await watching.until(lambda before=before: watching.commits > before)
                assert watching.replaced == 0

    run(scene())


def test_a_busy_log_beside_it_costs_few_wakeups(run, file, monkeypatch):
    reads = []
    read = os.read
    monkeypatch.setattr(module.os, "read", lambda *args: reads.append(args) or read(*args))

    async def scene():
        async with Watching(file) as watching:
            with open(file.parent / "program.log", "ab", buffering=0) as log:  # noqa: ASYNC230, PTH123 -- not the database
                for _ in range(2_000):
                    log.write(b"a line\n")
                    await asyncio.sleep(0)
                assert len(reads) < 500
                assert watching.commits == 0
                insert(file)
                await watching.until(lambda: watching.commits > 0)

    run(scene())


def test_a_commit_of_the_sqlite3_shell_is_told(run, way, file):
    shell = shutil.which("sqlite3")
    if shell is None:
        pytest.skip("needs the stock sqlite3 shell (apt-get install sqlite3)")

    async def scene():
        async with Watching(file) as watching:
            done = await asyncio.create_subprocess_exec(shell, str(file), "INSERT INTO t VALUES (1)")
            assert await done.wait() == 0
            await watching.until(lambda: watching.commits > 0)

    run(scene())


def test_a_storm_is_reported_rarely_with_its_last_write(run, tmp_path):
    """A reader that looks at each report has seen every write at the end. (SQLite shows a commit a moment later.)"""
    file = tmp_path / "plain.db"
    file.touch()

    def storm():
        with file.open("ab", buffering=0) as out:
            for _ in range(2_000):
                out.write(b"x")

    async def scene():
        seen = []

        class Looking(Watching):
            def on_commit(self):
                seen.append(file.stat().st_size)
                super().on_commit()

        async with Looking(file) as watching:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await loop.run_in_executor(None, storm)
            await watching.until(lambda: seen and seen[-1] == 2_000)
            # Not a limit on time: on how many tellings may fit into the time that passed.
            assert watching.commits <= (loop.time() - began) / module.COALESCE_S + 2

    run(scene())


def test_other_files_of_the_directory_are_nobodys_business(run, file):
    async def scene():
        last = file.with_name("last.db")
        last.touch()
        async with Watching(file) as watching, Watching(last) as other:
            for name in ("other.db", "fleet.db2", "xfleet.db", "fleet.db-wal2", "fleet.d"):
                file.with_name(name).write_bytes(b"x" * 100)
                file.with_name(name).unlink()
            # The kernel keeps the order: this report comes after the reports of everything before it.
            last.write_bytes(b"x")
            await other.until(lambda: other.commits > 0)
            await other.calm()
            assert (watching.commits, watching.replaced) == (0, 0)

    run(scene())


def replace_by_move(file):
    fresh = file.with_name("fresh")
    fresh.write_bytes(file.read_bytes())
    fresh.replace(file)


def move_away(file):
    file.rename(file.with_name("elsewhere"))


def remove(file):
    file.unlink()


def move_directory(file):
    file.parent.rename(file.parent.with_name("moved"))


def remove_directory(file):
    shutil.rmtree(file.parent)


@pytest.mark.parametrize("how", [replace_by_move, move_away, remove, move_directory, remove_directory])
def test_replaced_file_is_told_once_and_ends_watch(run, way, tmp_path, file, how):
    async def scene():
        place = tmp_path / "place"
        place.mkdir()
        mine = place / "fleet.db"
        shutil.copy(file, mine)
        async with Watching(mine) as watching:
            how(mine)
            await watching.until(lambda: watching.replaced)
            told = watching.commits
            if place.exists():
                mine.write_bytes(b"another")
                mine.unlink()
            async with Watching(file) as other:
                await other.calm()
            assert (watching.replaced, watching.commits) == (1, told)

    run(scene())


def test_file_that_is_moved_and_moved_back_is_same(run, file):
    async def scene():
        async with Watching(file) as watching:
            file.rename(file.with_name("elsewhere"))
            file.with_name("elsewhere").rename(file)
            await watching.until(lambda: watching.commits > 0)
            assert watching.replaced == 0
            before = watching.commits
            insert(file)
            await watching.until(lambda: watching.commits > before)

    run(scene())


def test_a_link_is_followed_to_where_the_journal_lies(run, way, tmp_path, file):
    async def scene():
        (tmp_path / "links").mkdir()
        link = tmp_path / "links" / "link.db"
        link.symlink_to(file)
        async with Watching(link) as watching:
            with closing(sqlite3.connect(link)) as db:
                db.execute("INSERT INTO t VALUES (1)")
                db.commit()
                await watching.until(lambda: watching.commits > 0)

    run(scene())


def test_names_that_are_no_text_are_watched_too(run, way, tmp_path):
    async def scene():
        file = tmp_path / os.fsdecode(b"fl\xff \xc3\xa9et.db")
        file.touch()
        async with Watching(file) as watching:
            file.write_bytes(b"x")
            await watching.until(lambda: watching.commits > 0)

    run(scene())


def test_an_idle_watch_arms_no_timer(run, file):
    async def scene():
        async with Watching(file) as watching:
            insert(file)
            await watching.until(lambda: watching.commits > 0)
            await asyncio.sleep(0)
            async with asyncio.timeout(WAIT_S):
                while watching.watch._timer is not None:  # noqa: ASYNC110 -- the loop's own timer, nothing to wait on
                    await asyncio.sleep(module.COALESCE_S)

    run(scene())


def test_closing_twice_is_no_error_and_ends_reports(run, way, file):
    async def scene():
        watching = Watching(file)
        async with watching:
            pass
        watching.watch.close()
        insert(file)
        async with Watching(file) as other:
            await other.calm()
        assert (watching.commits, watching.replaced) == (0, 0)

    run(scene())


def test_the_database_itself_is_never_opened(run, way, file):
    """Closing any descriptor of the file would drop the locks that SQLite holds in this process."""

    def locked():
        code = (
            "import sqlite3, sys\n"
            "db = sqlite3.connect(sys.argv[1], timeout=0)\n"
            "try: db.execute('BEGIN IMMEDIATE')\n"
            "except sqlite3.OperationalError as error: print(error)\n"
            "else: print('free')\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    async def scene():
        with closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA journal_mode=DELETE")
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO t VALUES (1)")
            assert locked() == "database is locked"
            async with Watching(file) as watching:
                await watching.calm()
                assert locked() == "database is locked"
            assert locked() == "database is locked"
            db.rollback()

    run(scene())


def test_a_machine_without_inotify_is_polled(run, file, monkeypatch):
    """The kernel refuses another instance: 128 a user by default."""

    class Libc:
        @staticmethod
        def inotify_init1(_flags):
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc())

    async def scene():
        async with Watching(file) as watching:
            assert watching.watch.polling
            insert(file)
            await watching.until(lambda: watching.commits > 0)

    run(scene())


def test_last_written_is_the_later_of_file_and_journal(tmp_path):
    file, journal, link = tmp_path / "a.db", tmp_path / "a.db-wal", tmp_path / "link.db"
    assert written_ms(file) == 0
    file.touch()
    link.symlink_to(file)
    os.utime(file, (0, 1_700_000_000.25))
    assert written_ms(file) == written_ms(link) == 1_700_000_000_250
    journal.touch()
    os.utime(journal, (0, 1_700_000_001))
    assert written_ms(file) == written_ms(link) == 1_700_000_001_000
