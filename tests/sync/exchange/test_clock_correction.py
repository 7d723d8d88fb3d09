"""A clock that was wrong: its node stamps by the mesh's time, and stamps again what it wrote in the future."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.hlc import ms_from_hlc
from mycomesh.sync.events import CommitSeen, TimeKnown
from tests.sync.exchanges import World
from tests.sync.peers import assert_equal

HOUR_MS = 3_600_000
TABLES = {
    "rowid": "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)",
    "keyed": "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b) WITHOUT ROWID",
    "nullable": "CREATE TABLE t(id TEXT PRIMARY KEY, a, b)",
    "bag": "CREATE TABLE t(id, a, b)",
}
COUNT = "SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000"
ROWS = [("1", "x", 1), ("2", "y", 2), ("3", "z", 3)]


@pytest.fixture
def world(tmp_path):
    world = World.made(tmp_path, 3)
    yield world
    world.close()


def write(world, node, script, *values):
    """An application's commit at the time of its machine's clock, which the triggers of a test do not know."""
    node.sql(script, *values)
    for (log,) in node.sql(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'mycomesh!_pending!_%' ESCAPE '!'"
    ):
        node.sql(f"UPDATE {log} SET at = NULL")
    world.do(node, CommitSeen())


def tell(world, node, offset_ms=0, *, confirmed=True):
    """The mesh's word on a node's clock as it is."""
    world.do(node, TimeKnown(offset_ms, confirmed, node.peer.wall_ms))


def shown(node):
    return node.sql("SELECT CAST(id AS TEXT), a, b FROM t ORDER BY 1, 2, 3")


def ahead_ms(node, world):
    return ms_from_hlc(node.peer.replica.noted[1]) - node.peer.wall_ms - world.now


@pytest.mark.parametrize("shape", TABLES)
def test_future_writes_are_stamped_again_once_two_clocks_agree(world, shape):
    wrong, right, third = world.nodes
    write(world, right, f"{TABLES[shape]}; INSERT INTO t VALUES('1', 'x', 1), ('2', 'y', 2), ('3', 'z', 3)")
    links = [world.link(wrong, right), world.link(right, third)]
    world.run(5_000)
    assert shown(third) == ROWS
    site = wrong.peer.replica.site
    wrong.peer.wall_ms += HOUR_MS
    write(
        world, wrong, "INSERT INTO t VALUES('4', 'new', 4), ('5', 'going', 5); UPDATE t SET a = 'seen' WHERE id = '1'"
    )
    write(world, wrong, "UPDATE t SET b = 44 WHERE id = '4'; DELETE FROM t WHERE id IN ('2', '5')")
    world.run(20_000)
    assert shown(third) == ROWS, "refused by every peer"
    for link in links:
        world.cut(link)
    write(world, right, "UPDATE t SET a = 'other' WHERE id = '3'")
    wrong.reopen()
    wrong.peer.wall_ms -= HOUR_MS
    tell(world, wrong)
    world.run(5_000)
    assert wrong.peer.replica.site != site
    assert ahead_ms(wrong, world) <= 0
    (told,) = [notice.text for notice in wrong.notices if notice.event == "site.set_back"]
    assert "this node's clock was 3,5" in told
    world.link(wrong, right)
    world.link(right, third)
    world.run(40_000)
    ended = [("1", "seen", 1), ("3", "other", 3), ("4", "new", 44)]
    assert [shown(node) for node in world.nodes] == [ended] * 3
    write(world, right, "UPDATE t SET b = 0 WHERE id = '4'")
    world.run(5_000)
    write(world, wrong, "INSERT INTO t VALUES('6', 'live', 6)")
    world.run(5_000)
    assert shown(third) == [*ended[:2], ("4", "new", 0), ("6", "live", 6)]
    assert_equal(wrong.peer, third.peer)
    assert [node.peer.scrub().found for node in world.nodes] == [0, 0, 0]


def test_later_write_of_others_wins_over_one_from_future(world):
    wrong, right, _ = world.nodes
    write(world, right, f"{TABLES['rowid']}; INSERT INTO t VALUES(1, 'x', 1)")
    link = world.link(wrong, right)
    world.run(5_000)
    world.cut(link)
    wrong.peer.wall_ms += HOUR_MS
    write(world, wrong, "UPDATE t SET a = 'from the future'")
    wrong.peer.wall_ms -= HOUR_MS
    tell(world, wrong)
    world.run(10_000)
    write(world, right, "UPDATE t SET a = 'later'")
    world.link(wrong, right)
    world.run(20_000)
    assert shown(wrong) == shown(right) == [("1", "later", 1)]
    assert any("from the future" in str(row) for row in wrong.peer.recorded("mycomesh_conflicts"))


@pytest.mark.parametrize("told", [True, False])
def test_nothing_is_taken_back_where_nobody_knows_the_time(world, told):
    one, _, _ = world.nodes
    site = one.peer.replica.site
    one.peer.wall_ms += HOUR_MS
    write(world, one, f"{TABLES['bag']}; INSERT INTO t VALUES(1, 'x', 1)")
    one.peer.wall_ms -= HOUR_MS
    if told:
        tell(world, one, confirmed=False)
    world.run(200_000)
    assert one.peer.replica.site == site
    assert ahead_ms(one, world) > HOUR_MS // 2


def test_what_a_peer_has_taken_keeps_its_stamp(world):
    wrong, also, _ = world.nodes
    write(world, also, f"{TABLES['bag']}; INSERT INTO t VALUES('1', 'x', 1)")
    world.link(wrong, also)
    world.run(5_000)
    for node in (wrong, also):
        node.peer.wall_ms += HOUR_MS
    write(world, wrong, "INSERT INTO t VALUES('2', 'taken', 2)")
    world.run(5_000)
    assert shown(also) == [("1", "x", 1), ("2", "taken", 2)]
    for node in (wrong, also):
        node.peer.wall_ms -= HOUR_MS
    tell(world, wrong)
    tell(world, also)
    world.run(60_000)
    assert shown(also) == shown(wrong) == [("1", "x", 1), ("2", "taken", 2)]
    write(world, wrong, "INSERT INTO t VALUES('3', 'now', 3)")
    world.run(10_000)
    assert shown(also)[2:] == [("3", "now", 3)]
    assert_equal(wrong.peer, also.peer)


def test_a_corrected_clock_follows_the_mesh_in_both_directions(world):
    fast, slow, right = world.nodes
    write(world, right, f"{TABLES['rowid']}; INSERT INTO t VALUES(1, 'x', 1)")
    fast.peer.wall_ms += HOUR_MS
    slow.peer.wall_ms -= HOUR_MS
    tell(world, fast, -HOUR_MS)
    tell(world, slow, HOUR_MS)
    world.link(fast, right)
    world.link(slow, right)
    world.run(5_000)
    for node in (fast, slow):
        write(world, node, "INSERT INTO t(a, b) VALUES('of ' || ?, 0)", node.number)
        world.run(1_000)
    world.run(30_000)
    assert len(shown(right)) == 3
    assert world.equal()
    assert not [notice for node in world.nodes for notice in node.noticed() if notice.endswith("refused")]


def test_a_set_clock_ignores_earlier_offsets(world):
    node, other, _ = world.nodes
    node.peer.wall_ms -= HOUR_MS
    tell(world, node, HOUR_MS)
    node.peer.wall_ms += HOUR_MS  # somebody has set it
    write(world, node, f"{TABLES['rowid']}; INSERT INTO t VALUES(1, 'x', 1)")
    world.link(node, other)
    world.run(5_000)
    assert shown(other) == [("1", "x", 1)]


def test_a_large_backlog_is_restamped_in_chunks_across_restarts(world):
    wrong, right, _ = world.nodes
    wrong.peer.wall_ms += HOUR_MS
    write(world, wrong, TABLES["bag"])
    world.run(2_000)
    write(world, wrong, f"WITH RECURSIVE n(i) AS ({COUNT}) INSERT INTO t SELECT i, 'row', 0 FROM n")
    world.run(5_000)
    wrong.peer.wall_ms -= HOUR_MS
    steps = []
    wrong.peer.replica.store._on_lock = steps.append
    tell(world, wrong)
    while wrong.peer.replica._site.restamp is None:
        world.run(1)
    wrong.reopen()
    assert wrong.peer.replica._site.restamp is not None
    write(world, wrong, "INSERT INTO t VALUES('last', 'row', 1)")
    world.link(wrong, right)
    world.run(60_000)
    assert wrong.peer.replica._site.restamp is None
    assert ahead_ms(wrong, world) <= 0
    assert right.sql("SELECT count(*), sum(b) FROM t") == [(1_001, 1)]
    assert_equal(wrong.peer, right.peer)
    assert wrong.peer.scrub().found == 0


def test_accepted_writes_are_not_restamped_for_two_strangers(world):
    """Two machines of one image that are switched on at once agree on a wrong time."""
    laptop, home, _ = world.nodes
    write(world, laptop, f"{TABLES['bag']}; INSERT INTO t VALUES('1', 'x', 1), ('2', 'y', 2)")
    link = world.link(laptop, home)
    world.run(150_000)
    world.cut(link)
    laptop.reopen()
    tell(world, laptop, -700 * HOUR_MS)
    world.run(10_000)
    write(world, laptop, "INSERT INTO t VALUES('3', 'abroad', 3)")
    world.run(10_000)
    tell(world, laptop, 0)
    world.link(laptop, home)
    world.run(60_000)
    assert shown(home) == [("1", "x", 1), ("2", "y", 2), ("3", "abroad", 3)]
    assert_equal(laptop.peer, home.peer)


def test_repeated_clock_corrections_cost_ever_fewer_sites(world):
    node, _, _ = world.nodes
    write(world, node, TABLES["rowid"])
    for _ in range(60):
        node.peer.wall_ms += HOUR_MS
        write(world, node, "INSERT INTO t(a) VALUES('x')")
        node.peer.wall_ms -= HOUR_MS
        tell(world, node)
        world.run(60_000)
    assert 4 <= node.noticed().count("site.set_back") <= 6
    assert node.sql("SELECT count(*) FROM t") == [(60,)]


@pytest.mark.each_value
@pytest.mark.parametrize("junk", [b"", b"\xff", b"\x82\x01\x02", "[1]", "{}", '["a", 1]', 7, 1.5])
@pytest.mark.parametrize("fact", ["taken", "members", "scrub", "moving"])
def test_a_fact_that_somebody_else_wrote_is_ignored(world, fact, junk):
    one, two, _ = world.nodes
    write(world, one, f"{TABLES['rowid']}; INSERT INTO t VALUES('1', 'x', 1)")
    one.peer.replica.close()
    one.sql("INSERT OR REPLACE INTO mycomesh_meta(name, value) VALUES(?, ?)", fact, junk)
    one.reopen()
    world.link(one, two)
    world.run(5_000)
    write(world, one, "INSERT INTO t VALUES('2', 'y', 2), ('3', 'z', 3)")
    world.run(1_000)
    assert shown(two) == ROWS


def test_refused_writes_come_once_the_clock_is_known(world):
    unset, right, _ = world.nodes
    write(world, right, f"{TABLES['rowid']}; INSERT INTO t VALUES(1, 'x', 1)")
    behind_ms = right.peer.wall_ms
    unset.peer.wall_ms -= behind_ms
    world.link(unset, right)
    world.run(2_000)
    refusals = [notice.text for notice in unset.notices if notice.event == "round.refused"]
    assert all(text.endswith("this node's clock was never set: set it, or start its time service") for text in refusals)
    assert refusals
    tell(world, unset, behind_ms, confirmed=False)
    world.run(500)
    assert shown(unset) == [("1", "x", 1)]
    write(world, unset, "INSERT INTO t VALUES(2, 'y', 2); UPDATE t SET b = 11 WHERE id = 1")
    world.run(2_000)
    assert shown(right) == [("1", "x", 11), ("2", "y", 2)]
    assert abs(ahead_ms(unset, world) - behind_ms) < 60_000
