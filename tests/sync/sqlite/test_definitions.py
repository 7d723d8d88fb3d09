"""One table defined in two ways on two nodes: nothing is mixed up, both are named, and the rest of the mesh goes on."""

from __future__ import annotations

import pytest

from tests.sync.exchanges import World
from tests.sync.peers import WALL_MS, Peer, assert_equal, converge

# (definition, a row, what its status calls it)
KEYS = {
    "rowid": ("CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "1, 'one'", "INTEGER PRIMARY KEY(id)"),
    "no rowid": ("CREATE TABLE t(id INTEGER PRIMARY KEY, v) WITHOUT ROWID", "2, 'a'", "PRIMARY KEY(id INTEGER"),
    "bag": ("CREATE TABLE t(id, v)", "3, 'three'", "no primary key"),
    "text": ("CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, v)", "'1', 'text'", "PRIMARY KEY(id TEXT COLLATE BINARY)"),
    "nullable": ("CREATE TABLE t(id TEXT PRIMARY KEY, v)", "NULL, 'none'", "that may be NULL"),
    "nocase": (
        "CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v)", "'A', 'nocase'", "PRIMARY KEY(id TEXT COLLATE NOCASE)"
    ),
    "int": ("CREATE TABLE t(id INT PRIMARY KEY NOT NULL, v)", "4, 'int'", "PRIMARY KEY(id INTEGER COLLATE BINARY)"),
    "pair": ("CREATE TABLE t(id NOT NULL, v NOT NULL, PRIMARY KEY(v, id))", "5, 'pair'", "PRIMARY KEY(v BLOB"),
}  # fmt: skip
PAIRS = (
    ("rowid", "text"), ("rowid", "bag"), ("rowid", "no rowid"), ("text", "nullable"), ("text", "nocase"), ("text", "int"),
    ("int", "pair"), ("bag", "nullable"),
)  # fmt: skip


def notes(node):
    return {table.name: table.note for table in node.peer.replica.status().tables if table.note}


@pytest.fixture
def world(tmp_path):
    """Two nodes that do not know each other yet; what the second writes is later."""
    world = World([Peer(tmp_path / f"{number}.db", number, wall_ms=WALL_MS + number) for number in range(2)])
    yield world
    world.close()


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_the_first_node_parks_a_table_with_another_key(world, pair, turned):
    early, late = world.nodes
    mine, theirs = (KEYS[name] for name in (reversed(pair) if turned else pair))
    for node, (ddl, row, _) in ((early, mine), (late, theirs)):
        world.write(node, f"{ddl}; INSERT INTO t VALUES({row}); CREATE TABLE other{node.number}(v)")
    world.link(early, late)
    world.run(30_000)
    assert early.dropped == late.dropped == []
    assert notes(late) == {}
    [(name, note)] = notes(early).items()
    assert name == "t"
    assert note.startswith("parked: it has")
    assert mine[2] in note
    assert theirs[2] in note
    world.write(early, "UPDATE t SET v = 'goes on'; INSERT INTO other0 VALUES(1)")
    world.write(late, "UPDATE t SET v = 'goes on as well'; INSERT INTO other1 VALUES(2)")
    world.run(30_000)
    assert early.sql("SELECT v FROM t") == [("goes on",)]
    assert ("goes on as well",) in late.sql("SELECT v FROM t")
    assert late.sql("SELECT * FROM other0") == [(1,)]
    assert early.sql("SELECT * FROM other1") == [(2,)]


@pytest.mark.parametrize("remedy", ["rename", "remake"])
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_a_parked_table_continues_once_renamed_or_aligned(world, pair, remedy):
    early, late = world.nodes
    mine, theirs = (KEYS[name] for name in pair)
    for node, (ddl, row, _) in ((early, mine), (late, theirs)):
        world.write(node, f"{ddl}; INSERT INTO t VALUES({row})")
    world.run(1_000)  # both have stamped their rows
    link = world.link(early, late)
    world.run(30_000)
    if remedy == "rename":
        world.write(early, "ALTER TABLE t RENAME TO mine")
    else:
        world.write(early, f"BEGIN; DROP TABLE t; {theirs[0]}; INSERT INTO t VALUES('7', 'seven'); COMMIT")
    world.run(30_000)
    world.cut(link)
    early.reopen()
    world.link(early, late)
    world.run(60_000)
    assert notes(early) == {}
    assert_equal(early.peer, late.peer)
    values = {value for (value,) in late.sql("SELECT v FROM t")}
    assert theirs[1].split("'")[-2] in values
    if remedy == "rename":
        assert late.sql("SELECT v FROM mine") == [(mine[1].split("'")[-2],)]
    else:
        assert "seven" in values
    assert early.peer.scrub().found == late.peer.scrub().found == 0


def test_a_column_of_another_affinity_is_followed(tmp_path):
    early, late = (Peer(tmp_path / f"{number}.db", number, wall_ms=WALL_MS + number) for number in range(2))
    early.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER, w); INSERT INTO t VALUES(1, 5, 'a')")
    late.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, w); INSERT INTO t VALUES(2, 6, 'b'), (3, 'x', 'c')")
    converge([early, late])
    late.scrub()
    converge([early, late])
    assert [table.note for peer in (early, late) for table in peer.replica.status().tables if table.name == "t"] == [
        ""
    ] * 2
    assert early.sql("SELECT * FROM t") == late.sql("SELECT * FROM t") == [(1, "5", "a"), (2, "6", "b"), (3, "x", "c")]
    early.sql("UPDATE t SET w = 'later' WHERE id = 2")
    late.sql("UPDATE t SET v = 7 WHERE id = 3")
    converge([early, late])
    assert early.sql("SELECT * FROM t WHERE id > 1") == [(2, "6", "later"), (3, "7", "c")]
    assert_equal(early, late)
    assert early.scrub().found == late.scrub().found == 0
    early.close()
    late.close()


@pytest.mark.parametrize("ddl", [KEYS["rowid"][0], KEYS["text"][0]], ids=["rowid", "text"])
def test_key_that_client_renames_is_same_key(pair, ddl):
    one, two = pair
    one.sql(f"{ddl}; INSERT INTO t VALUES(1, 'a')")
    converge(pair)
    one.shell("ALTER TABLE t RENAME COLUMN id TO number; INSERT INTO t VALUES(2, 'b');")
    converge(pair)
    assert_equal(one, two)
    assert two.sql("SELECT v FROM t ORDER BY number") == [("a",), ("b",)]
