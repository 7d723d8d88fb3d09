"""Retention of tables with properties of their own, and of what is beside a row that goes."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.events import CommitSeen
from mycomesh.sync.storage.horizon import RetainRule
from tests.sync.exchanges import World
from tests.sync.peers import Peer
from tests.sync.retained import DAY_MS, WALL_MS, confirm, connect, fleet, horizon, pin, retain
from tests.sync.signing import signing_peers

OLD, YOUNG = (WALL_MS - 9 * DAY_MS) // 1_000, (WALL_MS - DAY_MS) // 1_000


@pytest.fixture
def made(tmp_path):
    worlds = []

    def make(definition, count=2):
        worlds.append(fleet(tmp_path, count, definition))
        return worlds[-1], worlds[-1].nodes

    yield make
    for world in worlds:
        world.close()


def later(world, ms):
    for node in world.nodes:
        node.peer.wall_ms += ms
        confirm(world, node)
    world.run(5_000)


def labels(node, sql="SELECT what FROM t ORDER BY what"):
    return [label for (label,) in node.sql(sql)]


def fill(world, node, extra=""):
    world.write(
        node, f"INSERT INTO t(at, what{extra and ', extra'}) VALUES({OLD}, 'old'{extra}), ({YOUNG}, 'young'{extra})"
    )
    world.run(2_000)


def test_counters_go_with_their_rows(made):
    world, (a, b) = made("CREATE TABLE t(what TEXT PRIMARY KEY, at INTEGER, extra INTEGER)")
    a.peer.replica.decisions.declare_counter("t", "extra")
    world.do(a, CommitSeen())
    world.run(1_000)
    fill(world, a, ", 5")
    world.write(b, "UPDATE t SET extra = extra + 2")
    world.run(2_000)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert all(node.sql("SELECT what, extra FROM t") == [("young", 7)] for node in (a, b))
    assert world.equal()
    assert all(
        not node.sql(
            "SELECT 1 FROM mycomesh_held h JOIN mycomesh_replicated r ON r.id = h.id WHERE r.name = 't' AND"
            " hlc NOT IN (SELECT hlc FROM mycomesh_changes_2)"
        )
        for node in (a, b)
    )


def test_both_rows_of_one_id_go(made):
    world, (a, b) = made("CREATE TABLE t(id INTEGER PRIMARY KEY, at INTEGER, what TEXT)")
    a.peer.replica.decisions.decide_policy("t", "keep-both")
    world.do(a, CommitSeen())
    world.run(1_000)
    for link in list(world.links):
        world.cut(link)
    for node, name in ((a, "a"), (b, "b")):
        world.write(node, f"INSERT INTO t VALUES(1, {OLD}, 'old {name}'), (2, {YOUNG}, 'young {name}')")
    connect(world)
    world.run(3_000)
    assert len(labels(a)) == 4
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert labels(a) == labels(b) == ["young a", "young b"]
    assert world.equal()


def test_index_of_text_follows_a_cut(made):
    world, (a, b) = made(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, at INTEGER, what TEXT);"
        "CREATE VIRTUAL TABLE f USING fts5(what, content='t', content_rowid='id');"
        "CREATE TRIGGER ti AFTER INSERT ON t BEGIN INSERT INTO f(rowid, what) VALUES(new.id, new.what); END;"
        "CREATE TRIGGER td AFTER DELETE ON t BEGIN INSERT INTO f(f, rowid, what) VALUES('delete', old.id, old.what); END;"
    )
    fill(world, a)
    retain(world, b, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    for node in (a, b):
        assert labels(node) == ["young"]
        node.sql("INSERT INTO f(f) VALUES('integrity-check')")
        assert node.sql("SELECT count(*) FROM f WHERE f MATCH 'old'") == [(0,)]


def test_triggers_of_the_application_do_not_run(made):
    world, (a, b) = made("CREATE TABLE t(at INTEGER, what TEXT); CREATE TABLE gone(what TEXT)")
    for node in (a, b):
        node.sql("CREATE TRIGGER note AFTER DELETE ON t BEGIN INSERT INTO gone VALUES(old.what); END")
    fill(world, a)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert labels(a) == labels(b) == ["young"]
    assert a.sql("SELECT * FROM gone") == b.sql("SELECT * FROM gone") == []


def test_children_of_a_cut_parent_stay(made):
    world, (a, b) = made(
        "CREATE TABLE t(what TEXT PRIMARY KEY, at INTEGER); CREATE TABLE child(id TEXT PRIMARY KEY, parent REFERENCES t(what))"
    )
    fill(world, a)
    world.write(a, "INSERT INTO child VALUES('c', 'old')")
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert labels(a) == labels(b) == ["young"]
    assert a.sql("SELECT * FROM child") == b.sql("SELECT * FROM child") == [("c", "old")]
    assert world.equal()


def test_parked_row_goes_and_frees_its_claim(made):
    world, (a, b) = made("CREATE TABLE t(what TEXT PRIMARY KEY, at INTEGER, extra TEXT UNIQUE)")
    for link in list(world.links):
        world.cut(link)
    world.write(a, f"INSERT INTO t VALUES('first', {YOUNG}, 'x')")
    b.peer.wall_ms += 1_000
    world.write(b, f"INSERT INTO t VALUES('second', {OLD}, 'x')")
    connect(world)
    world.run(3_000)
    assert [node.sql("SELECT count(*) FROM mycomesh_parked") for node in (a, b)] == [[(1,)], [(1,)]]
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert [node.sql("SELECT count(*) FROM mycomesh_parked") for node in (a, b)] == [[(0,)], [(0,)]]
    assert labels(a) == labels(b) == ["first"]
    assert world.equal()


def test_cut_is_no_delete_for_a_reader(made):
    world, (a, b) = made("CREATE TABLE t(at INTEGER, what TEXT)")
    feed = b.peer.replica.feed
    feed.create("copy", "t", WALL_MS)
    fill(world, a)
    page, _ = feed.read("t", feed.position("copy", "t"), WALL_MS)
    assert sorted(change.values["what"] for change in page.changes) == ["old", "young"]
    feed.move("copy", "t", page.position, WALL_MS)
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert labels(b) == ["young"]
    page, _ = feed.read("t", feed.position("copy", "t"), WALL_MS)
    assert page.changes == []


def test_rows_from_before_the_mesh_count_from_their_adoption(tmp_path):
    first, second = Peer(tmp_path / "0.db", 0), Peer(tmp_path / "1.db", 1)
    first.close()
    first.path.unlink()

    app = apsw.Connection(str(first.path))
    app.execute("CREATE TABLE t(at INTEGER, what TEXT); INSERT INTO t VALUES(1, 'adopted')")
    app.close()
    first.open()
    world = World([first, second])
    try:
        connect(world)
        for node in world.nodes:
            confirm(world, node)
        world.run(3_000)
        retain(world, world.nodes[1], "t", 7 * DAY_MS)
        later(world, 6 * DAY_MS)
        assert [labels(node) for node in world.nodes] == [["adopted"]] * 2
        later(world, 2 * DAY_MS)
        assert [labels(node) for node in world.nodes] == [[], []]
        assert world.equal()
    finally:
        world.close()


def test_restored_backup_brings_nothing_back(made, tmp_path):
    world, (a, b) = made("CREATE TABLE t(at INTEGER, what TEXT)")
    fill(world, a)
    a.peer.replica.store.wal.checkpoint()
    backup = tmp_path / "backup.db"
    a.sql(f"VACUUM INTO '{backup}'")
    retain(world, b, "t", 7 * DAY_MS, "at")
    world.run(5_000)
    assert labels(a) == ["young"]
    for link in list(world.links):
        world.cut(link)
    a.peer.close()
    a.peer.path.write_bytes(backup.read_bytes())
    for suffix in ("-wal", "-shm"):
        a.peer.path.with_name(a.peer.path.name + suffix).unlink(missing_ok=True)
    a.peer.open()
    a.begin()
    assert labels(a) == ["old", "young"]
    connect(world)
    confirm(world, a)
    world.run(30_000)
    assert labels(a) == labels(b) == ["young"]
    assert world.equal()
    assert a.sql("SELECT count(*) FROM mycomesh_conflicts") == [(0,)]


def test_rule_that_others_missed_keeps_its_horizon(made):
    world, (a, _, c) = made("CREATE TABLE t(at INTEGER, what TEXT)", 3)
    for link, (owner, _) in list(world.links.items()):
        if owner is c:
            world.cut(link)
    retain(world, a, "t", 2 * DAY_MS, "at")
    world.run(3_000)
    before = horizon(a).ms
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(3_000)
    connect(world)
    confirm(world, c)
    world.run(10_000)
    assert {horizon(node).ms for node in world.nodes} == {before}
    assert world.equal()


def test_rows_stay_after_the_rule_ends(made):
    world, (a, b) = made("CREATE TABLE t(at INTEGER, what TEXT)")
    retain(world, a, "t", 7 * DAY_MS, "at")
    fill(world, a)
    world.run(3_000)
    retain(world, b, "t", 0)
    world.run(3_000)
    assert horizon(a) is None
    fill(world, b)
    world.run(3_000)
    assert labels(a) == labels(b) == ["old", "young", "young"]
    assert world.equal()


def test_pin_keeps_what_nobody_else_has(made):
    world, (a, b) = made("CREATE TABLE t(at INTEGER, what TEXT)")
    retain(world, a, "t", 7 * DAY_MS, "at")
    world.run(2_000)
    pin(world, b, "t", DAY_MS // 2)
    for link in list(world.links):
        world.cut(link)
    world.write(b, f"INSERT INTO t VALUES({YOUNG}, 'mine')")
    world.run(5_000)
    assert labels(b) == ["mine"]
    connect(world)
    world.run(60_000)
    assert labels(a) == ["mine"]


def test_pinned_node_does_not_spread_its_gaps(made, tmp_path):
    world, (a, b) = made("CREATE TABLE t(at INTEGER, what TEXT)")
    retain(world, a, "t", 7 * DAY_MS, "at")
    fill(world, a)
    world.run(3_000)
    pin(world, b, "t", DAY_MS // 2)
    world.run(3_000)
    assert labels(b) == []
    newcomer = Peer(tmp_path / "9.db", 9)
    joined = World([newcomer])
    node = joined.nodes[0]
    world.nodes.append(node)
    node.peer.wall_ms = WALL_MS
    joined.nodes = world.nodes
    world.do(node, CommitSeen())
    world.link(b, node)
    world.run(10_000)
    assert node.peer.replica.tables["t"].coverage.vector.items() != a.peer.replica.tables["t"].coverage.vector.items()
    world.link(a, node)
    confirm(world, node)
    world.run(30_000)
    assert labels(node) == ["young"]


def test_files_without_incremental_vacuum_keep_their_size(tmp_path):
    for mode, shrinks in (("NONE", False), ("INCREMENTAL", True)):
        peer = Peer(tmp_path / f"{mode}.db", 1)
        peer.close()
        peer.path.unlink()

        app = apsw.Connection(str(peer.path))
        app.execute(f"PRAGMA auto_vacuum = {mode}; CREATE TABLE t(at INTEGER, what TEXT)")
        app.close()
        peer.open()
        peer.sql(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
            f" INSERT INTO t SELECT {OLD}, 'row ' || hex(zeroblob(100)) || i FROM n"
        )
        peer.drain()
        replica = peer.replica
        replica.retention.decide(replica.tables["t"], RetainRule(7 * DAY_MS, "at"), WALL_MS)
        peer.drain()
        replica.store.wal.empty()
        before = peer.path.stat().st_size
        while replica.retention.next_due(WALL_MS) <= WALL_MS:
            replica.retention.step(WALL_MS)
        replica.store.wal.empty()
        assert peer.sql("SELECT count(*) FROM t") == [(0,)]
        assert (peer.path.stat().st_size < before // 2) == shrinks
        peer.close()


def test_signatures_go_with_signed_rows(tmp_path):
    world = World(signing_peers(tmp_path, 2))
    try:
        a, b = world.nodes
        world.write(a, "CREATE TABLE t(at INTEGER, what TEXT)")
        connect(world)
        for node in world.nodes:
            confirm(world, node)
        world.run(2_000)
        a.peer.replica.decisions.decide_policy("t", "signed")
        world.do(a, CommitSeen())
        world.run(2_000)
        fill(world, a)
        world.write(b, f"INSERT INTO t VALUES({OLD}, 'other')")
        world.run(3_000)
        retain(world, a, "t", 7 * DAY_MS, "at")
        world.run(20_000)
        assert labels(a) == labels(b) == ["young"]
        assert world.equal()
        assert all("rows.unsigned" not in node.noticed() for node in world.nodes)
        later(world, 8 * DAY_MS)
        assert labels(a) == labels(b) == []
        seals = [
            name
            for (name,) in a.sql("SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_seals*' AND type = 'table'")
        ]
        assert [node.sql(f"SELECT count(*) FROM {name}") for node in world.nodes for name in seals] == [
            [(0,)]
        ] * 2 * len(seals)
        assert seals
    finally:
        world.close()
