"""The background scrub compares so many rows at a time, and reports what it finds."""

from __future__ import annotations

from mycomesh.sync.capture import table_scan
from mycomesh.sync.events import ScrubRequested, TimerFired
from tests.sync.exchanges import World
from tests.sync.peers import Peer
from tests.sync.scans import FILL, SHAPES, bypassing


def test_the_background_scrub_finds_and_reports_differences(tmp_path):
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


def test_an_idle_node_compares_a_few_rows_at_once(tmp_path):
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


def test_scrub_waits_until_a_file_is_taken_in(tmp_path):
    one = Peer(tmp_path / "0.db", 0)
    one.sql(SHAPES["rowid"])
    one.sql(FILL.format(30_000))
    world = World([one])
    exchange = world.nodes[0].exchange
    assert table_scan.any_active(one.replica.store.db)
    exchange.handle(ScrubRequested(), world.now, one.wall_ms)
    stamped = one.replica.tables["t"].log.count
    for _ in range(3):
        world.now += 100
        exchange.handle(TimerFired(), world.now, one.wall_ms)
    assert (
        0 < one.replica.tables["t"].log.count - stamped < 10_000
    )  # one chunk an event, and not all in a step of the scrub
    world.run(5_000)
    assert "scrub.done" in world.nodes[0].noticed()
    world.close()
