"""Retention after mistakes: a wrong clock, a rule that ended, a pin that ended, two pins; what comes back, and what is kept."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import CommitSeen, MembersKnown, TimeKnown
from tests.sync.retained import DAY_MS, HOUR_MS, WALL_MS, confirm, connect, fleet, horizon, pin, retain

YEAR_MS = 365 * DAY_MS
COMPARED_MS = 20_000  # a comparison and a repair


@pytest.fixture
def made(tmp_path):
    worlds = []

    def make(count=3):
        worlds.append(fleet(tmp_path, count, "CREATE TABLE t(at INTEGER, what TEXT)"))
        return worlds[-1], worlds[-1].nodes

    yield make
    for world in worlds:
        world.close()


def labels(node):
    return [label for (label,) in node.sql("SELECT what FROM t ORDER BY what")]


def insert(world, node, what, ago_ms):
    world.write(node, "INSERT INTO t VALUES(?, ?)", (WALL_MS - ago_ms) // 1_000, what)


def part(world, node):
    for link, (owner, _) in list(world.links.items()):
        if owner is node:
            world.cut(link)


def meet(world, node):
    for other in world.nodes:
        if other is not node:
            world.link(other, node)
    for each in world.nodes:
        confirm(world, each)


def test_two_wrong_clocks_get_their_rows_back(made):
    world, (a, b, c) = made()
    insert(world, a, "young", DAY_MS)
    world.run(2_000)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(2_000)
    part(world, c)
    for node in (a, b):
        node.peer.wall_ms += YEAR_MS
        confirm(world, node)
    world.run(5_000)
    assert labels(a) == labels(b) == [], "nobody contradicted them"
    for node in (a, b):
        node.peer.wall_ms -= YEAR_MS
    meet(world, c)
    insert(world, c, "later", HOUR_MS)
    insert(world, a, "own", HOUR_MS)
    world.run(200_000)
    assert labels(a) == labels(b) == labels(c) == ["later", "own", "young"]
    assert len({horizon(node).ms for node in world.nodes}) == 1
    assert horizon(a).ms < WALL_MS
    assert "retain.returned" in a.noticed()
    assert "retain.returned" not in c.noticed()


def test_sole_member_recovers_from_its_own_clock(made):
    world, (a,) = made(1)
    retain(world, a, "t", 7 * DAY_MS, "at")
    a.peer.wall_ms += YEAR_MS
    world.do(a, CommitSeen())
    world.run(5_000)
    assert horizon(a).ms > WALL_MS
    a.peer.wall_ms -= YEAR_MS
    world.run(COMPARED_MS)
    insert(world, a, "young", DAY_MS)
    world.run(5_000)
    assert labels(a) == ["young"]
    assert a.peer.replica.retention.clock_ms <= WALL_MS + world.now


def test_decision_does_not_trust_a_doubtful_clock(made):
    world, (a, b) = made(2)
    a.peer.wall_ms += YEAR_MS
    world.do(a, TimeKnown(0, confirmed=False, apart_ms=a.peer.wall_ms))
    retain(world, a, "t", 7 * DAY_MS, "at")
    insert(world, a, "young", DAY_MS)
    world.run(2_000)
    a.reopen()
    world.do(a, CommitSeen())
    world.do(a, MembersKnown(((b.peer.node_id, 0),)))
    world.run(60_000)
    assert labels(a) == ["young"]


def test_rule_that_begins_again_takes_no_horizon_from_before(made):
    world, (a, b, c) = made()
    retain(world, a, "t", 2 * DAY_MS, "at")
    world.run(3_000)
    part(world, c)
    retain(world, a, "t", 0)
    world.run(3_000)
    insert(world, a, "three days", 3 * DAY_MS)
    world.run(3_000)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    meet(world, c)  # it knows the first rule alone
    world.run(COMPARED_MS)
    assert labels(a) == labels(b) == labels(c) == ["three days"]
    assert world.equal()


@pytest.mark.parametrize("end", ["pin", "rule"])
def test_rows_come_back_after_a_pin_ends(made, end):
    world, (a, b, c) = made()
    insert(world, a, "three days", 3 * DAY_MS)
    insert(world, b, "young", DAY_MS)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(3_000)
    pin(world, b, "t", 2 * DAY_MS)
    world.run(5_000)
    assert labels(b) == ["young"]
    if end == "pin":
        pin(world, b, "t", 0)
    else:
        retain(world, a, "t", 0)
    world.run(3 * COMPARED_MS)
    assert labels(a) == labels(b) == labels(c) == ["three days", "young"]
    assert world.equal()
    assert all(link.equal for node in world.nodes for link in node.exchange.links(world.now))


def test_two_pins_do_not_remove_the_only_copies(made):
    world, (a, b) = made(2)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(2_000)
    pin(world, a, "t", 2 * DAY_MS)
    pin(world, b, "t", 2 * DAY_MS)
    insert(world, a, "kept", HOUR_MS)
    world.run(5_000)
    for node in world.nodes:
        node.peer.wall_ms += 3 * DAY_MS
        confirm(world, node)
    world.run(100_000)
    assert labels(a) == labels(b) == ["kept"]


def test_pin_leaves_rows_of_a_node_that_is_gone(made):
    world, (a, b, c) = made()
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(3_000)
    part(world, b)
    insert(world, a, "of a lost node", HOUR_MS)
    world.run(COMPARED_MS)
    assert labels(c) == ["of a lost node"]
    part(world, a)  # and nobody sees it again
    c.reopen()
    world.do(c, CommitSeen())
    pin(world, c, "t", DAY_MS)
    c.peer.wall_ms += 2 * DAY_MS
    confirm(world, c)
    world.run(COMPARED_MS)
    assert labels(c) == ["of a lost node"]
    b.peer.wall_ms += 2 * DAY_MS
    world.link(b, c)
    confirm(world, b)
    world.run(3 * COMPARED_MS)
    assert labels(b) == ["of a lost node"]
    assert labels(c) == []
    connect(world)
