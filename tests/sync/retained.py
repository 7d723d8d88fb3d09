"""Exchanges whose tables go with time: clocks that the mesh has confirmed, and the rules of a table."""

from __future__ import annotations

from mycomesh.sync.events import CommitSeen, CompareRequested, MembersKnown, TimeKnown
from mycomesh.sync.storage.horizon import RetainRule
from tests.sync.exchanges import World
from tests.sync.peers import WALL_MS

DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def confirm(world, node, offset_ms=0):
    """Report the members to a node, and that another clock confirms its own."""
    others = tuple((other.peer.node_id, 0) for other in world.nodes if other is not node)
    world.do(node, MembersKnown(others))
    world.do(node, TimeKnown(offset_ms, confirmed=True, apart_ms=node.peer.wall_ms))


def fleet(folder, count, definition, *, config=None):
    """Linked nodes with one table, whose clocks are confirmed."""
    world = World.made(folder, count, config)
    world.write(world.nodes[0], definition)
    connect(world)
    for node in world.nodes:
        confirm(world, node)
    world.run(2_000)
    assert world.equal()
    return world


def connect(world):
    """Link every two nodes."""
    for at, one in enumerate(world.nodes):
        for two in world.nodes[at + 1 :]:
            world.link(one, two)


def retain(world, node, name, age_ms, by=""):
    """A person's decision at one node; age 0 ends it."""
    rule = RetainRule(age_ms, by) if age_ms else None
    replica = node.peer.replica
    replica.retention.decide(replica.tables[name], rule, node.peer.wall_ms + world.now)
    world.do(node, CommitSeen())


def pin(world, node, name, age_ms):
    """A decision about one file alone, and the comparison that follows it."""
    node.peer.replica.retention.pin(node.peer.replica.tables[name], age_ms)
    world.do(node, CommitSeen())
    world.do(node, CompareRequested())


def rows(node, name="t"):
    return node.sql(f"SELECT * FROM {name} ORDER BY 1, 2")


def horizon(node, name="t"):
    return node.peer.replica.tables[name].coverage.horizon


__all__ = ["DAY_MS", "HOUR_MS", "WALL_MS", "confirm", "connect", "fleet", "horizon", "pin", "retain", "rows"]
