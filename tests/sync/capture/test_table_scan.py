"""Sweeps and scrubs: whole tables in short steps, whatever their shape, and nothing lost when one is interrupted."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync import replica
from mycomesh.sync.capture import table_scan
from mycomesh.sync.capture.drain import CHUNK_ROWS_MAX
from mycomesh.sync.events import ScrubRequested, TimerFired
from mycomesh.sync.storage import store
from tests.sync.exchanges import World
from tests.sync.peers import Peer, assert_equal, converge

SHAPES = {
    "rowid": "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)",
    "bag": "CREATE TABLE t(id, v, w)",
    "text": "CREATE TABLE t(id TEXT PRIMARY KEY, v, w)",
    "composite": "CREATE TABLE t(id, v, w, PRIMARY KEY(id, w)) WITHOUT ROWID",
    "without": "CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY, v, w) WITHOUT ROWID",
}
ROWS = 2 * CHUNK_ROWS_MAX + 100
FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {})"
    " INSERT INTO t(id, v, w) SELECT i, 'v' || i, i % 3 FROM n"
)


@pytest.fixture(params=list(SHAPES))
def shape(request):
    return SHAPES[request.param]


@pytest.fixture
def peers(tmp_path):
    opened = []

    def make(number=0):
        opened.append(Peer(tmp_path / f"{number}.db", number))
        return opened[-1]

    yield make
    for peer in opened:
        peer.close()


def before_the_mesh(path, *scripts):
    db = apsw.Connection(str(path))
    for script in scripts:
        db.execute(script)
    db.close()


def bypassing(peer, script):
    """Writes that no trigger sees."""
    peer.app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    peer.sql(script)
    peer.app.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)


def test_a_large_table_is_adopted_chunk_by_chunk_and_arrives_whole(peers, shape, tmp_path):
    before_the_mesh(tmp_path / "0.db", shape, FILL.format(ROWS))
    one, two = peers(0), peers(1)
    steps = 0
    more = True
    while more:
        before = one.replica.tables["t"].log.count
        bundles, more = one.replica.drain(one.wall_ms)
        assert one.replica.tables["t"].log.count - before <= CHUNK_ROWS_MAX
        assert one.replica.status().pending == ROWS - one.replica.tables["t"].log.count  # as a person is told
        two.take(bundles, one.node_id)
        steps += 1
    assert steps > 2
    assert_equal(one, two)
    assert len(two.sql("SELECT * FROM t")) == ROWS
    assert not one.replica.outbox.has_unstamped()


def test_what_is_written_while_a_table_is_adopted_is_stamped_once(peers, shape, tmp_path):
    before_the_mesh(tmp_path / "0.db", shape, FILL.format(ROWS))
    one, two = peers(0), peers(1)
    bundles, more = one.replica.drain(one.wall_ms)
    assert more
    one.sql("UPDATE t SET v = 'early' WHERE v = 'v1'; UPDATE t SET v = 'late' WHERE v = ?", f"v{ROWS}")
    one.sql("DELETE FROM t WHERE v = 'v7'; INSERT INTO t(id, v, w) VALUES('99999', 'between', 0)")
    two.take([*bundles, *one.drain()], one.node_id)
    assert_equal(one, two)
    assert len(two.sql("SELECT * FROM t")) == ROWS
    assert one.recorded("mycomesh_conflicts") == []


def test_an_adoption_goes_on_where_a_node_was_ended(peers, shape, tmp_path):
    before_the_mesh(tmp_path / "0.db", shape, FILL.format(ROWS))
    one, two = peers(0), peers(1)
    assert one.replica.drain(one.wall_ms)[1]
    held = one.replica.tables["t"].log.count
    one.close()
    one.open()
    assert one.replica.outbox.has_unstamped()
    one.drain()
    assert one.replica.tables["t"].log.count == ROWS > held
    converge([one, two])
    assert_equal(one, two)


def test_nothing_remote_is_merged_before_every_row_that_was_there_has_a_stamp(peers, tmp_path):
    before_the_mesh(tmp_path / "0.db", SHAPES["rowid"], FILL.format(ROWS))
    before_the_mesh(tmp_path / "1.db", SHAPES["rowid"], f"INSERT INTO t VALUES({ROWS}, 'theirs', 9)")
    one, two = peers(0), peers(1)
    theirs = two.drain()
    mine = one.take(theirs)
    assert one.replica.tables["t"].log.count == ROWS
    two.take(mine, one.node_id)
    converge([one, two])
    assert_equal(one, two)
    lost = "".join(record[4] for record in one.recorded("mycomesh_conflicts"))
    assert ("theirs" in lost) != (f"v{ROWS}" in lost)  # one of both, and on record


def test_a_drain_of_many_tables_is_one_chunk(peers):
    one = peers()
    for number in range(6):
        one.sql(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, v)")
    one.drain()
    for number in range(6):
        one.sql(f"INSERT INTO t{number}(v) {FILL.format(1_000).split('INSERT')[0]} SELECT i FROM n")
    taken = []
    more = True
    while more:
        before = sum(table.log.count for table in one.replica.tables.values())
        _, more = one.replica.drain(one.wall_ms)
        taken.append(sum(table.log.count for table in one.replica.tables.values()) - before)
    assert sum(taken) == 6_000
    assert max(taken) <= CHUNK_ROWS_MAX


def test_columns_that_come_while_much_waits_are_captured_all_the_same(peers):
    one, two = peers(0), peers(1)
    one.sql(SHAPES["rowid"])
    two.take(one.drain(), one.node_id)
    one.sql(FILL.format(ROWS))
    one.sql("ALTER TABLE t ADD COLUMN extra DEFAULT 7")
    one.sql("UPDATE t SET extra = 'set' WHERE id > ?", ROWS - 5)
    two.take(one.drain(), one.node_id)
    one.sql("UPDATE t SET extra = 'later' WHERE id = 1")
    two.take(one.drain(), one.node_id)
    assert_equal(one, two)
    assert two.sql("SELECT count(*) FROM t WHERE extra = 'set'") == [(5,)]


def test_a_scrub_finds_what_no_trigger_saw(peers, shape):
    one, two = peers(0), peers(1)
    one.sql(shape)
    one.sql(FILL.format(700))
    two.take(one.drain(), one.node_id)
    assert one.scrub().found == 0
    bypassing(one, "DELETE FROM t WHERE id IN ('3', 3)")
    bypassing(one, "UPDATE t SET v = 'edited' WHERE id IN ('5', 5); INSERT INTO t(id, v, w) VALUES('9999', 'more', 0)")
    found = one.scrub()
    assert (found.found, found.tables) == (3, ("t",))
    two.take(one.drain(), one.node_id)
    assert_equal(one, two)
    assert one.scrub().found == 0


def test_a_scrub_leaves_alone_what_is_parked_held_or_deleted(peers):
    one, two = peers(0), peers(1)
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE, n INTEGER DEFAULT 0)")
    converge([one, two])
    one.replica.decisions.declare_counter("t", "n")
    converge([one, two])
    one.sql("INSERT INTO t VALUES(1, 'same', 1), (3, 'gone', 1)")
    two.sql("INSERT INTO t VALUES(2, 'same', 1)")
    converge([one, two])
    one.sql("DELETE FROM t WHERE id = 3; UPDATE t SET n = n + 1")
    two.sql("UPDATE t SET n = n + 4")
    converge([one, two])
    assert [peer.scrub().found for peer in (one, two)] == [0, 0]
    assert_equal(one, two)


def test_a_scrub_goes_on_where_the_last_run_had_come_to(peers):
    one = peers()
    one.sql(SHAPES["rowid"])
    one.sql(FILL.format(300))
    one.drain()
    one.replica.scrub.step(one.wall_ms, 250)
    one.replica.scrub.save()
    one.close()
    one.open()
    bypassing(one, "UPDATE t SET v = 'before' WHERE id = 1; UPDATE t SET v = 'behind' WHERE id = 299")
    done = False
    found = 0
    while not done:
        scrubbed, _ = one.replica.scrub.step(one.wall_ms, 250)
        done, found = scrubbed.done, scrubbed.found
    assert found == 1  # the next pass finds the other


def test_the_background_scrub_finds_it_by_and_by_and_says_so(tmp_path):
    one = Peer(tmp_path / "0.db", 0)
    one.sql(SHAPES["rowid"])
    one.sql(FILL.format(600))
    world = World([one])
    world.run(5_000)
    bypassing(one, "UPDATE t SET v = 'edited' WHERE id = 555")
    world.run(120_000)
    assert "scrub.found" in world.nodes[0].noticed()
    assert one.scrub().found == 0
    world.close()


def test_a_scrub_takes_no_write_lock_where_nothing_is_wrong(tmp_path):
    one = Peer(tmp_path / "0.db", 0)
    one.sql(SHAPES["rowid"])
    one.sql(FILL.format(600))
    world = World([one])
    world.run(5_000)
    one.sql("BEGIN IMMEDIATE")  # an application that keeps the lock
    world.do(world.nodes[0], ScrubRequested())
    world.run(1_000)
    assert "scrub.done" in world.nodes[0].noticed()
    one.sql("ROLLBACK")
    world.close()


def test_an_idle_node_compares_so_many_rows_at_a_time(tmp_path):
    one = Peer(tmp_path / "0.db", 0)
    one.sql(SHAPES["rowid"])
    one.sql(FILL.format(3_000))
    world = World([one])
    world.run(5_000)
    exchange = world.nodes[0].exchange
    steps = 0
    for _ in range(20):
        before = one.replica.scrub._cursor.after or 0
        world.now += 10_000
        exchange.handle(TimerFired(), world.now, one.wall_ms)
        after = one.replica.scrub._cursor.after or 0
        assert after - before <= 256
        steps += after != before
    assert steps >= 3
    assert table_scan.any_active(one.replica.store.db) is False
    world.close()


def steps_under_the_lock(path):
    """How many steps of SQLite's virtual machine the opening of a file takes in its transaction."""
    steps, marks = [0], []

    def count():
        steps[0] += 1
        return False

    class Counted(store.Store):
        def __init__(self, path, **options):
            super().__init__(path, **options)
            self.db.set_progress_handler(count, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "Store", Counted)
        opened = replica.Replica.open(
            str(path),
            node_id=bytes(16),
            mesh_key=bytes(32),
            entropy=bytes,
            config=replica.ReplicaConfig(),
            hooks=replica.Hooks(on_lock=lambda held: marks.append(steps[0])),
        )
        opened.close()
    start, end = marks
    return end - start


def test_to_open_a_large_file_takes_as_long_under_the_lock_as_a_small_one(shape, tmp_path):
    for rows in (10, 10_000):
        before_the_mesh(tmp_path / f"{rows}.db", shape, FILL.format(rows))
    small, large = (steps_under_the_lock(tmp_path / f"{rows}.db") for rows in (10, 10_000))
    assert large < small + 1_000
