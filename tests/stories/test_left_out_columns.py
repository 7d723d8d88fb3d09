"""A program rebuilds a table without a column, as ORMs drop one: it goes on all nodes, and no write is lost (ADR 36)."""

from __future__ import annotations

import json
import time

import pytest

from mycomesh.sync.capture import table_scan
from tests.sync.peers import Peer, assert_equal, converge, shell
from tests.sync.templates import equal_peers

NOW_MS = int(time.time() * 1000)

# (name, columns with `gone`, those of the new table)
TABLES = (
    ("rowid", "id INTEGER PRIMARY KEY, gone, a, b", "id INTEGER PRIMARY KEY, a, b"),
    ("keyed", "id TEXT PRIMARY KEY NOT NULL, a, gone NOT NULL, b", "id TEXT PRIMARY KEY NOT NULL, a, b"),
    ("bag", "id, a, b, gone UNIQUE", "id, a, b"),
    ("no rowid", "id INT, gone, a, b, PRIMARY KEY(id)) WITHOUT ROWID", "id INT, a, b, PRIMARY KEY(id)) WITHOUT ROWID"),
    (
        "foreign key",
        "id INTEGER PRIMARY KEY, a, b, gone REFERENCES p(id)",
        "id INTEGER PRIMARY KEY, a VARCHAR(9), b",
    ),
)  # fmt: skip


@pytest.fixture(params=TABLES, ids=[name for name, _, _ in TABLES])
def case(request):
    return request.param[1:]


def table(columns, name="t"):
    return f"CREATE TABLE {name}({columns}{'' if columns.endswith('ROWID') else ')'}"


@pytest.fixture
def trio(tmp_path, case):
    """Three equal replicas with three rows."""
    made = equal_peers(
        tmp_path,
        3,
        f"CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES(1), (2), (3); {table(case[0])};"
        " INSERT INTO t(id, gone, a, b) VALUES(1, 1, 'a1', 1), (2, 2, 'a2', 2), (3, 3, 'a3', 3)",
        wall_ms=NOW_MS,
    )
    for peer in made:
        peer.wall_ms = int(
            time.time() * 1000
        )  # the template may be of the beginning of a long run; triggers record this
    yield made
    for peer in made:
        peer.close()


def rebuild(case, copied="id, a, b", more=""):
    return (
        f"BEGIN; {table(case[1], 'n')}; INSERT INTO n(id, a, b) SELECT {copied} FROM t; DROP TABLE t;"
        f" ALTER TABLE n RENAME TO t; {more} COMMIT;"
    )


def columns(peer):
    return [name for _, name, *_ in peer.sql("PRAGMA table_info(t)")]


def notes(*peers):
    return [status.note for peer in peers for status in peer.replica.status().tables if status.note]


def assert_gone(*peers):
    for peer in peers:
        assert_equal(peers[0], peer)
        assert "gone" not in columns(peer)
        assert not peer.scrub().found
    assert not notes(*peers)
    assert not [bundle for peer in peers for bundle in peer.drain()]


@pytest.mark.each_value
@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
def test_writes_around_a_rebuild_are_captured(trio, case, down):
    one, two, three = trio
    if down:
        one.close()
    one.shell(rebuild(case, "id, a || '!', b", "UPDATE t SET b = 22 WHERE id = 2;"))
    one.shell(
        "UPDATE t SET a = 'after' WHERE id = 1; DELETE FROM t WHERE id = 3; INSERT INTO t(id, a, b) VALUES(9, 'new', 9);"
    )
    if down:
        one.open()
    converge(trio)
    assert_gone(*trio)
    assert two.sql("SELECT id + 0, a, b FROM t ORDER BY id + 0") == [(1, "after", 1), (2, "a2!", 22), (9, "new", 9)]
    three.sql("UPDATE t SET a = 'later' WHERE id = 1")
    converge(trio)
    assert_gone(*trio)


def test_later_writes_win_and_earlier_ones_are_recorded(trio, case):
    one, two, three = trio
    three.sql("UPDATE t SET a = 'before' WHERE id = 2")
    three.drain()
    one.shell(rebuild(case))
    one.wall_ms = int(time.time() * 1000)  # what triggers record for the writes around it
    one.drain()
    two.wall_ms = one.wall_ms + 60_000
    two.shell("SELECT 1;")
    two.sql("UPDATE t SET a = 'later', gone = 77 WHERE id = 1")
    converge(trio)
    assert_gone(*trio)
    assert one.sql("SELECT a FROM t ORDER BY id") == [("later",), ("a2",), ("a3",)]
    lost = [json.loads(lost) for (lost,) in one.sql("SELECT lost FROM mycomesh_conflicts WHERE reason <> 'restored'")]
    assert {"a": "before"} in lost


def test_two_nodes_may_do_the_same_rebuild(trio, case):
    one, two, _ = trio
    for peer in (one, two):
        peer.shell(rebuild(case))
        peer.shell(f"UPDATE t SET a = '{peer.number}' WHERE id = {peer.number + 1};")
    converge(trio)
    converge(trio)
    assert_gone(*trio)
    assert one.sql("SELECT b FROM t ORDER BY id") == [(1,), (2,), (3,)]


@pytest.mark.each_value
@pytest.mark.parametrize("seen", [1, 2, 3], ids=["empty", "filled", "alone"])
@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
def test_a_copy_seen_before_it_replaces_its_table_goes(trio, case, seen, down):
    """Alembic and Prisma commit the empty copy, and a slow program the filled one, before they drop the table."""
    one, *_ = trio
    for _ in range(2):  # a second migration makes a copy of the same name
        steps = [table(case[1], "n"), "INSERT INTO n(id, a, b) SELECT id, a, b FROM t", "DROP TABLE t"]
        for step in steps[:seen]:
            one.shell(f"{step};")
            converge(trio)
        assert all(peer.sql("SELECT count(*) FROM n") == [(3 * (seen > 1),)] for peer in trio)
        if down:
            one.close()
        one.shell("; ".join(["BEGIN", *steps[seen:], "ALTER TABLE n RENAME TO t", "COMMIT;"]))
        if down:
            one.open()
        converge(trio)
        converge(trio)
        assert_gone(*trio)
        assert all(peer.sql("SELECT 1 FROM sqlite_schema WHERE name = 'n'") == [] for peer in trio)
    one.shell("UPDATE t SET a = 'later' WHERE id = 2;")
    converge(trio)
    assert_gone(*trio)
    assert trio[2].sql("SELECT id + 0, a, b FROM t ORDER BY id + 0") == [(1, "a1", 1), (2, "later", 2), (3, "a3", 3)]


def test_a_copy_that_another_node_wrote_to_stays(trio, case):
    one, two, _ = trio
    one.shell(f"{table(case[1], 'n')};")
    converge(trio)
    two.shell("INSERT INTO n(id, a, b) VALUES(7, 'of two', 7);")
    converge(trio)
    one.shell("BEGIN; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT;")
    converge(trio)
    assert two.sql("SELECT a FROM n") == [("of two",)]
    assert any("it stays on the other nodes" in note for note in notes(one))


def test_a_column_added_again_is_another_one(trio, case):
    one, two, _ = trio
    one.shell(rebuild(case))
    converge(trio)
    two.shell("ALTER TABLE t ADD COLUMN gone DEFAULT 'new'; UPDATE t SET gone = 'set' WHERE id = 2;")
    converge(trio)
    for peer in trio:
        assert_equal(one, peer)
        assert peer.sql("SELECT gone FROM t ORDER BY id") == [("new",), ("set",), ("new",)]


@pytest.mark.each_value
@pytest.mark.parametrize("reopened", [False, True])
def test_the_drop_waits_for_a_long_scan(trio, case, reopened, monkeypatch):
    """Programs go on writing meanwhile, rebuild again, drop another column; the node may end in the middle."""
    one, two, _ = trio
    monkeypatch.setattr(table_scan, "_COMPARED_WEIGHT", 1 << 20)  # a row a step
    one.sql("WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 40)"
            " INSERT INTO t(id, gone, a, b) SELECT i, i, 'x', i FROM n")  # fmt: skip
    converge(trio)
    one.shell(rebuild(case))
    dropped = "SELECT count(*) FROM mycomesh_schema WHERE kind = 'dropped'"
    for _ in range(4):
        one.replica.drain(one.wall_ms)
    assert one.sql(dropped) == [(0,)]
    one.shell("UPDATE t SET a = 'meanwhile' WHERE id IN (1, 40);")
    if reopened:
        one.close()
        one.open()
    one.shell("ALTER TABLE t DROP COLUMN b;")
    converge(trio)
    assert_gone(*trio)
    assert one.sql(dropped) == [(2,)]
    assert two.sql("SELECT count(*) FROM t WHERE a = 'meanwhile'") == [(2,)]


def test_a_rebuild_of_an_empty_table_drops_a_column(tmp_path, case):
    one, two = made = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    one.sql(f"CREATE TABLE p(id INTEGER PRIMARY KEY); {table(case[0])}")
    converge(made)
    one.shell(rebuild(case))
    converge(made)
    two.sql("INSERT INTO t(id, a, b) VALUES(1, 'a', 'b')")
    converge(made)
    assert_gone(one, two)
    for peer in made:
        peer.close()


def test_a_table_made_anew_drops_no_column(trio, case):
    """An old version of an application drops its table, and creates it as it knows it; another restores an old dump."""
    one, two, three = trio
    one.shell("DROP TABLE t;")
    one.drain()
    one.shell(f"{table(case[1])}; INSERT INTO t(id, a, b) VALUES(1, 'a1', 1), (2, 'a2', 2), (3, 'a3', 3);")
    converge(trio)
    if case[1] != "id, a, b":  # it looks like a rebuild without one
        rows = "INSERT INTO t(id, a, b) VALUES(71, 'x', 1), (72, 'y', 2)"
        three.shell(f"BEGIN; DROP TABLE t; {table(case[1])}; {rows}; COMMIT;")
    converge(trio)
    for peer in trio:
        assert_equal(one, peer)
        assert "gone" in columns(peer)
    assert any("created again" in note for note in notes(one))
    assert not two.sql("SELECT count(*) FROM mycomesh_schema WHERE kind = 'dropped'")[0][0]


def test_a_file_made_from_a_dump_drops_no_column(trio, case, tmp_path):
    one, two, _ = trio
    one.close()
    dump = shell(one.path, ".dump").decode()
    kept = table(case[0]).removeprefix("CREATE TABLE t")
    assert kept in dump
    one.path.unlink()
    shell(one.path, dump)
    shell(one.path, rebuild(case))
    one.open()
    converge(trio)
    assert "gone" in columns(one)
    assert "gone" in columns(two)
    assert_equal(one, two)


@pytest.mark.each_value
@pytest.mark.parametrize("touched", [True, False])
def test_a_stale_copy_drops_no_column(tmp_path, case, touched):
    """A second machine joins with a copy from before the column, or with a file that an old version has made."""
    one, late = Peer(tmp_path / "0.db", 0), tmp_path / "1.db"
    shell(late, f"{table(case[1])}; INSERT INTO t(id, a, b) VALUES(1, 'old', 1);")
    one.sql(
        f"CREATE TABLE p(id INTEGER PRIMARY KEY); {table(case[0])}; INSERT INTO t(id, gone, a, b) VALUES(1, 1, 'a1', 1)"
    )
    one.drain()
    if touched:
        shell(late, rebuild(case))
    two = Peer(late, 1)
    converge([one, two])
    assert_equal(one, two)
    assert (1,) in two.sql("SELECT gone FROM t")
    for peer in (one, two):
        peer.close()
