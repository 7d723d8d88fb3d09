"""A scrub finds writes that no trigger saw, and nothing else; it continues where the last run ended."""

from __future__ import annotations

from mycomesh.sync.events import ScrubRequested
from tests.sync.exchanges import World
from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.scans import FILL, SHAPES, bypassing


def test_a_scrub_finds_what_no_trigger_saw(scanned, shape):
    one, two = scanned(0), scanned(1)
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


def test_scrub_leaves_alone_what_is_parked_held_or_deleted(scanned):
    one, two = scanned(0), scanned(1)
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


def test_scrub_goes_on_where_last_run_had_come_to(scanned):
    one = scanned()
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


def test_scrub_takes_no_write_lock_where_nothing_is_wrong(tmp_path):
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
