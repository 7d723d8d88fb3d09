"""On how many nodes a write is: what peers say they cover, whatever else is written meanwhile."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import CoverageRequested, MessageReceived, RightsKnown
from mycomesh.sync.exchange.acknowledgements import REPLY_MS_MAX, write_position
from mycomesh.sync.wire import messages as wire
from tests.sync.exchanges import World

SCHEMA = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"


@pytest.fixture
def world(tmp_path):
    world = World.made(tmp_path, 3)
    yield world
    world.close()


def holders(world, node, mark):
    """Return the nodes that say that they cover the write position, a round trip after the question."""
    world.do(node, CoverageRequested())
    world.run(50)
    return list(node.exchange.acknowledgements.peers_covering(node.peer.replica.site, mark))


def test_a_write_is_on_exactly_the_peers_covering_it(world):
    first, second, third = world.nodes
    world.link(first, second)
    link = world.link(first, third)
    world.write(first, SCHEMA)
    world.run(2_000)
    world.cut(link)
    world.write(first, "INSERT INTO t VALUES(1, 'a')")
    mark = write_position(first.peer.replica)
    assert holders(world, first, mark) == [second.peer.node_id]
    world.link(first, third)
    world.run(2_000)
    assert holders(world, first, mark) == sorted([second.peer.node_id, third.peer.node_id])


def test_writes_that_come_later_are_not_waited_for(world):
    first, second, _ = world.nodes
    world.link(first, second)
    world.write(first, SCHEMA)
    world.run(2_000)
    world.write(first, "INSERT INTO t VALUES(1, 'a')")
    mark = write_position(first.peer.replica)
    world.run(20)
    world.publishing = False  # what comes from here on stays where it is written
    for number in range(2, 30):
        world.write(first, f"INSERT INTO t VALUES({number}, 'later')")
        world.write(second, f"INSERT INTO t VALUES({-number}, 'theirs')")
    assert not world.equal()
    assert holders(world, first, mark) == [second.peer.node_id]
    assert holders(world, first, write_position(first.peer.replica)) == []


def test_a_peer_still_holds_data_after_its_link_ends(world):
    first, second, _ = world.nodes
    link = world.link(first, second)
    world.write(first, SCHEMA)
    world.run(2_000)
    mark = write_position(first.peer.replica)
    assert holders(world, first, mark) == [second.peer.node_id]
    world.cut(link)
    assert holders(world, first, mark) == [second.peer.node_id]
    assert first.exchange.acknowledgements.peers_covering(b"another site 16b", mark) == ()


def test_a_peer_without_read_rights_is_not_counted(world):
    first, second, _ = world.nodes
    world.link(first, second)
    world.write(first, SCHEMA)
    world.run(2_000)
    mark = write_position(first.peer.replica)
    grants = ((first.peer.node_id, (("t", "-"),)),)
    world.do(second, RightsKnown(second.peer.node_id, grants))
    assert holders(world, first, mark) == []


def test_an_answer_that_nobody_asked_for_counts_for_nothing(world):
    first, second, _ = world.nodes
    world.link(second, first)
    link = next(number for number, (node, _) in world.links.items() if node is first)
    site = first.peer.replica.site
    world.do(first, MessageReceived(link, wire.encode(wire.CoverageReply(site, (("t", 1 << 60),)))))
    assert first.exchange.acknowledgements.peers_covering(site, {"t": 5}) == ()


def test_silent_peer_is_asked_again_but_not_at_once(world):
    first, second, _ = world.nodes
    world.link(first, second)
    world.run(100)
    first.sent.clear()
    world._carry = lambda _link, _payload: None
    for wait_ms in (0, REPLY_MS_MAX // 2, REPLY_MS_MAX):
        world.now += wait_ms
        world.do(first, CoverageRequested())
    assert sum(isinstance(wire.decode(data), wire.CoverageRequest) for _, _, data in first.sent) == 2
