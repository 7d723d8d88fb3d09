"""Errors of the file inside rounds: whatever step they hit, on whichever side, both replicas end equal."""

from __future__ import annotations

import random
from itertools import count

import apsw
import pytest

from mycomesh.sync.exchange import catch_up_stream, flow_control
from mycomesh.sync.exchange.exchange import Exchange
from mycomesh.sync.exchange.intake import Host
from mycomesh.sync.exchange.serve import CatchUpServer
from mycomesh.sync.merge import tombstones
from mycomesh.sync.replication import drop_guard
from mycomesh.sync.storage import store as store_module
from mycomesh.sync.wire import messages as wire
from tests.sync.exchanges import World
from tests.sync.peers import assert_equal
from tests.sync.scale import SCALE

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v)"
FILL = """
    WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n LIMIT ?)
    INSERT INTO t SELECT i, 'value ' || i FROM n"""
CHUNK_ROWS = 60
MEETING_MS = 10_000  # the part of the meeting in which the file may fail: a repair takes two comparisons
STRIDE = max(1, round(29 / SCALE))  # of all calls; a multiple of no number of kinds
ERRORS = {
    "locked": lambda: apsw.BusyError("database is locked"),
    "full": lambda: apsw.FullError("database or disk is full"),
    "io": lambda: apsw.IOError("disk I/O error"),
}


class Faulty:
    """A connection whose `execute` and `executemany` raise an error at the chosen call."""

    def __init__(self, db):
        self._db = db
        self.calls = 0
        self.fail_at = 0  # counted from the last `arm`; -1: every write transaction
        self.error = None

    def arm(self, fail_at, error):
        self.calls, self.fail_at, self.error = 0, fail_at, error

    def _count(self):
        self.calls += 1
        if self.calls == self.fail_at:
            error = self.error()
            if self._db.in_transaction and isinstance(error, apsw.FullError):
                self._db.execute("ROLLBACK")  # as SQLite does by itself
            raise error

    def execute(self, sql, *args, **options):
        if self.fail_at == -1 and sql == "BEGIN IMMEDIATE":
            raise self.error()
        if sql != "ROLLBACK":
            self._count()
        return self._db.execute(sql, *args, **options)

    def executemany(self, *args, **options):
        self._count()
        return self._db.executemany(*args, **options)

    def __getattr__(self, name):
        return getattr(self._db, name)


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    real, made, numbers = store_module.open_file, [], count()
    monkeypatch.setattr(store_module, "open_file", lambda path, extensions: Faulty(real(path, extensions)))
    monkeypatch.setattr(catch_up_stream, "FEED_ROWS_MAX", CHUNK_ROWS)

    def make(nodes=2):
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        made.append(World.made(folder, nodes))
        return made[-1]

    yield make
    for world in made:
        world.close()


def connection(node):
    return node.peer.replica.store.db


# ---- parts of a round: each story leaves two nodes whose next link needs that part


def catch_up(world):
    """Digests, vectors, plan, several chunks, done."""
    one, _ = world.nodes
    world.write(one, DDL)
    world.write(one, FILL, 1, 3 * CHUNK_ROWS)
    return {"Vectors", "Plan", "Chunk", "Ack", "Done"}


def audit(world):
    """Rows whose tombstones the sender has collected."""
    one, two = world.nodes
    meet(world)
    world.write(one, "DELETE FROM t WHERE id < 20")
    world.write(two, "INSERT INTO bag VALUES('meanwhile')")
    replica = one.peer.replica
    table = replica.tables["t"]
    with replica.store.transaction():
        assert tombstones.collect(table, table.coverage.vector.upto(replica.site), 100) == 19
    return {"AuditRequest", "AuditReply", "Done"}


def repair(world):
    """Rows that have vanished together with their entries."""
    meet(world)
    replica = world.nodes[1].peer.replica
    with replica.store.transaction() as db:
        db.execute("DELETE FROM t WHERE id BETWEEN 10 AND 40")
        log = replica.tables["t"].log
        for entries in log.entries_of_rows(range(10, 41)).values():
            log.remove(*entries)
        log.flush()
    return {"TableSketch", "RepairRequest", "RepairRows"}


def meet(world):
    world.write(world.nodes[0], DDL)
    world.write(world.nodes[0], FILL, 1, 60)
    link = world.link(*world.nodes)
    world.run(3_000)
    world.cut(link)


STORIES = {story.__name__: story for story in (catch_up, audit, repair)}
ROWS_LEFT = {"catch_up": 3 * CHUNK_ROWS, "audit": 41, "repair": 60}


def play(world, name, side, call=0, error=None):
    """Tell a story, let one side's file fail at one call once the nodes meet; return how many calls that side made."""
    parts = STORIES[name](world)
    for node in world.nodes:
        node.sent.clear()
    db = connection(world.nodes[side])
    db.arm(call, error)
    one, two = world.nodes
    world.link(one, two)
    world.run(MEETING_MS)
    calls = db.calls
    db.arm(0, None)
    for _ in range(20):
        if world.equal():
            break
        if not world.links:
            world.link(one, two)  # as the mesh does
        world.run(5_000)
    assert_equal(one.peer, two.peer)
    assert [node.sql("SELECT count(*) FROM t") for node in world.nodes] == [[(ROWS_LEFT[name],)]] * 2
    if error is None:  # the story needs the parts of a round that it is for
        assert parts <= {type(wire.decode(payload)).__name__ for node in world.nodes for _, _, payload in node.sent}
    return calls


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", STORIES)
def test_error_at_any_step_of_round_ends_in_retry(worlds, monkeypatch, name, side):
    monkeypatch.setattr(drop_guard, "ALONE_SHARE", 1)  # the word of the one other node is enough
    total = play(worlds(), name, side)
    kinds = sorted(ERRORS)
    for call in range(1, total + 1, STRIDE):
        error = ERRORS[kinds[call % len(kinds)]]
        try:
            play(worlds(), name, side, call, error)
        except Exception as failure:
            failure.add_note(f"{name}: call {call} of node {side} raised {error()!r}")
            raise


# ---- a file that refuses for long


@pytest.mark.parametrize("kind", ERRORS)
def test_a_receiver_that_cannot_write_keeps_its_peer_waiting(worlds, kind, monkeypatch):
    """It loses neither the link nor its place in the stream, and transfers no row again and again."""
    monkeypatch.setattr(flow_control, "WINDOW_BYTES", 300)
    world = worlds()
    one, two = world.nodes
    catch_up(world)
    db = connection(two)
    db.arm(-1, ERRORS[kind])
    world.link(one, two)
    world.run(600_000)
    while_refused = sum(len(payload) for _, _, payload in one.sent)
    assert while_refused < 30_000  # one window, and digests for ten minutes
    assert [sort for sort in two.noticed() if sort.startswith("database")] == [TOLD[kind]]
    db.arm(0, None)
    world.run(60_000)
    assert_equal(one.peer, two.peer)
    assert not one.dropped
    assert not two.dropped
    assert two.noticed().count("database.writable") == 1


TOLD = {"locked": "database.locked", "full": "database.refused", "io": "database.refused"}


def test_file_that_cannot_write_still_serves_what_is_stamped(worlds):
    world = worlds()
    one, two = world.nodes
    catch_up(world)
    connection(one).arm(-1, ERRORS["full"])
    world.link(one, two)
    world.run(60_000)
    assert_equal(one.peer, two.peer)


def test_below_floor_remote_rows_wait_and_local_writes_spread(worlds):
    world = worlds()
    one, two = world.nodes
    free = 10_000_000
    two.exchange = Exchange(
        two.peer.replica, rng=random.Random(2), config=two.config, host=Host(lambda: free, free_bytes_min=5_000_000)
    )
    world.link(one, two)
    world.write(one, DDL)
    world.run(3_000)
    free = 4_999_999
    world.run(1_000)
    world.write(one, "INSERT INTO t VALUES(1, 'remote')")
    world.write(two, "INSERT INTO t VALUES(2, 'local')")
    world.run(30_000)
    assert two.sql("SELECT id FROM t") == [(2,)]
    assert one.sql("SELECT id FROM t ORDER BY 1") == [(1,), (2,)]
    assert two.exchange.file_trouble.code == "disk.low"
    assert two.noticed().count("disk.low") == 1
    free = 5_100_000  # an application that writes and deletes must not open and close it all the time
    world.run(30_000)
    assert two.exchange.file_trouble is not None
    free = 7_000_000
    world.run(30_000)
    assert_equal(one.peer, two.peer)
    assert two.exchange.file_trouble is None


def test_the_floor_is_shown_while_nothing_is_taken_in(worlds):
    """Only its application writes, whose commits fail on a full disk: no commit, no drain."""
    world = worlds(1)
    (node,) = world.nodes
    free = 10
    node.exchange = Exchange(
        node.peer.replica, rng=random.Random(2), config=node.config, host=Host(lambda: free, free_bytes_min=100)
    )
    world.write(node, "SELECT 1")
    world.run(5_000)
    assert node.exchange.file_trouble.code == "disk.low"
    assert node.exchange.file_trouble.since_ms <= node.peer.wall_ms + world.now


def test_round_that_brings_nothing_for_minutes_closes_its_link(worlds, monkeypatch):
    world = worlds()
    one, two = world.nodes
    catch_up(world)
    monkeypatch.setattr(CatchUpServer, "on_vectors", lambda *_: None)  # a sender that loses the request
    world.link(one, two)
    world.run(two.config.stall_ms + two.config.dead_ms + 5_000)
    assert [reason for _, reason in two.dropped] == ["its round has brought nothing for 300 s"]


def test_a_lock_names_its_holder_once_it_is_old(worlds):
    world = worlds(1)
    (node,) = world.nodes
    node.exchange = Exchange(
        node.peer.replica, rng=random.Random(2), config=node.config, host=Host(lock_holder=lambda: "psql (process 7)")
    )
    connection(node).arm(-1, ERRORS["locked"])
    world.write(node, DDL)
    world.run(4_000)
    assert not [sort for sort in node.noticed() if sort.startswith("database")]
    world.run(4_000)
    (notice,) = [notice for notice in node.notices if notice.event == "database.locked"]
    assert "psql (process 7)" in notice.text
    assert notice.text.endswith("(for 5 s)")
    connection(node).arm(0, None)
    world.run(1_000)
    assert node.noticed()[-1] == "database.writable"
    assert node.exchange.file_trouble is None
