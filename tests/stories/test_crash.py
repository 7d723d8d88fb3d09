"""Killed at any write, or the power cut at any write: the file is opened again, and the replicas end equal and complete.

One scripted life of a node is run once, and recorded at every write to its files. Each point of the recording is a crash.
SQLite recovers the file set of every point. Most points of one transaction recover to the same bytes, so the node goes on from
each recovered file once, beside a copy of the other node as it was then.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
from pathlib import Path

import apsw
import pytest

from tests.sync.crashes import Recorder
from tests.sync.exchanges import World
from tests.sync.peers import Peer, assert_equal, catch_up, converge
from tests.sync.scale import SCALE

POINTS = 500  # in each journal mode at least: more than 1,000 in all
EACH = SCALE != 1  # the node goes on from every point, also where the recovered file is a known one (`make crash`)
MEMORY = Path("/dev/shm")  # no disk is needed where the machine dies only in the test
TABLES = ("numbers", "words", "bag", "orders")
DDL = """
    CREATE TABLE numbers(id INTEGER PRIMARY KEY, v, u UNIQUE);
    CREATE TABLE words(k TEXT PRIMARY KEY, v, n DEFAULT 0);
    CREATE TABLE bag(v);
    CREATE TABLE orders(id INTEGER PRIMARY KEY, v);
    INSERT INTO orders VALUES(1, 'before both'), (2, 'deleted'), (3, 'third')"""


class Life:
    """The recorded life: an application writes to both files, and the replicas do everything that they can do with it once."""

    def __init__(self, folder, mode):
        self.folder = folder
        self.mode = mode
        self.step = 0
        self.images = {}  # every content of a file once: hundreds of megabytes otherwise
        self.points = []  # (the other node's files, file set after a kill, after a power cut)
        self.others = []  # folders with the other node's files, one for each state that it was in
        self.other = None
        self.other_state = None
        self.overwritten = set()
        self.survived = set()  # (the other node's files, digest of the recovered file) from which the node has gone on
        self.rng = random.Random(7)
        self.recorder = None
        self.recording = False

    def live(self):
        folder = self.folder
        mine = apsw.Connection(str(folder / "0.db"))
        mine.execute(f"PRAGMA journal_mode = {self.mode}").fetchall()
        mine.execute(DDL)
        mine.close()
        self.recorder = Recorder(folder / "0.db", self._point)
        try:
            one, two = started(folder)
            self.other = two
            self.recording = True
            self.run(one, two)
            self.recording = False
            converge([one, two])
            assert_equal(one, two)
            one.close()
            two.close()
        finally:
            self.recorder.unregister()
        return self

    def run(self, one, two):
        for act in (
            lambda: self.write(one, "INSERT INTO numbers VALUES(1, ?1, 1), (2, ?2, 2), (3, ?3, 3)", 3),
            lambda: two.take(one.drain(), one.node_id),
            lambda: catch_up(two, one),
            lambda: self.write(two, "INSERT INTO words(k, v) VALUES('a', ?1), ('b', ?2)", 2),
            lambda: self.write(two, "INSERT INTO bag VALUES(?1), (?2), (?3)", 3),
            lambda: one.take(two.drain(), two.node_id),
            lambda: self.write(one, "UPDATE words SET v = ?1, n = n + 1 WHERE k = 'a'", 1),
            lambda: self.write(
                two, "UPDATE words SET v = ?1 WHERE k = 'a'", 1
            ),  # concurrent: one of them is a conflict
            lambda: one.take(two.drain(), two.node_id),
            lambda: two.take(one.drain(), one.node_id),
            lambda: self.write(one, "REPLACE INTO numbers VALUES(4, ?1, 2)", 1),
            lambda: self.write(two, "INSERT INTO numbers VALUES(5, ?1, 5)", 1),
            lambda: self.write(one, "INSERT INTO numbers VALUES(6, ?1, 5)", 1),  # both claim u = 5: one is parked
            lambda: two.take(one.drain(), one.node_id),
            lambda: catch_up(one, two),
            lambda: one.replica.decisions.declare_counter("words", "n"),
            lambda: self.write(one, "DELETE FROM orders WHERE id = 2"),
            lambda: one.replica.decisions.decide_policy("orders", "keep-both"),
            one.drain,
            one.replica.store.wal.checkpoint,  # on the disk, as a node's own writes are before peers get them
            lambda: self.write(two, "INSERT INTO orders VALUES(9, ?1)", 1),
            lambda: catch_up(two, one),
            lambda: self.write(one, "INSERT INTO orders VALUES(9, ?1)", 1),
            lambda: self.write(two, "UPDATE words SET n = n + 1; UPDATE orders SET v = ?1 WHERE id = 1", 1),
            lambda: one.take(two.drain(), two.node_id),
            lambda: catch_up(one, two),
            one.drain,
            lambda: self.write(one, "DELETE FROM bag WHERE rowid = 2"),
            lambda: self.write(one, "ALTER TABLE bag ADD COLUMN extra DEFAULT 9"),
            lambda: self.write(one, "INSERT INTO bag VALUES(?1, 10)", 1),
            lambda: two.take(one.drain(), one.node_id),
            one.replica.store.wal.checkpoint,
            lambda: self.write(two, "DELETE FROM numbers WHERE id = 5; UPDATE bag SET v = ?1 WHERE rowid = 1", 1),
            lambda: catch_up(one, two),
            lambda: self.write(one, "CREATE TABLE late(v PRIMARY KEY) WITHOUT ROWID; INSERT INTO late VALUES(?1)", 1),
            one.drain,  # stamped, and lost on the way to the peer
            lambda: self.write(one, "UPDATE numbers SET v = ?1 WHERE id = 1", 1),
            one.replica.store.wal.checkpoint,
            lambda: catch_up(two, one),
            lambda: catch_up(one, two),
        ):
            self.step += 1
            act()

    def write(self, peer, script, values=0):
        before = values_of(peer.app)
        peer.sql(script, *(f"w{self.step}.{number}" for number in range(values)))
        self.overwritten |= before - values_of(peer.app)

    def _keep_other(self):
        """The other node as it is at this point, by SQLite's own backup."""
        peer = self.other
        state = (self.step, peer.app.execute("PRAGMA data_version").fetchall())
        if state == self.other_state:
            return
        self.other_state = state
        folder = self.folder / f"other-{len(self.others)}"
        folder.mkdir()
        target = apsw.Connection(str(folder / "1.db"))
        with target.backup("main", peer.app, "main") as backup:
            backup.step()
        target.close()
        self.others.append(folder)

    def _point(self):
        if self.recording:
            recorder = self.recorder
            killed = recorder.survivors(lambda _write: True)
            none = self.rng.random() < 0.3
            cut = recorder.survivors(lambda _write: not none and self.rng.random() < 0.7)
            self._keep_other()
            self.points.append((self.others[-1], *map(self._kept, (killed, cut))))

    def _kept(self, files):
        return {suffix: self.images.setdefault(image, image) for suffix, image in files.items()}


def values_of(db):
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    listing = " UNION ALL ".join(f"SELECT v FROM {name}" for name in (*TABLES, "late") if name in names)
    return {value for (value,) in db.execute(listing)}


def restored(folder, *, wall_ms_after):
    """A backup put back over a file whose later writes a peer has already; then the application goes on."""
    one, two = Peer(folder / "0.db", 0, wall_ms=1_000), Peer(folder / "1.db", 1, wall_ms=1_000)
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v)")
    converge([one, two])
    one.sql("INSERT INTO t VALUES(1, 'kept')")
    two.take(one.drain(), one.node_id)
    one.close()
    shutil.copy(folder / "0.db", folder / "backup.db")
    one.open()
    for number in (2, 3):
        one.sql(f"INSERT INTO t VALUES({number}, 'after'); INSERT INTO bag VALUES({number})")
        two.take(one.drain(), one.node_id)
    one.close()
    shutil.copy(folder / "backup.db", folder / "0.db")
    one.wall_ms = wall_ms_after
    one.open()
    one.sql("INSERT INTO t VALUES(7, 'on the backup'); INSERT INTO bag VALUES('also on the backup')")
    one.drain()
    world = World([one, two])
    world.link(*world.nodes)
    world.run(60_000)
    assert_equal(one, two)
    assert [row[0] for row in two.sql("SELECT id FROM t ORDER BY id")] == [1, 2, 3, 7]
    assert len(one.sql("SELECT v FROM bag")) == 3
    world.close()


def test_a_restored_backup_catches_up_and_keeps_new_writes(tmp_path):
    restored(tmp_path, wall_ms_after=2_000)


def test_a_restored_backup_ahead_of_time_reuses_no_stamp(tmp_path):
    restored(tmp_path, wall_ms_after=1_000)


@pytest.fixture(scope="module", params=["wal", "delete"])
def life(request, tmp_path_factory):
    return Life(tmp_path_factory.mktemp("life"), request.param).live()


def started(folder):
    """The node that crashes has a clock behind its peer's: its stamps follow what it has seen, not its own time."""
    return Peer(folder / "0.db", 0, wall_ms=1_000), Peer(folder / "1.db", 1, wall_ms=5_000)


def recovered(folder, files):
    """Puts a file set in the folder and has SQLite recover it; returns the digest of what the file is then."""
    for suffix, data in files.items():
        (folder / f"0.db{suffix}").write_bytes(data)
    plain = apsw.Connection(str(folder / "0.db"))
    assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    plain.close()
    return hashlib.blake2b((folder / "0.db").read_bytes()).digest()


def reopened(life, folder, other):
    """Checks one crash: the recovered file opened beside the other node, further writes, and everything told."""
    shutil.copy(other / "1.db", folder / "1.db")
    plain = apsw.Connection(str(folder / "0.db"))
    held = values_of(plain)
    plain.execute("INSERT INTO words(k, v) VALUES('before', 'before')").fetchall()  # the application goes on first
    plain.close()
    one, two = started(folder)
    held |= values_of(two.app)
    held |= {"before", "after 0"}
    one.sql("INSERT INTO words(k, v) VALUES('after 0', 'after 0')")
    one.drain()
    if "words" in two.tables():
        two.sql("INSERT INTO words(k, v) VALUES('after 1', 'after 1')")
        held.add("after 1")
    converge([one, two])
    if one.digests() != two.digests():  # a power cut took back what the peer knows: that takes a repair
        world = World([one, two])
        world.link(*world.nodes)
        world.run(60_000)
    assert_equal(one, two)
    seen = values_of(one.app)
    records = "".join(
        text
        for peer in (one, two)
        for (text,) in peer.sql("SELECT lost FROM mycomesh_conflicts UNION ALL SELECT content FROM mycomesh_parked")
    )
    lost = [value for value in sorted(held - seen - life.overwritten) if f'"{value}"' not in records]
    assert not lost, lost
    one.close()
    two.close()


def survive(life, folder, kind):
    """Crashes at every point of a kind."""
    for number in distinct(life, kind):
        other, *files = life.points[number]
        state = other, recovered(folder, files[kind - 1])
        if EACH or state not in life.survived:
            life.survived.add(state)
            reopened(life, folder, other)
        for path in sorted(folder.iterdir()):
            path.unlink()


@pytest.fixture
def crashed(tmp_path):
    """A folder for what a crash leaves: in memory where there is one, so that a point takes milliseconds."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def distinct(life, kind):
    """Crash points of a kind (1: killed, 2: power cut) whose file sets differ."""
    found = {tuple(sorted(point[kind].items())): number for number, point in reversed(list(enumerate(life.points)))}
    return sorted(found.values())


def test_node_that_is_killed_at_any_write_goes_on(life, crashed):
    survive(life, crashed, 1)


def test_a_node_survives_a_power_cut_at_any_write(life, crashed):
    survive(life, crashed, 2)


def test_both_journal_modes_together_have_a_thousand_crash_points(life):
    killed, cut = len(distinct(life, 1)), len(distinct(life, 2))
    print(
        f"{life.mode}: {killed} distinct file sets after a kill and {cut} after a power cut, of {len(life.points)} writes"
    )
    assert killed + cut >= POINTS
