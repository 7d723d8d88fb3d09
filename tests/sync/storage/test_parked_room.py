"""How many rows of one origin are parked, what happens beyond, and that nothing is lost by it."""

from __future__ import annotations

import pytest

from mycomesh.sync.storage import parked_room
from mycomesh.sync.storage.parked_room import PARKED_BYTES_MAX, PARKED_ROWS_MAX
from tests.sync.exchanges import World

PERIOD_MS = 1_000
UNIQUE = "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, w); CREATE TABLE v(id INTEGER PRIMARY KEY, w)"
BATCH = 64  # so many rows are merged before the node looks again


@pytest.fixture
def world(tmp_path):
    made = World.made(tmp_path, 2)
    yield made
    made.close()


def collide(world, rows, text="x"):
    """Both nodes insert rows with the same UNIQUE values, apart; those of the second lose, and come in many batches."""
    one, other = world.nodes
    link = world.link(one, other)
    world.write(one, UNIQUE)
    world.run(PERIOD_MS)
    world.cut(link)
    world.write(one, f"INSERT INTO t VALUES {', '.join(f'({n}, {n}, 0)' for n in range(rows))}")
    world.run(PERIOD_MS)
    world.link(one, other)
    world.publishing = False
    world.cut(max(world.links))
    for start in range(0, rows, BATCH):
        values = ", ".join(f"({1_000 + n}, {n}, '{text}')" for n in range(start, min(start + BATCH, rows)))
        world.write(other, f"INSERT INTO t VALUES {values}")
    world.publishing = True


def parked(node):
    return node.sql("SELECT count(*) FROM mycomesh_parked")[0][0]


def note(node):
    return node.peer.replica.registry.notes.by_name().get("t", "")


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_rows_beyond_the_limit_come_once_some_fit(world, monkeypatch, over):
    assert PARKED_ROWS_MAX == 10_000
    monkeypatch.setattr(parked_room, "PARKED_ROWS_MAX", 128)
    one, other = world.nodes
    rows = 128 + 2 * over * BATCH if over > 0 else 128 + over
    collide(world, rows)
    link = world.link(one, other)
    world.run(60 * PERIOD_MS)
    assert parked(one) == rows if over <= 0 else 128 <= parked(one) < 128 + BATCH
    full = [notice for notice in one.notices if notice.event == "parked.full"]
    assert len(full) == (over > 0)
    assert note(one).startswith(f"inserts of {other.peer.node_id.hex()[:8]} are left out" if over > 0 else "")
    assert bool(note(one)) == (over > 0)
    # Other tables of the same node, and its updates and deletes, go on.
    world.write(other, "INSERT INTO v VALUES(1, 'in')")
    world.run(60 * PERIOD_MS)
    assert one.sql("SELECT w FROM v") == [("in",)]
    if over == 1:
        assert one.peer.digests()["t"] != other.peer.digests()["t"]
    world.write(one, "DELETE FROM t WHERE w = 0")
    world.run(600 * PERIOD_MS)
    for node in (one, other):
        assert node.sql("SELECT count(*) FROM t WHERE w = 'x'") == [(rows,)]
        assert parked(node) == 0
        assert note(node) == ""
    assert world.equal()
    assert not [reason for _, reason in (*one.dropped, *other.dropped)]
    world.cut(link)


def test_some_room_lets_some_more_in(world, monkeypatch):
    monkeypatch.setattr(parked_room, "PARKED_ROWS_MAX", 64)
    one, other = world.nodes
    collide(world, 200)
    world.link(one, other)
    world.run(60 * PERIOD_MS)
    assert 64 <= parked(one) < 64 + BATCH
    world.write(one, "DELETE FROM t WHERE id < 16")
    world.run(600 * PERIOD_MS)
    assert 64 <= parked(one) < 64 + BATCH + 16
    world.write(one, "DELETE FROM t WHERE id < 1000")
    world.run(900 * PERIOD_MS)
    assert parked(one) == parked(other) == 0
    assert world.equal()
    assert one.sql("SELECT count(*) FROM t") == [(200,)]


@pytest.mark.parametrize("over", [-1, 1])
def test_bytes_of_parked_rows_are_limited_too(world, monkeypatch, over):
    assert PARKED_BYTES_MAX == 64 << 20
    one, other = world.nodes
    collide(world, 192, "x" * 1_000)
    size = 192 * (1_000 + 1_000)  # as text and as held
    monkeypatch.setattr(parked_room, "PARKED_BYTES_MAX", size // 2 if over > 0 else 2 * size)
    world.link(one, other)
    world.run(60 * PERIOD_MS)
    assert (parked(one) < 192) is (over > 0)
    world.write(one, "DELETE FROM t WHERE w = 0")
    world.run(600 * PERIOD_MS)
    assert parked(one) == 0
    assert world.equal()
