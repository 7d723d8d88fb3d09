"""Retention between nodes: what goes, what stays, and that nodes compare equal meanwhile."""

from __future__ import annotations

import pytest

from tests.sync.retained import DAY_MS, HOUR_MS, WALL_MS, confirm, fleet, horizon, pin, retain, rows


@pytest.fixture
def world(tmp_path):
    made = fleet(tmp_path, 3, "CREATE TABLE t(at INTEGER, what TEXT)")
    yield made
    made.close()


def later(world, ms):
    """Let much time pass without the events of it: the nodes' clocks go forward."""
    for node in world.nodes:
        node.peer.wall_ms += ms
        confirm(world, node)


def old(ms):
    return (WALL_MS - ms) // 1_000


def test_rows_by_column_go_everywhere_without_tombstones(world):
    a, b, c = world.nodes
    world.write(a, "INSERT INTO t VALUES(?, 'old'), (?, 'young')", old(9 * DAY_MS), old(DAY_MS))
    world.run(2_000)
    retain(world, b, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert [row[1] for row in rows(a)] == [row[1] for row in rows(b)] == [row[1] for row in rows(c)] == ["young"]
    for node in world.nodes:
        table = node.peer.replica.tables["t"]
        assert table.log.count == 1
        assert horizon(node).cut_ms == horizon(node).ms > 0
    assert world.equal()


def test_rows_without_column_count_from_their_insert(world):
    a, b, _ = world.nodes
    world.write(a, "INSERT INTO t VALUES(1, 'first')")
    world.run(1_000)
    retain(world, a, "t", 2 * HOUR_MS)
    later(world, HOUR_MS)
    world.write(b, "INSERT INTO t VALUES(2, 'second')")
    world.run(1_000)
    world.write(b, "UPDATE t SET what = 'changed' WHERE at = 1")
    later(world, HOUR_MS + HOUR_MS // 8)
    world.run(5_000)
    assert all(rows(node) == [(2, "second")] for node in world.nodes)
    assert world.equal()


def test_late_row_is_refused_and_goes_at_its_writer(world):
    a, b, _ = world.nodes
    retain(world, b, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    world.write(a, "INSERT INTO t VALUES(?, 'imported')", old(30 * DAY_MS))
    world.run(3_000)
    assert all(rows(node) == [] for node in world.nodes)
    assert world.equal()
    assert horizon(b).figures.refused == 1
    assert horizon(a).figures.cut == 1


def test_node_that_returns_late_resurrects_nothing(world):
    a, b, c = world.nodes
    world.write(a, "INSERT INTO t VALUES(?, 'old')", old(DAY_MS))
    world.run(2_000)
    for link, (owner, _) in list(world.links.items()):
        if owner is c:
            world.cut(link)
    retain(world, b, "t", 7 * DAY_MS, "at")
    world.run(2_000)
    for node in (a, b):
        node.peer.wall_ms += 8 * DAY_MS
        confirm(world, node)
    world.write(c, "INSERT INTO t VALUES(?, 'offline')", old(HOUR_MS))
    world.run(5_000)
    assert rows(a) == rows(b) == []
    c.peer.wall_ms += 8 * DAY_MS
    sent = len(a.sent)
    world.link(a, c)
    world.link(b, c)
    world.run(500)
    confirm(world, c)
    world.run(10_000)
    assert rows(a) == rows(b) == rows(c) == []
    assert world.equal()
    assert sum(len(payload) for _, _, payload in a.sent[sent:]) < 6_000


def test_update_across_the_horizon_moves_the_row(world):
    a, b, c = world.nodes
    world.write(a, "INSERT INTO t VALUES(?, 'up'), (?, 'down')", old(6 * DAY_MS), old(DAY_MS))
    world.run(2_000)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(2_000)
    for link, (owner, _) in list(world.links.items()):
        if owner is c:
            world.cut(link)
    for node in (a, b):
        node.peer.wall_ms += 2 * DAY_MS
        confirm(world, node)
    world.run(3_000)
    assert [row[1] for row in rows(a)] == ["down"]
    world.write(c, "UPDATE t SET at = ? WHERE what = 'up'", old(0))
    world.write(c, "UPDATE t SET at = ? WHERE what = 'down'", old(30 * DAY_MS))
    c.peer.wall_ms += 2 * DAY_MS
    world.link(a, c)
    world.link(b, c)
    confirm(world, c)
    world.run(40_000)
    assert [row[1] for row in rows(a)] == ["down", "up"]
    assert rows(a) == rows(b) == rows(c)
    assert world.equal()
    later(world, 4 * DAY_MS)  # an update of the column counts from when it was written
    world.run(3_000)
    assert len(rows(a)) == 2
    later(world, 2 * DAY_MS)
    world.run(5_000)
    assert rows(a) == rows(b) == rows(c) == []
    assert world.equal()


def test_pin_keeps_less_without_asking_again(world):
    a, b, c = world.nodes
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.write(a, "INSERT INTO t VALUES(?, 'old'), (?, 'young')", old(2 * DAY_MS), old(HOUR_MS))
    world.run(3_000)
    pin(world, c, "t", DAY_MS)
    world.run(5_000)
    assert [row[1] for row in rows(c)] == ["young"]
    assert len(rows(a)) == len(rows(b)) == 2
    sent = len(c.sent)
    world.run(120_000)
    assert all(link.equal for link in c.exchange.links(world.now))
    assert all(link.equal for link in a.exchange.links(world.now))
    assert sum(len(payload) for _, _, payload in c.sent[sent:]) < 4_000
    later(world, 8 * DAY_MS)
    world.run(10_000)
    assert all(rows(node) == [] for node in world.nodes)
    pin(world, c, "t", 0)
    later(world, 7 * DAY_MS)  # the mesh's horizon passes what the pin has removed
    world.run(2_000)
    assert world.equal()


def test_values_that_are_no_time_stay(world):
    a, b, _ = world.nodes
    world.write(a, "INSERT INTO t VALUES('soon', 1), (NULL, 2), (?, 3), (x'00', 4)", old(30 * DAY_MS))
    retain(world, b, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert all(len(rows(node)) == 3 for node in world.nodes)
    assert horizon(a).figures.untimed == 3
    assert world.equal()
