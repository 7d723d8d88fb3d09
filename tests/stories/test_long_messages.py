"""Files with more tables and sites than one message lists: rounds bring everything, and an older peer keeps its link."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.version_vector import RANGES_MAX
from mycomesh.sync.events import CoverageRequested, Send
from mycomesh.sync.exchange import catch_up_stream, exchange
from mycomesh.sync.exchange.acknowledgements import write_position
from mycomesh.sync.wire import parts
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.exchanges import World
from tests.sync.peers import WALL_MS

HLC = WALL_MS << 16


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two nodes, no live batches, and room for three tables, three sites and eight ranges in a message."""
    for module in (parts, exchange):
        monkeypatch.setattr(module, "PART_TABLES_MAX", 3)
    monkeypatch.setattr(parts, "PART_SITES_MAX", 3)
    monkeypatch.setattr(parts, "PART_RANGES_MAX", 8)
    monkeypatch.setattr(catch_up_stream, "ROUND_RANGES_MAX", 12)
    world = World.made(tmp_path, 2)
    world.publishing = False
    yield world
    world.close()


def tables(node, count):
    node.sql("; ".join(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, x)" for number in range(count)))


def many_sites(node, count, *, first=0):
    """A live batch of another node's rows, each under a site of its own."""
    own = bytes([99]) * 8
    ranges, groups = [], []
    for number in range(first, first + count):
        site = own + number.to_bytes(8, "big")
        ranges.append((site, 0, HLC + number))
        groups.append(Group(site, Kind.INSERT, ("id", "x"), [HLC + number], None, [[1000 + number, "x"]], None))
    node.peer.take([Bundle([Section("t0", ranges, groups)]).encode()], origin=bytes([99]) * 16)


def settle(world):
    world.run(60_000)
    assert [node.dropped for node in world.nodes] == [[], []]


@pytest.mark.parametrize("count", [2, 3, 12])
def test_any_number_of_tables_heals(world, count):
    one, two = world.nodes
    tables(one, count)
    for number in range(count):
        one.sql(f"INSERT INTO t{number} VALUES(1, 'one')")
    world.link(one, two)
    settle(world)
    two.sql(f"INSERT INTO t{count - 1} VALUES(2, 'two')")
    settle(world)
    assert world.equal()
    assert len(one.peer.tables()) == count
    assert all(link.equal for link in one.exchange.links())


def test_any_number_of_sites_heals(world):
    one, two = world.nodes
    tables(one, 1)
    one.peer.drain()
    many_sites(one, 20)
    world.link(one, two)
    settle(world)
    many_sites(two, 5, first=20)
    one.sql("DELETE FROM t0 WHERE id = 1003")
    settle(world)
    assert world.equal()
    assert two.sql("SELECT count(*) FROM t0") == [(24,)]


def test_any_number_of_tables_is_acknowledged(world):
    one, two = world.nodes
    tables(one, 8)
    for number in range(8):
        one.sql(f"INSERT INTO t{number} VALUES(1, 'one')")
    world.link(one, two)
    settle(world)
    world.do(one, CoverageRequested())
    settle(world)
    position = write_position(one.peer.replica)
    assert len(position) == 9
    assert one.exchange.acknowledgements.peers_covering(one.peer.replica.site, position) == (two.peer.node_id,)


def test_a_peer_that_ignores_parts_still_heals_some_tables(world, monkeypatch):
    one, two = world.nodes
    tables(one, 6)
    for number in range(6):
        one.sql(f"INSERT INTO t{number} VALUES(1, 'one')")
    carry = world._carry
    optional = []

    def only_needed(link, payload):
        if payload in optional:
            optional.remove(payload)
        else:
            carry(link, payload)

    do = one.exchange.handle

    def handle(event, now_ms, wall_ms):
        actions = do(event, now_ms, wall_ms)
        optional.extend(action.payload for action in actions if isinstance(action, Send) and action.optional)
        return actions

    monkeypatch.setattr(one.exchange, "handle", handle)
    monkeypatch.setattr(world, "_carry", only_needed)
    world.link(one, two)
    settle(world)
    settle(world)
    assert len(two.peer.tables()) == 6  # the schema goes first
    assert two.sql("SELECT x FROM t0") == [("one",)]
    assert two.sql("SELECT x FROM t1") == [("one",)]


def test_gaps_beyond_the_limit_are_filled_by_rounds(world, monkeypatch):
    monkeypatch.undo()
    one, two = world.nodes
    tables(one, 1)
    one.peer.drain()
    batches = []
    for number in range(2 * RANGES_MAX + 9):
        one.sql(f"INSERT INTO t0 VALUES({number}, 'one')")
        batches += one.peer.drain()
    world.link(one, two)
    settle(world)
    (link,) = one.exchange.links()
    assert link.equal
    later = []
    for number in range(1000, 1000 + 2 * RANGES_MAX + 9):
        one.sql(f"INSERT INTO t0 VALUES({number}, 'one')")
        later += one.peer.drain()
    two.peer.take(later[1::2], origin=one.peer.node_id)  # every other batch is lost
    site = one.peer.replica.site
    assert len(two.peer.replica.vector("t0").ranges(site)) == RANGES_MAX
    settle(world)
    assert world.equal()
    assert two.peer.replica.vector("t0").ranges(site) == one.peer.replica.vector("t0").ranges(site)
