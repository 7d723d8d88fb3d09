"""A file at rest is whole without its write-ahead log, and nothing more is done about it."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from mycomesh.sync.exchange.checkpoint_schedule import BETWEEN_MS, REST_MS, TRIES_MAX
from mycomesh.sync.storage.wal import WAL_KEPT_BYTES_MAX
from tests.sync.exchanges import World

DDL = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(id INTEGER PRIMARY KEY, v)"
REST = REST_MS + 100


@pytest.fixture
def linked(tmp_path):
    world = World.made(tmp_path, 2)
    world.link(*world.nodes)
    world.run(1_000)
    yield world
    world.close()


def alone(node, query="SELECT count(*) FROM t"):
    """Read as a program does that takes the file for one that nobody changes."""
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    db = apsw.Connection(f"file:{node.peer.path}?immutable=1", flags=flags)
    try:
        return db.execute(query).fetchall()
    except apsw.SQLError as error:
        return str(error)
    finally:
        db.close()


def wal_bytes(node):
    return Path(f"{node.peer.path}-wal").stat().st_size


def due(node):
    return node.exchange._checkpoints.next_deadline()


def counted(node):
    """Count the checkpoints of a node from here on."""
    wal, tries = node.peer.replica.store.wal, []
    empty = wal.empty
    wal.empty = lambda: tries.append(empty()) or tries[-1]
    return tries


def test_a_reader_without_the_log_sees_first_sync(linked):
    one, two = linked.nodes
    linked.write(one, DDL)
    linked.write(one, "INSERT INTO t VALUES(1, 'a'), (2, 'b')")
    linked.run(1_000)
    assert alone(two) == "no such table: t"
    linked.run(REST)
    for node in linked.nodes:
        assert alone(node) == [(2,)]
        assert due(node) is None
    linked.write(one, "INSERT INTO t VALUES(3, 'c')")
    linked.run(BETWEEN_MS + REST)
    assert [alone(node) for node in linked.nodes] == [[(3,)], [(3,)]]


def test_a_file_at_rest_is_not_checkpointed(linked):
    one = linked.nodes[0]
    linked.write(one, DDL)
    linked.run(BETWEEN_MS + REST)
    tries = counted(one)
    linked.run(10 * BETWEEN_MS)
    assert not tries
    assert due(one) is None


def test_writes_now_and_then_cost_one_checkpoint_a_minute(linked):
    one = linked.nodes[0]
    linked.write(one, DDL)
    linked.run(REST)
    tries = counted(one)
    for number in range(60):  # a write each ten seconds
        linked.write(one, "INSERT INTO t VALUES(?, 'v')", number)
        linked.run(10_000)
    assert 5 <= len(tries) <= 11


def test_writes_without_a_pause_wait_for_rest(linked):
    one = linked.nodes[0]
    linked.write(one, DDL)
    linked.run(BETWEEN_MS + REST)
    tries = counted(one)
    for number in range(100):
        linked.write(one, "INSERT INTO t VALUES(?, 'v')", number)
        linked.run(REST_MS - 1_000)
    assert not tries
    linked.run(REST)
    assert tries == [True]
    assert alone(one) == [(100,)]


@pytest.mark.parametrize("tenths", [8, 11])
def test_a_peak_of_the_log_is_given_back(linked, tenths):
    one = linked.nodes[0]
    linked.write(one, DDL)
    linked.run(REST)
    reader = apsw.Connection(str(one.peer.path))
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    kept = WAL_KEPT_BYTES_MAX * tenths // 10
    linked.write(one, f"INSERT INTO t VALUES(1, randomblob({kept}))")
    linked.run(BETWEEN_MS + REST)
    assert wal_bytes(one) > kept
    assert alone(one) == [(0,)]  # the reader needs the rest of the log
    reader.close()
    before = wal_bytes(one)
    linked.run(2 * BETWEEN_MS)
    assert alone(one) == [(1,)]
    assert wal_bytes(one) == (0 if before > WAL_KEPT_BYTES_MAX else before)
    assert (before > WAL_KEPT_BYTES_MAX) is (tenths > 10)
    assert due(one) is None


def test_a_reader_that_stays_is_tried_a_few_times(linked):
    one = linked.nodes[0]
    linked.write(one, DDL)
    linked.run(REST)
    reader = apsw.Connection(str(one.peer.path))
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    tries = counted(one)
    linked.write(one, "INSERT INTO t VALUES(1, 'v')")
    linked.run(BETWEEN_MS << TRIES_MAX + 1)
    assert tries == [False] * (TRIES_MAX + 1)
    assert due(one) is None
    reader.close()
    linked.write(one, "INSERT INTO t VALUES(2, 'v')")
    linked.run(REST)
    assert alone(one) == [(2,)]


def test_a_program_that_writes_is_not_made_to_wait(linked):
    one = linked.nodes[0]
    linked.write(one, DDL)
    linked.run(BETWEEN_MS + REST)
    linked.write(one, f"INSERT INTO t VALUES(1, randomblob({2 * WAL_KEPT_BYTES_MAX}))")
    linked.run(1_000)
    writer = apsw.Connection(str(one.peer.path))
    writer.execute("BEGIN IMMEDIATE")
    store = one.peer.replica.store
    assert store.wal.empty() is False
    writer.execute("INSERT INTO t VALUES(2, 'v')")
    writer.execute("COMMIT")
    writer.close()
    assert store.wal.empty() is True
    assert wal_bytes(one) == 0
    linked.write(one, "INSERT INTO t VALUES(3, 'v')")
    assert store.db.execute("SELECT count(*) FROM t").fetchall() == [(3,)]
