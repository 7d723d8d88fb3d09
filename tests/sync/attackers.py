"""Worlds of nodes for tests of rounds, and a member that sends whatever it likes."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mycomesh.sync.crdt.hlc import hlc_from_ms
from mycomesh.sync.events import LinkOpened, MessageReceived
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.exchanges import DELAY_MS, World
from tests.sync.peers import WALL_MS, assert_equal

DDL = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE bag(v); CREATE TABLE words(k TEXT PRIMARY KEY, v)"
FILL = """
    WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n LIMIT ?)
    INSERT INTO t SELECT i, 'value ' || i FROM n"""


@pytest.fixture
def world_of(tmp_path):
    worlds = []

    def make(count, *, schema=True):
        folder = tmp_path / str(len(worlds))
        folder.mkdir()
        worlds.append(World.made(folder, count))
        if schema:
            worlds[-1].write(worlds[-1].nodes[0], DDL)
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


def chained(world, *, ms=3_000):
    links = [world.link(one, two) for one, two in pairwise(world.nodes)]
    world.run(ms)
    return links


def all_equal(world):
    for one, two in pairwise(world.nodes):
        assert_equal(one.peer, two.peer)


def sent(node, since=0):
    return [wire.decode(payload) for at, _, payload in node.sent if at >= since]


class Liar:
    """A peer that is no exchange: the test says what it sends, and sees what it is sent."""

    PEER = b"\xee" * 16

    def __init__(self, world, node, link=9_001):
        self.world, self.node, self.link = world, node, link
        self.acknowledged = 0
        world.do(node, LinkOpened(link, self.PEER))

    def say(self, *what, ms=0):
        for message in what:
            payload = message if isinstance(message, bytes) else wire.encode(message)
            self.world.do(self.node, MessageReceived(self.link, payload))
        self.world.run(ms)

    def answers(self):
        return [wire.decode(payload) for _, link, payload in self.node.sent if link == self.link]

    def acknowledge(self):
        """As an honest peer that has applied everything."""
        sent = [payload for _, link, payload in self.node.sent if link == self.link]
        rows = [len(payload) for payload in sent if isinstance(wire.decode(payload), (wire.Chunk, wire.RepairRows))]
        fresh, self.acknowledged = sum(rows) - self.acknowledged, sum(rows)
        self.say(*([wire.Ack(fresh)] if fresh else []), ms=1)

    def dropped(self):
        return [reason for link, reason in self.node.dropped if link == self.link]


# Digests that make a node ask this peer for its tables.
LURE = wire.Digests((("bag", bytes(8), bytes(16)), ("t", bytes(8), bytes(16))))


@pytest.fixture
def attacked(world_of):
    """One node with rows, one honest peer, and a liar."""
    world = world_of(2)
    world.write(world.nodes[0], FILL, 1, 3_000)
    world.write(world.nodes[0], "INSERT INTO bag VALUES('x'); INSERT INTO words VALUES('k', 'v')")
    chained(world)
    return world, world.nodes[0], Liar(world, world.nodes[0])


def unharmed(world, rows=3_000):
    """The honest two still agree, hold their rows, and go on replicating both ways."""
    for number, node in enumerate(world.nodes):
        world.write(node, "INSERT INTO t VALUES(?, 'after')", 7_000_000 + number)
        world.write(node, "UPDATE words SET v = ?", f"after {number}")
        world.run(10 * DELAY_MS)
    world.run(30_000)
    all_equal(world)
    for number, node in enumerate(world.nodes):
        world.write(node, "INSERT INTO t VALUES(?, 'later')", 8_000_000 + number)
        world.run(1_000)
    all_equal(world)
    assert len(world.nodes[1].sql("SELECT * FROM t")) == rows + 4
    assert world.nodes[0].sql("SELECT * FROM words") == [("k", "after 1")]


def batch_of(site, hlc, **changes):
    parts = {
        "table": "t",
        "columns": ("id", "v"),
        "rows": [[50_000, "forged"]],
        "keys": None,
        "kind": Kind.INSERT,
    } | changes
    group = Group(site, parts["kind"], parts["columns"], [hlc], parts["keys"], parts["rows"], None)
    return Bundle([Section(parts["table"], [(site, 0, hlc)], [group])])


PRESENT = hlc_from_ms(WALL_MS)
LIAR_SITE = Liar.PEER[:8] + b"anything"
