"""Destructive statements by hand, with the stock shell: noticed, repaired or told, and the replicas end equal."""

from __future__ import annotations

import pytest

from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from tests.sync.peers import Peer, converge, shell
from tests.sync.templates import equal_peers

WIDE = ", ".join(f"c{number}" for number in range(70))
# (name, definition, columns of the rows written)
TABLES = (
    ("rowid", "CREATE TABLE t(id INTEGER PRIMARY KEY, x, y)"),
    ("keyed", "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, x, y) WITHOUT ROWID"),
    ("bag", "CREATE TABLE t(id, x, y)"),
    ("wide", f"CREATE TABLE t(id INTEGER PRIMARY KEY, {WIDE}, x, y)"),
)


@pytest.fixture(params=TABLES, ids=[name for name, _ in TABLES])
def ddl(request):
    return request.param[1]


@pytest.fixture
def pair(tmp_path, ddl):
    """Two equal replicas with two rows of `t`; the second has written a third that the first has not seen."""
    one, two = equal_peers(tmp_path, 2, f"{ddl}; INSERT INTO t(id, x, y) VALUES(1, 'a', 'b'), (2, 'c', 'd')")
    two.sql("INSERT INTO t(id, x, y) VALUES(3, 'e', 'f')")
    yield one, two
    one.close()
    two.close()


def note(peer, table="t"):
    return next((status.note for status in peer.replica.status().tables if status.name == table), "")


def rows(peer, columns, table="t"):
    return peer.sql(f"SELECT {columns} FROM {table} ORDER BY id")


def columns(peer):
    return [name for _, name, *_ in peer.sql("PRAGMA table_info(t)")]


def assert_alike(one, two):
    assert one.tables() == two.tables()
    assert one.digests() == two.digests()


def test_dropped_table_stays_on_others_and_is_not_restored(pair):
    one, two = pair
    one.shell("DROP TABLE t;")
    converge([one, two])
    two.sql("CREATE TABLE another(id)")
    converge([one, two])
    assert "t" not in one.tables()
    assert "another" in one.tables()
    assert rows(two, "id, x, y") == [(number, x, y) for number, (_, x, y) in zip(ids(two), THREE, strict=True)]
    assert note(one).startswith("dropped or renamed here by hand")
    one.close()
    one.open()
    assert note(one).startswith("dropped or renamed here by hand")


THREE = [(1, "a", "b"), (2, "c", "d"), (3, "e", "f")]


def ids(peer):
    return [number for (number,) in rows(peer, "id")]


def test_a_recreated_table_deletes_only_rows_its_user_saw(pair, ddl):
    one, two = pair
    one.shell(f"DROP TABLE t; {ddl}; INSERT INTO t(id, x, y) VALUES(7, 'new', 'g');")
    converge([one, two])
    assert_alike(one, two)
    assert [x for (x,) in rows(one, "x")] == ["e", "new"]
    assert note(one) == ""


def test_a_table_renamed_by_hand_continues_under_its_name(pair):
    one, two = pair
    one.shell("ALTER TABLE t RENAME TO u;")
    converge([one, two])
    one.shell("UPDATE u SET x = 'later' WHERE id = 1;")
    two.sql("UPDATE u SET y = 'too' WHERE id = 2")
    converge([one, two])
    assert one.tables()["u"] == two.tables()["u"]
    assert [tuple(row) for row in rows(one, "x, y", "u")] == [("later", "b"), ("c", "too")]
    assert len(rows(two, "id")) == 3
    assert note(one).startswith("dropped or renamed here by hand")
    kept = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'u'"
    assert one.sql(kept) == two.sql(kept)


def test_column_renamed_by_hand_has_its_new_name_everywhere(pair):
    one, two = pair
    one.shell("ALTER TABLE t RENAME COLUMN x TO w;")
    converge([one, two])
    one.shell("UPDATE t SET w = 'later' WHERE id = 1;")
    converge([one, two])
    assert_alike(one, two)
    assert rows(two, "w, y") == [("later", "b"), ("c", "d"), ("e", "f")]
    assert note(one) == ""
    assert one.scrub().found == two.scrub().found == 0


def test_columns_that_trade_names_offline_keep_their_values(pair):
    one, two = pair
    one.close()
    one.shell(
        "ALTER TABLE t RENAME COLUMN x TO z; ALTER TABLE t RENAME COLUMN y TO x; ALTER TABLE t RENAME COLUMN z TO y;"
        " ALTER TABLE t ADD COLUMN n DEFAULT 5; UPDATE t SET x = 'later' WHERE id = 2;"
    )
    one.open()
    two.sql("UPDATE t SET x = 'meanwhile' WHERE id = 1")
    converge([one, two])
    assert_alike(one, two)
    assert rows(two, "y, x, n") == [("meanwhile", "b", 5), ("c", "later", 5), ("e", "f", 5)]


def test_a_rebuild_with_the_same_triggers_renames_nothing(pair, ddl):
    """Some editors drop a column so: copy the table, put the triggers back as they were."""
    one, two = pair
    triggers = [sql for (sql,) in one.sql("SELECT sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")]
    remade = ddl.replace("TABLE t(", "TABLE n(").replace("x, y", "y, z")
    one.shell(
        f"BEGIN; {remade}; INSERT INTO n(id, y, z) SELECT id, y, 'z' FROM t; DROP TABLE t;"
        f" ALTER TABLE n RENAME TO t; {'; '.join(triggers)}; COMMIT;"
    )
    converge([one, two])
    assert_alike(one, two)
    assert [row for row in rows(two, "id, y, z") if row[2]] == [(ids(two)[0], "b", "z"), (ids(two)[1], "d", "z")]
    assert "x" not in columns(one) + columns(two)
    assert not note(one) + note(two)


def test_an_offline_rebuild_that_drops_and_fills_ends_equal(pair, ddl):
    one, two = pair
    one.close()
    remade = ddl.replace("TABLE t(", "TABLE n(").replace(" x,", " z,")
    one.shell(
        f"BEGIN; {remade}; INSERT INTO n(id, z, y) SELECT id, x || '!', y FROM t;"
        " DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT;"
    )
    one.open()
    converge([one, two])
    assert_alike(one, two)
    assert {(z, y) for z, y in rows(one, "z, y")} >= {("a!", "b"), ("c!", "d")}
    assert len(rows(one, "id")) == 3


@pytest.mark.parametrize("running", [True, False])
def test_columns_that_rebuild_renames_have_their_new_names_everywhere(pair, ddl, running):
    """As ORMs rename: they rebuild the table with the columns in another order and one more column."""
    one, two = pair
    if not running:
        one.close()
    remade = ddl.replace("TABLE t(", "TABLE n(").replace("x, y)", "more DEFAULT 'm', q, p)")
    shell(
        one.path,
        f"BEGIN; {remade}; INSERT INTO n(id, p, q) SELECT id, x, y FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t;"
        " COMMIT;",
    )
    if not running:
        one.open()
    two.sql("UPDATE t SET x = 'meanwhile' WHERE y = 'd'")
    converge([one, two])
    assert_alike(one, two)
    assert sorted(rows(two, "p, q, more")) == [("a", "b", "m"), ("e", "f", "m"), ("meanwhile", "d", "m")]
    assert not note(one)
    assert one.scrub().found == two.scrub().found == 0


def test_a_rebuild_to_columns_with_equal_values_drops_them(pair, ddl):
    one, two = pair
    remade = ddl.replace("TABLE t(", "TABLE n(").replace("x, y)", "p, q)")
    one.shell(
        f"BEGIN; {remade}; INSERT INTO n(id, p, q) SELECT id, x, x FROM t; DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT;"
    )
    converge([one, two])
    assert_alike(one, two)
    assert columns(one) == columns(two)
    assert not {"x", "y"} & {*columns(one)}


def test_a_recreated_table_gets_its_not_null_columns_back(tmp_path):
    one, two = Peer(tmp_path / "0.db", 0), Peer(tmp_path / "1.db", 1)
    one.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, i INT NOT NULL, c CHAR NOT NULL, b NOT NULL, r REAL NOT NULL, y);"
        " INSERT INTO t VALUES(1, 2, 'c', x'00', 1.5, 'y')"
    )
    converge([one, two])
    one.shell("DROP TABLE t;")
    one.drain()
    one.shell("CREATE TABLE t(id INTEGER PRIMARY KEY, y); INSERT INTO t(id, y) VALUES(1, 'y'), (2, 'after');")
    converge([one, two])
    one.sql("INSERT INTO t(id, y) VALUES(3, 'once more')")
    converge([one, two])
    assert_alike(one, two)
    assert rows(two, "i, c, b, r, y") == [(0, "", b"", 0.0, y) for y in ("y", "after", "once more")]
    assert note(one).startswith("column(s) i, c, b, r missing in a table that was created again")
    assert not note(two)
    one.close()
    two.close()


def test_a_column_that_cannot_return_parks_its_table(tmp_path):
    one, two = Peer(tmp_path / "0.db", 0), Peer(tmp_path / "1.db", 1)
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x, y); INSERT INTO t VALUES(1, 'a', 'b')")
    converge([one, two])
    one.shell(
        "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, w, y, x AS (y));"
        " INSERT INTO n(id, w, y) SELECT id, x || '!', y FROM t;"
        " DROP TABLE t; ALTER TABLE n RENAME TO t; COMMIT;"
    )
    one.drain()
    assert note(one) == "parked: the mesh has the column(s) x and this file has not; add them"
    two.sql("UPDATE t SET y = 'later'")
    one.take(two.drain(), two.node_id)
    assert rows(one, "w, y") == [("a!", "b")]
    one.shell("ALTER TABLE t RENAME COLUMN x TO made;")
    one.drain()
    converge([one, two])
    assert rows(one, "id, w, y") == rows(two, "id, w, y")
    assert rows(one, "id, w") == [(1, "a!")]
    assert "x" not in columns(one) + columns(two)
    lost = [row for peer in (one, two) for row in peer.sql("SELECT lost FROM mycomesh_conflicts")]
    assert rows(one, "y") == [("later",)] or any("later" in row[0] for row in lost)
    one.close()
    two.close()


def test_a_view_named_like_a_peers_table_is_reported(tmp_path):
    one, two = Peer(tmp_path / "0.db", 0), Peer(tmp_path / "1.db", 1)
    one.sql("CREATE VIEW t AS SELECT 1 AS a; CREATE TABLE mine(a)")
    two.sql("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES(1)")
    converge([one, two])
    assert "has a view of that name" in note(one)
    assert one.sql("SELECT a FROM t") == [(1,)]
    assert "mine" in two.tables()
    one.close()
    two.close()


@pytest.mark.each_value
@pytest.mark.parametrize(
    "script",
    ["ALTER TABLE t RENAME COLUMN x TO w;", "ALTER TABLE t RENAME TO u;", "DROP TABLE t;"],
    ids=["column", "table", "drop"],
)
def test_a_changed_schema_breaks_no_reader_of_rows(pair, script):
    """Between a client's statement and the moment in which the node takes it in, peers ask and scrubs go on."""
    one, two = pair
    two.sql("UPDATE t SET y = 'later' WHERE id = 2")
    two.drain()
    stream = CatchUpStream(two.replica, {name: one.replica.vector(name) for name in two.replica.tables})
    two.shell(script)
    two.replica.status()
    assert two.scrub().found == 0
    two.shell("CREATE TABLE another(v);")
    while stream.next(two.wall_ms).bundle is not None:
        pass
    converge([one, two])
    assert "another" in one.tables()
    if "COLUMN" in script:
        assert_alike(one, two)
        assert rows(one, "y")[1] == ("later",)


@pytest.mark.each_value
@pytest.mark.parametrize("running", [True, False], ids=["running", "down"])
@pytest.mark.parametrize(
    "default", ["", "DEFAULT 5", "TEXT NOT NULL DEFAULT 'it''s'", 'DEFAULT "word"', "DEFAULT (1 -- one\n)"]
)
def test_a_column_added_and_filled_at_once_is_captured(pair, default, running):
    one, two = pair
    converge(pair)
    if not running:
        one.close()
    one.shell(
        f"ALTER TABLE t ADD COLUMN n {default}; UPDATE t SET n = 'filled', x = x || '!' WHERE id = 1; UPDATE t SET y = 'other'"
        " WHERE id = 2; ALTER TABLE t ADD COLUMN m; UPDATE t SET m = n, n = y WHERE id = 3;"
    )
    if not running:
        one.open()
    two.sql("UPDATE t SET y = 'theirs' WHERE id = 2")
    converge(pair)
    assert_alike(one, two)
    assert rows(two, "n, m")[0] == ("filled", None)
    assert rows(two, "n")[2] == ("f",)
    assert one.scrub().found == two.scrub().found == 0
