"""ADD COLUMN by a stock client: the whole definition comes to every replica, and no row is lost to what it asks for."""

from __future__ import annotations

import pytest

from mycomesh.sync.schema.add_column import PARKED_MAX, add_column
from tests.sync.peers import Peer, assert_equal, converge

T = (
    "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES(1);"
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'a1', 1), (2, 'a2', 2)"
)


@pytest.fixture
def peers(equals):
    """Make so many replicas, equal, with the tables of `T`."""
    return lambda count, ddl=T: equals(count, ddl)


def at_rest(peer, script):
    """A stock client's script while no node runs."""
    peer.close()
    peer.shell(script)
    peer.open()


def definition(peer, table="t"):
    return peer.sql("SELECT sql FROM sqlite_schema WHERE name = ?", table)[0][0]


def note(peer, table="t"):
    return next((status.note for status in peer.replica.status().tables if status.name == table), "")


@pytest.mark.each_value
@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
@pytest.mark.parametrize(
    ("clause", "kept"),
    [
        ("n", "n"),
        ("n VARCHAR(10) DEFAULT 'x,)'", "n VARCHAR(10) DEFAULT 'x,)'"),
        ("n INTEGER NOT NULL ON CONFLICT REPLACE DEFAULT 5", "n INTEGER NOT NULL ON CONFLICT REPLACE DEFAULT 5"),
        ("n CONSTRAINT positive CHECK (n > 0)", "n CONSTRAINT positive CHECK (n > 0)"),
        ("n DEFAULT 7 CHECK (n > b) /* (why), */", "n DEFAULT 7 CHECK (n > b)"),
        ("n REFERENCES p(id) ON DELETE CASCADE", "n REFERENCES p(id) ON DELETE CASCADE"),
        ("n TEXT COLLATE NOCASE", "n TEXT COLLATE NOCASE"),
        ('"n ""1""" /* -- */ INT', '"n ""1""" INT'),
        ("n AS (a || b)", "n AS (a || b)"),
        ("n TEXT GENERATED ALWAYS AS (b * 2) VIRTUAL CHECK (n <> 'z')", "n TEXT AS (b * 2) CHECK (n <> 'z')"),
    ],
)
def test_a_column_comes_with_all_of_its_definition(peers, clause, kept, down):
    one, two, three = made = peers(3)
    (at_rest if down else Peer.shell)(
        one, f"ALTER TABLE t ADD COLUMN {clause}; INSERT INTO t(id, a, b) VALUES(3, 'a3', 3)"
    )
    two.shell("INSERT INTO t VALUES(4, 'a4', 4); UPDATE t SET b = 0 WHERE id = 2")
    three.shell("INSERT INTO t VALUES(5, NULL, NULL); DELETE FROM t WHERE id = 1")
    converge(made)
    for peer in (two, three):
        assert definition(peer) == f"CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, {kept})"
        assert_equal(one, peer)
        assert not note(peer)
    for peer in made:
        peer.shell(f"INSERT INTO t(id, a, b) VALUES({10 + peer.number}, 'later', 1);")
    converge(made)
    newcomer = peers(1)[-1]
    for peer in (two, three, newcomer):
        assert_equal(one, peer)
    assert len(one.tables()["t"]) == 7
    assert all(peer.scrub().found == 0 for peer in made)


@pytest.mark.parametrize(
    ("key", "tail"),
    [("INTEGER PRIMARY KEY", ""), ("PRIMARY KEY", ""), ("TEXT PRIMARY KEY NOT NULL", "WITHOUT ROWID"), ("", "")],
    ids=["rowid", "nullable key", "without rowid", "bag"],
)
def test_rows_that_a_new_check_refuses_wait_and_return(peers, key, tail):
    one, two, three = made = peers(
        3, f"CREATE TABLE t(id {key}, a, b) {tail}; INSERT INTO t VALUES(1, 'a1', 1), (2, 'a2', 2)"
    )
    one.shell("ALTER TABLE t ADD COLUMN n NOT NULL DEFAULT 5 CHECK (n > b);")
    two.shell("INSERT INTO t VALUES(4, 'too large', 400); UPDATE t SET a = 'as well', b = 9 WHERE id = 2")
    converge(made)
    for peer in made:
        assert_equal(one, peer)
        assert peer.sql("SELECT id, n FROM t") in ([(1, 5)], [("1", 5)])
        assert [row[2] for row in peer.recorded("mycomesh_parked")] == ["CHECK constraint failed: n > b"] * 2
    two.shell("INSERT INTO t VALUES(6, 'goes on', 2, 3);")
    three.replica.migrate("ALTER TABLE t DROP COLUMN n", three.wall_ms)
    converge(made)
    for peer in made:
        assert_equal(one, peer)
        assert peer.sql("SELECT a FROM t ORDER BY id") == [("a1",), ("as well",), ("too large",), ("goes on",)]
        assert not peer.recorded("mycomesh_parked")
        assert peer.scrub().found == 0


def test_check_that_would_park_many_rows_is_left_out(peers):
    one, two = made = peers(2)
    one.shell("ALTER TABLE t ADD COLUMN n DEFAULT 5 CHECK (n > b);")
    two.sql(
        "WITH i(n) AS (VALUES(10) UNION ALL SELECT n + 1 FROM i LIMIT ?) INSERT INTO t SELECT n, 'a', n FROM i",
        PARKED_MAX + 1,
    )
    converge(made)
    assert one.digests() == two.digests()
    assert two.sql("SELECT count(*), sum(n) FROM t") == [(PARKED_MAX + 3, 5 * (PARKED_MAX + 3))]
    assert len(one.recorded("mycomesh_parked")) == PARKED_MAX + 1
    assert note(two).startswith("keeps its definition, the mesh has another: more than 128 rows violate it")
    two.close()
    two.open()
    assert "CHECK (n > b) on the mesh and not here" in note(two)


@pytest.mark.parametrize(
    ("column", "here", "told"),
    [
        ("n UNIQUE", "", ""),
        ("n NOT NULL CHECK (n)", "", ""),
        ("n INT NOT NULL REFERENCES t", "n INT NOT NULL REFERENCES t DEFAULT 0", ""),
        ("n DEFAULT CURRENT_TIMESTAMP", '"n"  COLLATE "BINARY"', "has the default NULL here and CURRENT_TIMESTAMP on the mesh"),
        ("n INT DEFAULT 3 UNIQUE", "", ""),
    ],
)  # fmt: skip
def test_a_rebuilds_column_travels_with_its_constraints(peers, column, here, told):
    """Where ALTER TABLE does not allow the column as it is, the node rebuilds the table, but not for a default alone."""
    one, two = made = peers(2)
    one.shell(
        f"BEGIN; CREATE TABLE r(id INTEGER PRIMARY KEY, a, b, {column}); INSERT INTO r SELECT *, id FROM t; DROP TABLE t;"
        " ALTER TABLE r RENAME TO t; COMMIT;"
    )
    converge(made)
    assert_equal(one, two)
    assert definition(two) == (f"CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, {here})" if here else definition(one))
    assert told in note(two) if told else not note(two)
    assert not note(one)


def test_of_two_definitions_of_a_column_the_later_holds(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN n INTEGER CHECK (n < 10); UPDATE t SET n = 1 WHERE id = 1;")
    two.wall_ms += 1_000
    two.shell("ALTER TABLE t ADD COLUMN n INTEGER CHECK (n < 20); UPDATE t SET n = 2 WHERE id = 2;")
    converge(made)
    assert_equal(one, two)
    assert_equal(one, three)
    assert one.sql("SELECT n FROM t ORDER BY id") == [(1,), (2,)]
    assert not note(one) + note(two) + note(three)
    assert "CHECK (n < 20)" in definition(one)
    newcomer = peers(1)[-1]
    assert definition(newcomer) == definition(two)


def test_renamed_column_is_named_so_in_definition_of_another(peers):
    one, two = made = peers(2)
    two.replica.migrate("ALTER TABLE t RENAME COLUMN b TO bound", two.wall_ms)
    one.shell("ALTER TABLE t ADD COLUMN n CHECK (n < b);")
    converge(made)
    for peer in made:
        text = definition(peer).replace('"', "")
        assert text == "CREATE TABLE t(id INTEGER PRIMARY KEY, a, bound, n CHECK (n < bound))"


@pytest.mark.parametrize(
    "clause",
    ["n; DROP TABLE p", "n; ALTER TABLE t DROP COLUMN a", "n; ALTER TABLE p ADD COLUMN x", "n; DELETE FROM t",
     "n; PRAGMA user_version = 9", "n; ATTACH ':memory:' AS o", "n CHECK ((SELECT 1))", "n REFERENCES", "n AS (a), m"],
)  # fmt: skip
def test_text_that_does_more_than_add_column_changes_nothing(peers, clause):
    (one,) = peers(1)
    before, schema = one.tables(), one.sql("SELECT name, sql FROM sqlite_schema ORDER BY 1")
    db = one.replica.store.db
    with one.replica.store.transaction():
        assert add_column(db, "t", [clause])
    assert one.tables() == before
    assert one.sql("SELECT name, sql FROM sqlite_schema ORDER BY 1") == schema
    assert one.sql("PRAGMA user_version") == [(0,)]
