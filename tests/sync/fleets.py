"""A world of nodes in which days pass quickly and each node knows the members and when it last heard from them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mycomesh.sync.events import MembersKnown
from mycomesh.sync.exchange.config import ExchangeConfig
from tests.sync.exchanges import World
from tests.sync.peers import assert_equal

DAY = 86_400_000
MINUTE = 60_000
HOUR = 60 * MINUTE
# Days pass without an event each second: what is tested is the order of things.
SLOW = ExchangeConfig(safety_ms=DAY, scrub_ms=DAY, compare_ms=HOUR, beat_ms=HOUR, collect_ms=3 * HOUR)
DDL = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); CREATE TABLE bag(v, w); CREATE TABLE words(k TEXT PRIMARY KEY, v, w)"
)


class Fleet:
    """A world that reports the members to each node, and when it last heard from them, as the mesh does."""

    def __init__(self, folder, count, config=SLOW):
        self.world = World.made(folder, count, config)
        self.nodes = self.world.nodes
        self.heard = {(one.number, two.number): 0 for one in self.nodes for two in self.nodes if one is not two}
        self.links = {}
        self.world.write(self.nodes[0], DDL)

    def link(self, one, two):
        pair = tuple(sorted((one, two)))
        if pair not in self.links:
            self.links[pair] = self.world.link(self.nodes[pair[0]], self.nodes[pair[1]])

    def cut(self, one, two):
        link = self.links.pop(tuple(sorted((one, two))), None)
        if link is not None:
            self.world.cut(link)

    def isolate(self, number):
        for pair in [pair for pair in self.links if number in pair]:
            self.cut(*pair)

    def link_all(self):
        for one in range(len(self.nodes)):
            for two in range(one):
                self.link(one, two)

    def run(self, ms, step=HOUR):
        end = self.world.now + ms
        while self.world.now < end:
            self.tell()
            self.world.run(min(step, end - self.world.now))

    def tell(self):
        now = self.world.now
        for node in self.nodes:
            for other in self.reached(node.number):
                self.heard[node.number, other] = now
        for node in self.nodes:
            members = tuple(
                (other.peer.node_id, now - self.heard[node.number, other.number])
                for other in self.nodes
                if other is not node
            )
            self.world.do(node, MembersKnown(members))

    def reached(self, number):
        """Return the nodes that a path of links leads to: the mesh relays records."""
        found, front = [number], [number]
        while front:
            here = front.pop()
            for pair in self.links:
                if here in pair:
                    there = sum(pair) - here
                    if there not in found:
                        found.append(there)
                        front.append(there)
        return found[1:]

    def accept_drops(self, ms=5 * MINUTE):
        """A person at each node believes what the members report as deleted; others may learn of it only then."""
        for _ in self.nodes:
            guards = [node.peer.replica.drop_guard for node in self.nodes]
            waiting = [(guard, name) for guard in guards for name in guard.waiting()]
            if not waiting:
                return
            for guard, name in waiting:
                guard.accept(name)
            self.run(ms, step=min(ms, HOUR))

    def sql(self, number, script, *values):
        return self.nodes[number].sql(script, *values)

    def write(self, number, script, *values):
        self.world.write(self.nodes[number], script, *values)

    def tombstones(self, number, table="t"):
        log = self.nodes[number].peer.replica.tables[table].log.name
        return self.sql(number, f"SELECT count(*) FROM {log} WHERE mask = 0")[0][0]

    def assert_equal(self):
        for one, two in pairwise(self.nodes):
            assert_equal(one.peer, two.peer)

    def close(self):
        self.world.close()


@pytest.fixture
def fleet_of(tmp_path):
    fleets = []

    def make(count, config=SLOW):
        folder = tmp_path / str(len(fleets))
        folder.mkdir()
        fleets.append(Fleet(folder, count, config))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


def filled(fleet, rows=20):
    fleet.link_all()
    fleet.run(MINUTE)
    for number in range(rows):
        fleet.write(0, "INSERT INTO t VALUES(?, 'v', 'w')", number)
    fleet.run(MINUTE)
    fleet.assert_equal()
