"""The daemon in this process: what the control socket answers at each phase, what ends a run, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace

import pytest

from mycomesh.mesh.events import Notice
from mycomesh.mesh.membership.enrolment import Candidate, JoinCode
from mycomesh.mesh.membership.identity import create_mesh
from mycomesh.mesh.node import clock_notes, home_watch, keystore
from mycomesh.mesh.node.config import NodeConfig, PeerName
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.daemon import Daemon
from mycomesh.mesh.node.errors import AlreadyServedError, HomeError, KeystoreError, NodeError, NoNodeError, RefusedError
from mycomesh.mesh.node.home import FileLock, Home, HomeLock
from mycomesh.mesh.node.keystore import Keystore, PendingJoin
from mycomesh.mesh.node.pending_join import enrol
from mycomesh.mesh.node.serving import ServingNode
from mycomesh.mesh.node.shell import MeshShell, clock
from mycomesh.mesh.node.watch import Watch
from mycomesh.sync.exchange import intake

SQLITE = shutil.which("sqlite3")
WAIT_S = 30
QUIET = NodeConfig(port=0, multicast=False, log_level="error")

needs_shell = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


class Running:
    """One daemon as a task of this loop, asked through its own socket from a thread."""

    def __init__(self, home, file, config=QUIET):
        self.home = home
        self.task = asyncio.ensure_future(Daemon(home, file, config).run())

    async def ask(self, what, **arguments):
        return await asyncio.to_thread(ask, self.home, what, **arguments)

    async def phase(self, wanted):
        async with asyncio.timeout(WAIT_S):
            while True:
                if self.task.done():
                    self.task.result()
                    raise AssertionError("the daemon ended")
                try:
                    if (await self.ask("status"))["phase"] == wanted:
                        return
                except NoNodeError:
                    await asyncio.sleep(0.01)

    async def ended(self):
        async with asyncio.timeout(WAIT_S):
            await self.task


@pytest.fixture
def founder(tmp_path):
    home = Home.locate(tmp_path / "alpha", {})
    home.prepare()
    store = Keystore(home)
    store.store_mesh(*create_mesh("fleet", "alpha", entropy=os.urandom, wall_ms=clock()[1]))
    return home


@pytest.fixture
def joiner(tmp_path):
    home = Home.locate(tmp_path / "bravo", {})
    home.prepare()
    Keystore(home).store_join(PendingJoin(JoinCode(b"m" * 16, b"s" * 16), Candidate.fresh("bravo", entropy=os.urandom)))
    return home


def sql(file, text):
    """Return the answer of the stock sqlite3 shell; a process of its own, because two SQLite libraries must not share a file."""
    command = [SQLITE, "-cmd", ".timeout 5000", file, text]  # the node beside it writes too
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    return done.stdout


def test_serving_node_answers_until_it_is_told_to_end(founder, tmp_path):
    async def story():
        running = Running(founder, tmp_path / "fleet.db")
        await running.phase("serving")
        status = await running.ask("status")
        assert (status["mesh"], status["node"], status["pid"]) == ("fleet", "alpha", os.getpid())
        assert status["port"] > 0
        answer = await running.ask("replicas")
        assert (answer["replicas"], answer["linked"]) == (1, 0)
        assert (await running.ask("replicas", mark=answer["mark"], want=2, wait_ms=50))["replicas"] == 1
        answer = await running.ask("down")
        assert answer == {"pid": os.getpid(), "file": str(tmp_path / "fleet.db")}
        await running.ended()
        with pytest.raises(NoNodeError):
            await running.ask("status")

    asyncio.run(story())
    HomeLock.acquire(founder).release()
    FileLock.acquire(tmp_path / "fleet.db").release()


@pytest.mark.parametrize("step", [(ServingNode, "snapshot"), (Watch, "start"), (MeshShell, "start")])
def test_a_start_that_fails_ends_the_sql_thread(founder, tmp_path, monkeypatch, step):
    def broken(*_):
        raise NodeError("planted")

    async def run():
        await Daemon(founder, tmp_path / "fleet.db", QUIET).run(signals=False)

    before = set(threading.enumerate())
    monkeypatch.setattr(*step, broken)
    with pytest.raises(NodeError, match="planted"):
        asyncio.run(run())
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


def test_answer_to_down_comes_when_file_is_closed(founder, tmp_path):
    async def story():
        running = Running(founder, tmp_path / "fleet.db")
        await running.phase("serving")
        await running.ask("down", remove=True)
        await running.ended()

    asyncio.run(story())
    assert sorted(entry.name for entry in tmp_path.glob("fleet.db*")) == ["fleet.db"]


def test_a_joining_node_says_so_and_ends_when_told(joiner, tmp_path):
    async def story():
        running = Running(joiner, tmp_path / "fleet.db")
        await running.phase("joining")
        status = await running.ask("status")
        assert (status["node"], status["mesh"]) == ("bravo", "")
        assert "waiting for a member" in status["hint"]
        for what in ({"what": "replicas"}, {"what": "down", "remove": True}):
            with pytest.raises(RefusedError, match="not serving yet"):
                await running.ask(**what)
        await running.ask("down")
        await running.ended()

    asyncio.run(story())
    assert not (tmp_path / "fleet.db").exists()
    assert Keystore(joiner).pending_join() is not None


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"what": "dance"}, "does not know the request 'dance'"),
        ({"what": "invite"}, "whole numbers"),
        ({"what": "invite", "expires_s": True, "uses": 1}, "whole numbers"),
        ({"what": "invite", "expires_s": 0, "uses": 1}, "whole numbers"),
        ({"what": "invite", "expires_s": 60, "uses": 0}, "1 to"),
    ],
)
def test_a_malformed_request_is_refused_in_one_line(founder, tmp_path, request_, said):
    async def story():
        running = Running(founder, tmp_path / "fleet.db")
        await running.phase("serving")
        with pytest.raises(RefusedError, match=said) as caught:
            await running.ask(**request_)
        assert len(str(caught.value).splitlines()) == 1
        await running.ask("down")
        await running.ended()

    asyncio.run(story())


def test_one_node_admits_another_and_stores_the_used_code(founder, tmp_path):
    home = Home.locate(tmp_path / "bravo", {})
    home.prepare()

    async def story():
        running = Running(founder, tmp_path / "fleet.db")
        await running.phase("serving")
        code = JoinCode.parse((await running.ask("invite", expires_s=60, uses=1))["code"])
        assert Keystore(founder).invitations()[0].uses_left == 1
        port = (await running.ask("status"))["port"]
        Keystore(home).store_join(PendingJoin(code, Candidate.fresh("bravo", entropy=os.urandom)))
        config = NodeConfig(port=0, multicast=False, peers=(PeerName("127.0.0.1", port),))
        identity = await asyncio.to_thread(enrol, home, config, seconds_max=WAIT_S)
        assert (identity.mesh_name, identity.name) == ("fleet", "bravo")
        await running.ask("down")
        await running.ended()

    asyncio.run(story())
    assert Keystore(founder).invitations()[0].uses_left == 0
    assert Keystore(home).pending_join() is None


@needs_shell
def test_file_that_is_replaced_ends_run_with_one_line(founder, tmp_path):
    file = tmp_path / "fleet.db"
    sql(tmp_path / "other.db", "CREATE TABLE t(a);")

    async def story():
        running = Running(founder, file)
        await running.phase("serving")
        (tmp_path / "other.db").rename(file)
        with pytest.raises(NodeError, match="was replaced or removed while it was served"):
            await running.ended()

    asyncio.run(story())
    HomeLock.acquire(founder).release()


def test_a_removed_file_ends_the_run_with_one_line(founder, tmp_path):
    file = tmp_path / "fleet.db"

    async def story():
        running = Running(founder, file)
        await running.phase("serving")
        file.unlink()
        with pytest.raises(NodeError, match="was replaced or removed while it was served"):
            await running.ended()

    asyncio.run(story())
    assert not file.exists()


@needs_shell
def test_what_was_committed_just_before_the_end_is_stamped(founder, tmp_path):
    file = tmp_path / "fleet.db"
    sql(file, "CREATE TABLE t(a INTEGER PRIMARY KEY);")

    async def story():
        running = Running(founder, file)
        await running.phase("serving")
        await asyncio.to_thread(sql, file, "INSERT INTO t VALUES (1), (2), (3);")
        await running.ask("down")
        await running.ended()
        again = Running(founder, file)
        await again.phase("serving")
        status = await again.ask("status")
        await again.ask("down")
        await again.ended()
        return status

    status = asyncio.run(story())
    assert status["pending"] == 0
    assert [table["rows"] for table in status["tables"] if table["name"] == "t"] == [3]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_program_that_holds_the_lock_is_named(founder, tmp_path, mode, monkeypatch):
    monkeypatch.setattr(intake, "LOCK_NOTICE_MS", 300)
    file = tmp_path / "fleet.db"
    sql(file, f"PRAGMA journal_mode={mode}; CREATE TABLE t(a INTEGER PRIMARY KEY);")

    async def story():
        running = Running(founder, file)
        await running.phase("serving")
        with locked(file) as holder:
            await asyncio.to_thread(request_policy, running)  # any request that writes
            async with asyncio.timeout(WAIT_S):
                while True:
                    status = await running.ask("status")
                    if status["trouble"] is not None and "process" in status["hint"]:
                        break
                    await asyncio.sleep(0.02)
            assert status["trouble"]["code"] == "database.locked"
            assert f"python3 (process {holder.pid}) has it locked" in status["hint"].replace("python ", "python3 ")
        async with asyncio.timeout(WAIT_S):
            while True:
                if (await running.ask("status"))["trouble"] is None:
                    break
                await asyncio.sleep(0.02)
        await asyncio.to_thread(sql, file, "INSERT INTO t VALUES (1), (2);")
        await running.ask("replicas")
        await running.ask("down")
        await running.ended()

    asyncio.run(story())


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_node_stops_although_a_program_holds_the_lock(founder, tmp_path, mode):
    file = tmp_path / "fleet.db"
    sql(file, f"PRAGMA journal_mode={mode}; CREATE TABLE t(a INTEGER PRIMARY KEY);")

    async def story():
        running = Running(founder, file)
        await running.phase("serving")
        with locked(file):
            with pytest.raises(NodeError, match=r"stopped, but: .*(has it locked|holds its write lock)"):
                await running.ask("down")
            await running.ended()
        again = Running(founder, file)
        await again.phase("serving")
        status = await again.ask("status")
        await again.ask("down")
        await again.ended()
        return status

    status = asyncio.run(story())
    assert [table["rows"] for table in status["tables"]] == [1]


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
db.execute("INSERT INTO t VALUES(7)")
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(file):
    """Another program that has written a row, and keeps the file locked until the end of the block."""
    command = [sys.executable, "-c", HOLD, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        yield holder
        holder.stdin.close()


def request_policy(running):
    with contextlib.suppress(NodeError):
        ask(running.home, "policy", table="t", kind="none")


def refused(home, file, config=QUIET):
    """Run a daemon that must refuse; return its error."""

    async def story():
        await Daemon(home, file, config).run()

    with pytest.raises(NodeError) as caught:
        asyncio.run(story())
    return caught.value


def test_without_a_mesh_nothing_is_made(tmp_path):
    error = refused(Home.locate(tmp_path / "empty", {}), tmp_path / "fleet.db")
    assert isinstance(error, KeystoreError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".", "absent/fleet.db", "fifo"])
def test_place_where_no_database_can_be_is_refused_first(founder, tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    assert isinstance(refused(founder, tmp_path / name), HomeError)
    HomeLock.acquire(founder).release()


def test_a_home_in_use_is_refused(founder, tmp_path):
    lock = HomeLock.acquire(founder)
    try:
        assert isinstance(refused(founder, tmp_path / "fleet.db"), AlreadyServedError)
    finally:
        lock.release()
    assert not (tmp_path / "fleet.db").exists()


def test_file_in_use_is_refused_and_frees_the_home(founder, tmp_path):
    file = tmp_path / "fleet.db"
    file.touch()
    lock = FileLock.acquire(file)
    try:
        assert isinstance(refused(founder, file), AlreadyServedError)
    finally:
        lock.release()
    HomeLock.acquire(founder).release()
    assert file.read_bytes() == b""


def test_a_terminal_that_is_closed_ends_a_node_gracefully(founder, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the parent of the tests may ignore it

    async def story():
        running = Running(founder, tmp_path / "fleet.db")
        await running.phase("serving")
        os.kill(os.getpid(), signal.SIGHUP)
        await running.ended()

    try:
        asyncio.run(story())
    finally:
        signal.signal(signal.SIGHUP, before)
    HomeLock.acquire(founder).release()


def test_what_nohup_keeps_from_node_is_kept_from_it(founder, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def story():
        running = Running(founder, tmp_path / "fleet.db")
        await running.phase("serving")
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await running.ask("status"))["phase"] == "serving"
        await running.ask("down")
        await running.ended()

    try:
        asyncio.run(story())
    finally:
        signal.signal(signal.SIGHUP, before)


def test_metrics_are_served_only_where_they_were_asked_for(founder, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return answer.read().decode()

    async def story():
        running = Running(founder, tmp_path / "fleet.db", replace(QUIET, metrics=PeerName("127.0.0.1", port)))
        await running.phase("serving")
        assert "mycomesh_serving 1\n" in await asyncio.to_thread(read)
        await running.ask("down")
        await running.ended()
        with pytest.raises(urllib.error.URLError):
            await asyncio.to_thread(read)

    asyncio.run(story())


def test_a_home_removed_under_a_running_node_is_reported(founder, tmp_path, monkeypatch):
    monkeypatch.setattr(home_watch, "CHECK_S", 0.01)
    notices = []

    async def story():
        told = asyncio.Event()

        def log(notice):
            notices.append(notice)
            if notice.event == "home.removed":
                told.set()

        daemon = Daemon(founder, tmp_path / "fleet.db", QUIET, log)
        run = asyncio.ensure_future(daemon.run(signals=False))
        await asyncio.wait_for(daemon.serving, WAIT_S)
        shutil.rmtree(founder.config)
        await asyncio.wait_for(told.wait(), WAIT_S)
        await asyncio.sleep(0.1)
        assert str(founder.state) in (await daemon.status()).hint
        daemon.end()
        await asyncio.wait_for(run, WAIT_S)

    asyncio.run(story())
    assert [notice.level for notice in notices if notice.event == "home.removed"] == ["warning"]
    assert not founder.config.exists()


def test_a_removed_control_socket_comes_back(founder, tmp_path, monkeypatch):
    monkeypatch.setattr(home_watch, "CHECK_S", 0.01)

    async def story():
        running = Running(founder, tmp_path / "fleet.db")
        await running.phase("serving")
        shutil.rmtree(founder.runtime)
        await running.phase("serving")
        await running.ask("down")
        await running.ended()
        assert list(founder.runtime.iterdir()) == []

    asyncio.run(story())


def test_a_home_on_a_full_disk_ends_no_node(founder, tmp_path, monkeypatch):
    """Adding a member's address is the smallest thing that a node stores."""

    async def story():
        notices = []
        daemon = Daemon(founder, tmp_path / "fleet.db", QUIET, notices.append)
        run = asyncio.ensure_future(daemon.run(signals=False))
        node = await asyncio.wait_for(daemon.serving, WAIT_S)

        def full(*_, **__):
            raise HomeError("cannot write: No space left on device; check free space and permissions")

        monkeypatch.setattr(keystore, "write_private", full)
        monkeypatch.setattr(clock_notes, "write_private", full)
        for port in (1, 2):
            daemon._on_notice(Notice("link.up", "x", {"dialled": True, "address": f"10.0.0.1:{port}"}))
        node._replica.note_clock()
        await node.check_alive()
        assert "No space left" in (await daemon.status()).hint
        daemon.end()
        await asyncio.wait_for(run, WAIT_S)
        return [notice.event for notice in notices].count("home.unwritable")

    assert asyncio.run(story()) == 2  # one of the keystore, one of the clock notes
