"""The background scrub compares so many rows at a time, and reports what it finds."""

from __future__ import annotations

from mycomesh.sync.capture import table_scan
from mycomesh.sync.events import TimerFired
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
