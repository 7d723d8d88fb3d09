"""Catch-up over links that are slow, break, or carry large rows: resumed, told, bounded."""

from __future__ import annotations

import pytest

from mycomesh.sync.exchange.flow_control import WINDOW_BYTES
from mycomesh.sync.exchange.repair_session import read_bundles
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle
from tests.sync import exchanges
from tests.sync.exchanges import DELAY_MS, World
from tests.sync.peers import assert_equal

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE other(id INTEGER PRIMARY KEY, v)"
FILL = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?)
    INSERT INTO t SELECT i, randomblob(?) FROM n"""


@pytest.fixture
def world_of(tmp_path):
    worlds = []

    def make(count):
        worlds.append(World.made(tmp_path, count))
        worlds[-1].write(worlds[-1].nodes[0], DDL)
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def messages(node, kind, since=0):
    found = [(wire.decode(payload), len(payload)) for at, _, payload in node.sent if at >= since]
    return [(message, size) for message, size in found if isinstance(message, kind)]


def rows_sent(node):
    return sum(
        section.rows for chunk, _ in messages(node, wire.Chunk) for section in Bundle.decode(chunk.bundle).sections
    )


@pytest.mark.slow
def test_a_stream_goes_on_where_the_link_broke_off(world_of):
    world = world_of(2)
    one, late = world.nodes
    world.write(one, FILL, 20_000, 400)
    world.run(1_000)
    breaks = 0
    while late.sql("SELECT count(*) FROM sqlite_schema WHERE name = 't'") == [(0,)] or (
        late.sql("SELECT count(*) FROM t") < [(20_000,)]
    ):
        link = world.link(one, late)
        world.run(9 * DELAY_MS)
        world.cut(link)
        breaks += 1
        assert breaks < 20
    assert breaks >= 2
    world.link(one, late)
    world.run(3_000)
    assert_equal(one.peer, late.peer)
    under_way = WINDOW_BYTES // 400 + 1_024  # what a broken link takes with it
    assert rows_sent(one) <= 20_000 + 2 + breaks * under_way
    assert rows_sent(one) < 1.9 * 20_000


def test_another_peer_resumes_a_broken_stream(world_of):
    """Only of the same sender's past is it known that what was looked at needs no second look (ADR 3)."""
    world = world_of(3)
    one, two, late = world.nodes
    world.write(one, FILL, 3_000, 400)
    world.link(one, two)
    world.run(2_000)
    link = world.link(one, late)
    world.run(3 * DELAY_MS)
    world.cut(link)
    world.write(two, "UPDATE t SET v = 'later' WHERE id <= 10")
    world.link(two, late)
    world.run(3_000)
    assert_equal(two.peer, late.peer)
    assert rows_sent(two) >= 3_000


def test_people_hear_how_far_a_long_catch_up_is(world_of, monkeypatch):
    monkeypatch.setattr(exchanges, "DELAY_MS", 1_000)
    world = world_of(2)
    one, late = world.nodes
    world.write(one, FILL, 800, 4_000)
    world.link(one, late)
    world.run(13_500)
    (status,) = late.exchange.links(world.now)
    assert status.fetching
    assert 0 < status.progress.rows < status.progress.expected == 802
    assert 1_000 < status.progress.received_bytes < 802 * 4_100
    assert 0 < status.progress.left_ms < 60_000
    world.run(30_000)
    told = [notice for notice in late.notices if notice.event == "round.progress"]
    assert len(told) >= 2
    assert "of about 802 rows" in told[0].text
    assert [notice.detail["rows"] for notice in told] == sorted(notice.detail["rows"] for notice in told)
    (status,) = late.exchange.links(world.now)
    assert (status.fetching, status.progress, status.equal) == (False, None, True)


def test_two_tables_come_from_two_peers_without_repeats(world_of):
    world = world_of(3)
    one, two, late = world.nodes
    world.link(one, two)
    world.write(one, FILL, 500, 100)
    world.run(2_000)
    world.publishing = False
    world.write(two, "INSERT INTO other SELECT id, v FROM t")
    world.link(late, one)
    world.link(late, two)
    world.publishing = True
    world.run(5_000)
    assert_equal(one.peer, late.peer)
    assert_equal(two.peer, late.peer)
    assert sum(status.rows_received for status in late.exchange.links()) == 1_000 + 2  # the rows and two definitions


def test_large_rows_are_mended_in_messages_of_bounded_size(world_of):
    world = world_of(2)
    one, two = world.nodes
    world.write(one, FILL, 60, 100_000)
    link = world.link(one, two)
    world.run(3_000)
    world.cut(link)
    table = two.peer.replica.tables["t"]
    with table.store.transaction():
        for row in range(1, 61):
            for stored in table.log.entries_of_row(row):
                table.log.remove(stored)
            table.log.flush()
            table.rows.delete(row)
    start = world.now
    world.link(one, two)
    world.run(40_000)
    assert_equal(one.peer, two.peer)
    sizes = [size for _, size in messages(one, wire.RepairRows, start)]
    assert sum(sizes) >= 6_000_000
    assert max(sizes) < FEED_BYTES_MAX + 110_000


def test_a_lost_tombstone_returns_and_deletes_its_row_again(world_of):
    """The row came back with a damaged file: its birth is covered everywhere, and superseded elsewhere."""
    world = world_of(2)
    one, two = world.nodes
    world.write(one, "INSERT INTO t VALUES(1, 'dead'), (2, 'alive')")
    link = world.link(one, two)
    world.run(3_000)
    table = two.peer.replica.tables["t"]
    (birth,), _ = read_bundles(two.peer.replica, "t", [1], bytes_max=1_000)
    world.write(one, "DELETE FROM t WHERE id = 1")
    world.run(3_000)
    world.cut(link)
    with table.store.transaction():
        for stored in table.log.entries_of_row(1):
            table.log.remove(stored)
        table.log.flush()
    two.peer.replica.apply(birth, two.peer.wall_ms, repair=True)
    assert two.sql("SELECT id FROM t") == [(1,), (2,)]
    world.link(one, two)
    world.run(40_000)
    assert_equal(one.peer, two.peer)
    assert two.sql("SELECT id FROM t") == [(2,)]


def test_repaired_rows_that_nobody_covered_count_as_news(world_of):
    """The peer holds it of a round that has not ended: the write that loses to it is kept as a conflict."""
    world = world_of(2)
    one, two = world.nodes
    link = world.link(one, two)
    world.run(3_000)
    world.cut(link)
    world.write(two, "INSERT INTO t VALUES(1, 'mine')")
    world.run(1_000)
    world.write(one, "INSERT INTO t VALUES(1, 'theirs'), (2, 'new')")
    world.run(1_000)
    (bundle,), _ = read_bundles(one.peer.replica, "t", [1, 2], bytes_max=1_000)
    merged = two.peer.replica.apply(bundle, two.peer.wall_ms, repair=True).merged
    assert merged.repaired == 0
    shown = dict(two.sql("SELECT id, v FROM t ORDER BY id"))
    assert shown[2] == "new"
    loser = {"mine": "theirs", "theirs": "mine"}[shown[1]]
    assert [lost for (lost,) in two.sql("SELECT lost FROM mycomesh_conflicts")] == [f'{{"v": "{loser}"}}']
    world.link(one, two)
    world.run(40_000)
    assert_equal(one.peer, two.peer)
