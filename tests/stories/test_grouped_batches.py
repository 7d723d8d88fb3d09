"""Live batches that waited together: one transaction, one sync, and the same outcome as one after another."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import BatchesReceived, BatchReceived
from mycomesh.sync.merge.work_budget import CHUNK_ROWS_MAX
from mycomesh.sync.replica import Hooks
from tests.sync.exchanges import DELAY_MS, BusyFile, World

COUNT = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)"
TABLES = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE words(k TEXT PRIMARY KEY, v UNIQUE)"


@pytest.fixture
def world(tmp_path):
    """Three equal nodes that receive only those batches of each other that a test hands over."""
    made = World.made(tmp_path, 3)
    made.write(made.nodes[0], TABLES)
    links = [made.link(made.nodes[0], other) for other in made.nodes[1:]]
    made.run(5_000)
    assert made.equal()
    for link in links:
        made.cut(link)
    yield made
    made.close()


def written(node, *scripts):
    """Live batches of so many commits."""
    batches = []
    for script in scripts:
        node.sql(script)
        batches += [BatchReceived(9, node.peer.node_id, payload) for payload in node.peer.drain()]
    return batches


def lost(node):
    """Return the recorded conflicts without their time and their writer."""
    return node.sql("SELECT table_name, row_key, lost, reason FROM mycomesh_conflicts ORDER BY 1, 2, 3")


def test_batches_end_as_they_would_one_after_another(world):
    one, two, three = world.nodes
    batches = written(
        one,
        "INSERT INTO t VALUES(1, 'a'), (2, 'b')",
        "UPDATE t SET v = 'c' WHERE id = 1; INSERT INTO words VALUES('k', 'first')",
        "DELETE FROM t WHERE id = 2; INSERT OR REPLACE INTO words VALUES('l', 'first')",
        "ALTER TABLE t ADD COLUMN more; UPDATE t SET more = 7",
        "INSERT INTO t VALUES(3, 'd', 'e')",
    )
    for node in (two, three):
        node.sql("INSERT INTO t VALUES(2, 'of another'); INSERT INTO words VALUES('k', 'of another')")
        node.peer.drain()
    two.peer.replica.apply_all([(batch.payload, batch.origin) for batch in batches], two.peer.wall_ms)
    for batch in batches:
        three.peer.take([batch.payload], batch.origin)
    assert two.peer.tables() == three.peer.tables()
    assert two.sql("SELECT id, v, more FROM t ORDER BY id")[-1] == (3, "d", "e")
    assert lost(two) == lost(three) != []
    world.link(two, three)
    world.run(5_000)
    assert two.peer.digests() == three.peer.digests()


def test_grouped_batches_cost_one_sync_under_constant_writes(world):
    one, two, _ = world.nodes
    batches = written(one, *(f"INSERT INTO t VALUES({number}, 'far')" for number in range(20)))
    two.sql("INSERT INTO t VALUES(1000, 'near')")
    before = two.peer.replica.store.syncs
    world.do(two, BatchesReceived(tuple(batches)))
    assert two.peer.replica.store.syncs == before + 1
    assert two.sql("SELECT count(*) FROM t") == [(21,)]


def test_a_refused_batch_does_not_affect_the_others(world):
    one, two, _ = world.nodes
    batches = written(one, "INSERT INTO t VALUES(1, 'a')", "INSERT INTO t VALUES(2, 'b')")
    forged = BatchReceived(9, b"\xee" * 16, batches[0].payload)
    world.do(two, BatchesReceived((batches[0], forged, BatchReceived(9, b"\xee" * 16, b"junk"), batches[1])))
    assert two.noticed()[-2:] == ["batch.refused"] * 2
    assert two.sql("SELECT id FROM t") == [(1,), (2,)]
    world.link(one, two)
    world.run(2_000)
    assert one.peer.digests() == two.peer.digests()


def test_what_locked_file_could_not_take_comes_by_round(world):
    one, two, _ = world.nodes
    link = world.link(two, one)
    world.run(2_000)
    world.publishing = False
    batches = written(one, "INSERT INTO t VALUES(1, 'a')", "INSERT INTO t VALUES(2, 'b')")
    lock = BusyFile(two)
    world.do(two, BatchesReceived(tuple(BatchReceived(link, batch.origin, batch.payload) for batch in batches)))
    lock.release()
    assert two.sql("SELECT id FROM t") == []
    world.run(30_000 + DELAY_MS)
    assert two.sql("SELECT id FROM t") == [(1,), (2,)]


def test_a_gap_seen_in_a_group_is_fetched(world):
    one, two, _ = world.nodes
    link = world.link(two, one)
    world.run(2_000)
    world.publishing = False
    batches = written(one, *(f"INSERT INTO t VALUES({number}, 'x')" for number in range(4)))
    arrived = [batches[0], *batches[2:]]
    world.do(two, BatchesReceived(tuple(BatchReceived(link, batch.origin, batch.payload) for batch in arrived)))
    assert two.sql("SELECT id FROM t") == [(0,), (2,), (3,)]
    world.run(1_000)
    assert two.sql("SELECT id FROM t") == [(0,), (1,), (2,), (3,)]


def test_stamps_of_a_long_call_leave_before_its_end(world):
    """A batch that comes while a large transaction waits for its stamps, which is drained first, chunk by chunk."""
    one, two, three = world.nodes
    (batch,) = written(one, "INSERT INTO words VALUES('k', 'v')")
    spread = []
    two.peer.replica.outbox._hooks = Hooks(publish=spread.append)
    two.sql(f"{COUNT} INSERT INTO t SELECT i, 'v' FROM n", 5 * CHUNK_ROWS_MAX)
    (applied,) = two.peer.replica.apply_all([(batch.payload, batch.origin)], two.peer.wall_ms)
    assert len(spread) >= 4
    for batches in spread:
        three.peer.take(batches, two.peer.node_id)
    count = three.sql("SELECT count(*) FROM t")[0][0]
    assert 4 * CHUNK_ROWS_MAX <= count < 5 * CHUNK_ROWS_MAX + 1
    three.peer.take([*applied.published, batch.payload], None)
    assert three.peer.tables() == two.peer.tables()
