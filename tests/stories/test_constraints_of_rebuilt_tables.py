"""A stock client rebuilds a table with other constraints: every node does, a newcomer too (ADR 36, 39); no row is lost."""

from __future__ import annotations

import pytest

from mycomesh.sync.schema import rebuild_table
from mycomesh.sync.schema.notes import Source
from tests.sync.peers import Peer, assert_equal, converge

BEFORE = "id INTEGER PRIMARY KEY, a, b"
P = "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES(1), (2);"
ROWS = "INSERT INTO t VALUES(1, 'a1', 1), (2, 'a2', 2);"
# (columns after the rebuild, what a note calls it, whether it refuses the row (4, NULL, 400))
REBUILT = (
    ("id INTEGER PRIMARY KEY, a, b CHECK (b < 100)", "CHECK (b < 100)", True),
    ("id INTEGER PRIMARY KEY, a NOT NULL, b", "NOT NULL a", True),
    ("id INTEGER PRIMARY KEY, a, b, CONSTRAINT c CHECK (b < 100 AND a > '')", "CHECK (b < 100 AND a > '')", True),
    ("id INTEGER PRIMARY KEY, a UNIQUE, b, UNIQUE(b, a)", "UNIQUE (a) and UNIQUE (b, a)", False),
    (
        "id INTEGER PRIMARY KEY, a, b REFERENCES p ON DELETE CASCADE",
        "FOREIGN KEY (b) REFERENCES p ON DELETE CASCADE",
        False,
    ),
)


@pytest.fixture
def peers(equals):
    """Make so many equal replicas of a table with these columns."""
    return lambda count, columns=BEFORE: equals(count, f"{P} CREATE TABLE t({columns}); {ROWS}")


def rebuild(columns):
    return (
        f"BEGIN; CREATE TABLE r({columns}); INSERT INTO r SELECT id, a, b FROM t; DROP TABLE t; ALTER TABLE r RENAME TO t;"
        " COMMIT;"
    )


def note(peer, table="t"):
    return next((status.note for status in peer.replica.status().tables if status.name == table), "")


def at_rest(peer, script):
    """A stock client's script while no node runs."""
    peer.close()
    peer.shell(script)
    peer.open()


@pytest.mark.each_value
@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
@pytest.mark.parametrize("added", [True, False], ids=["added", "removed"])
@pytest.mark.parametrize(("columns", "told", "refuses"), REBUILT)
def test_a_rebuild_defines_the_table_on_all_nodes(peers, columns, told, refuses, added, down):
    before, after = (BEFORE, columns) if added else (columns, BEFORE)
    one, two, three = made = peers(3, before)
    two.sql("CREATE INDEX i ON t(b); CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE p SET id = id; END")
    (at_rest if down else Peer.shell)(one, rebuild(after))
    writer = two if added else one
    writer.shell("INSERT INTO t VALUES(4, NULL, 400);")
    three.shell("UPDATE t SET a = 'meanwhile' WHERE id = 1;")
    converge(made)
    strict = refuses and added
    for peer in made:
        assert not note(peer)
        assert peer.sql("SELECT a, b FROM t WHERE id IN (1, 4)") == [("meanwhile", 1)] + [(None, 400)] * (not strict)
        assert len(peer.recorded("mycomesh_parked")) == strict
        assert peer.digests() == one.digests()
        assert peer.scrub().found == 0
    assert two.sql("SELECT name FROM sqlite_schema WHERE tbl_name = 't' AND name IN ('i', 'g')") == [("i",), ("g",)]
    if strict:
        assert "constraint failed" in two.sql("SELECT reason FROM mycomesh_parked")[0][0]
        writer.sql("INSERT INTO t VALUES(4, 'fixed', 4)")
    else:
        writer.shell("UPDATE t SET a = 'fixed', b = 4 WHERE id = 4;")
    converge(made)
    newcomer = peers(1)[-1]
    converge([*made, newcomer])
    for peer in (two, three, newcomer):
        assert_equal(one, peer)
        assert not peer.recorded("mycomesh_parked")
        assert peer.sql("SELECT a FROM t WHERE id = 4") == [("fixed",)]
    assert not "".join(map(note, [*made, newcomer]))
    assert told


@pytest.mark.parametrize("tightened", [True, False])
def test_a_rebuild_by_migrate_defines_all_tables(peers, tightened):
    strict, loose = REBUILT[0][0], BEFORE
    before, after = (loose, strict) if tightened else (strict, loose)
    one, two, _three = made = peers(3, before)
    assert one.replica.migrate(rebuild(after), one.wall_ms) == ["rebuilds t"]
    (two if tightened else one).shell("INSERT INTO t VALUES(4, NULL, 400);")
    converge(made)
    newcomer = peers(1)[-1]
    for peer in [*made, newcomer]:
        assert_equal(one, peer)
        assert not note(peer)
        assert len(peer.sql("SELECT * FROM t")) == (2 if tightened else 3)
        assert len(peer.recorded("mycomesh_parked")) == tightened


ALTERED = (
    "id INTEGER PRIMARY KEY, a TEXT, b REAL DEFAULT 7",
    "id INTEGER PRIMARY KEY AUTOINCREMENT, a, b",
    "id INTEGER PRIMARY KEY, a varchar(100) COLLATE NOCASE, b",
    "id INTEGER PRIMARY KEY, a TEXT, b INT) STRICT",
    "id INTEGER PRIMARY KEY, b NOT NULL, a",
)


@pytest.mark.parametrize("columns", ALTERED)
def test_types_defaults_and_options_of_rebuilds_travel(peers, columns):
    one, two, three = made = peers(3)
    ending = "" if columns.endswith("STRICT") else ")"
    script = rebuild(columns).replace(f"r({columns})", f"r({columns}{ending}").replace("r SELECT", "r(id, a, b) SELECT")
    one.shell(script)
    two.shell("INSERT INTO t VALUES(5, 'five', '5'), (6, 'six', 6.0);")
    three.shell("UPDATE t SET b = '77' WHERE id = 2;")
    converge(made)
    converge(made)
    for peer in (two, three):
        assert_equal(one, peer)
        assert declared(peer) == declared(one)
        assert not note(peer)
        assert peer.scrub().found == 0
    assert not note(one)
    assert not one.drain() + two.drain() + three.drain()


def declared(peer):
    text = peer.sql("SELECT sql FROM sqlite_schema WHERE name = 't'")[0][0]
    autoincrement, strict = "AUTOINCREMENT" in text, "STRICT" in text
    return autoincrement, strict, sorted(row[1:] for row in peer.sql("PRAGMA table_info(t)"))


def test_rebuilds_of_two_nodes_end_with_one_definition(peers):
    one, two, three = made = peers(3)
    one.shell(rebuild("id INTEGER PRIMARY KEY, a TEXT NOT NULL, b"))
    two.wall_ms += 1_000
    two.shell(rebuild("id INTEGER PRIMARY KEY, a, b CHECK (b < 100)"))
    converge(made)
    converge(made)
    assert {str(declared(peer)) for peer in made} == {str(declared(two))}
    assert_equal(one, three)
    assert not "".join(map(note, made))


def test_a_view_of_its_own_keeps_a_table(equals):
    one, two = made = equals(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b); INSERT INTO t VALUES(1, 2, 3)")
    two.sql("CREATE VIEW v AS SELECT t.a FROM t, mycomesh_meta LIMIT 1")  # so it stays at home
    one.replica.migrate(
        "CREATE TABLE n(id INTEGER PRIMARY KEY, b NOT NULL); INSERT INTO n SELECT id, b FROM t; DROP TABLE t;"
        " ALTER TABLE n RENAME TO t",
        one.wall_ms,
    )
    converge(made)
    assert two.sql("SELECT a FROM v") == [(2,)]
    assert "view v reads what it lacks" in note(two)


def test_a_constraint_altered_in_place_travels(peers):
    """ALTER TABLE .. ALTER COLUMN and ADD CONSTRAINT, which SQLite has since 3.53."""
    one, two, _ = made = peers(3)
    for statement, told in (
        ("ALTER COLUMN a SET NOT NULL", "a NOT NULL"),
        ("ADD CONSTRAINT c CHECK (b < 100)", "CHECK (b < 100)"),
        ("ALTER COLUMN a DROP NOT NULL", ""),
        ("DROP CONSTRAINT c", ""),
    ):
        one.sql(f"ALTER TABLE t {statement}")
        two.sql("UPDATE t SET b = b + 1")
        converge(made)
        for peer in made:
            assert_equal(one, peer)
            assert not note(peer)
            assert told in peer.sql("SELECT sql FROM sqlite_schema WHERE name = 't'")[0][0]
    assert "CHECK" not in two.sql("SELECT sql FROM sqlite_schema WHERE name = 't'")[0][0]


@pytest.mark.parametrize("limit", ["REBUILT_ROWS_MAX", "REBUILT_PARKED_MAX"])
def test_too_many_rows_keep_a_table_as_it_is(peers, monkeypatch, limit):
    one, two = made = peers(2)
    two.shell("INSERT INTO t VALUES(4, NULL, 4), (5, NULL, 5);")
    converge(made)
    monkeypatch.setattr(rebuild_table, limit, 1)
    one.shell(rebuild("id INTEGER PRIMARY KEY, a NOT NULL, b").replace("FROM t", "FROM t WHERE a IS NOT NULL"))
    two.shell("INSERT INTO t VALUES(6, NULL, 6), (7, NULL, 7);")
    converge(made)
    told = "than 1 rows, which would" if limit == "REBUILT_ROWS_MAX" else "more than 1 rows violate it: correct them"
    assert told in note(two)
    assert two.replica.registry.behind == {"t"}
    assert len(two.sql("SELECT * FROM t")) == 4
    two.shell(rebuild("id INTEGER PRIMARY KEY, a NOT NULL, b").replace("FROM t", "FROM t WHERE a IS NOT NULL"))
    converge(made)
    assert not note(one) + note(two)
    assert_equal(one, two)
    assert not two.replica.registry.behind


def test_an_equivalent_definition_is_no_difference(peers):
    one, two = made = peers(2, "id INTEGER PRIMARY KEY, a NOT NULL CHECK (a > '' /* some */), b REFERENCES p(id)")
    one.shell(
        rebuild(
            '"id" INTEGER PRIMARY KEY, b, [a] NOT NULL, FOREIGN KEY ("b") REFERENCES "p" (id), check (A > \'\')'
        ).replace("SELECT id, a, b", "SELECT id, b, a")
    )
    converge(made)
    assert_equal(one, two)
    assert not note(one) + note(two)


def test_very_many_constraints_are_told_in_one_line(peers, monkeypatch):
    one, two = made = peers(2)
    monkeypatch.setattr(rebuild_table, "REBUILT_ROWS_MAX", 1)
    checks = " ".join(f"CHECK (b < {number} + {'1 + ' * 100} 1000)" for number in range(9))
    one.shell(rebuild(f"id INTEGER PRIMARY KEY, a, b {checks}"))
    converge(made)
    drift = two.replica.registry.notes._of("t", Source.DRIFT)
    assert "and 5 more on the mesh and not here" in drift
    assert len(drift) < 600
    assert not note(one)


def columns_of(peer):
    return [(name, default, bool(not_null)) for _, name, _, not_null, default, _ in peer.sql("PRAGMA table_info(t)")]


@pytest.mark.each_value
@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize(
    ("dropped", "back"),
    [
        ("name varchar(100) NOT NULL", ("name", "''", True)),
        ("name INT DEFAULT NULL NOT NULL", ("name", "0", True)),
        ("name INT NOT NULL REFERENCES p(id)", ("name", "0", True)),
        ("name INT NOT NULL DEFAULT 7 CHECK (name > 9)", ("name", "7", True)),
        ("name TEXT CHECK (name IS NOT NULL)", ("name", None, False)),
    ],
)
def test_a_column_that_came_back_refuses_no_insert(equals, dropped, back, rows, down):
    before = f"CREATE TABLE t(id INTEGER PRIMARY KEY, {dropped}, model NOT NULL)"
    made = one, _ = equals(2, f"CREATE TABLE p(id INTEGER PRIMARY KEY); {before}")
    for row in range(rows):
        one.shell(f"INSERT INTO p VALUES({row + 10}); INSERT INTO t VALUES({row}, {row + 10}, 'm');")
    converge(made)
    one.shell("DROP TABLE t;")
    one.drain()
    again = "".join(f"INSERT INTO t VALUES({row}, 'm');" for row in range(rows))
    (at_rest if down else Peer.shell)(one, f"CREATE TABLE t(id INTEGER PRIMARY KEY, model NOT NULL); {again}")
    one.drain()
    assert back in columns_of(one)
    one.shell("PRAGMA foreign_keys = ON; INSERT INTO t(model) VALUES('x'), ('y');")
    converge(made)
    newcomer = equals(1, "")[-1]
    newcomer.shell("PRAGMA foreign_keys = ON; INSERT INTO t(id, model) VALUES(90, 'z');")
    converge([*made, newcomer])
    assert_equal(one, newcomer)
    assert len(one.sql("SELECT * FROM t")) == rows + 3


def test_a_column_added_after_a_rebuild_keeps_its_constraints(equals):
    one, two, three = made = equals(3, "CREATE TABLE t(id INTEGER PRIMARY KEY, a NOT NULL, b)")
    one.shell(rebuild("id INTEGER PRIMARY KEY, a, b CHECK (b < 100)"))
    converge(made)
    two.shell("ALTER TABLE t ADD COLUMN c TEXT NOT NULL DEFAULT 'c' CHECK (c > ' ')")
    converge(made)
    newcomer = equals(1, "")[-1]
    assert [(name, not_null) for name, _, not_null in columns_of(newcomer)] == [
        ("id", False), ("a", False), ("b", False), ("c", True),
    ]  # fmt: skip
    assert not "".join(map(note, [*made, newcomer]))
    for peer in (two, three, newcomer):
        assert_equal(one, peer)


def test_changes_that_no_program_made_redefine_nothing(equals):
    one, two = made = equals(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a NOT NULL, b)")
    one.shell(rebuild("id INTEGER PRIMARY KEY, a, b"))
    converge(made)
    assert not note(two)
    definitions = one.replica.registry.facts.of("t")
    for column in ("c INT CHECK (c > 0)", "d REFERENCES t"):
        one.shell(f"ALTER TABLE t ADD COLUMN {column}")  # two follows
        converge(made)
    two.shell("ALTER TABLE t RENAME COLUMN b TO e")
    two.shell("ALTER TABLE t ADD COLUMN f DEFAULT 1")
    converge(made)
    two.shell("VACUUM")
    two.close()
    two.open()
    converge(made)
    assert not note(one) + note(two)
    assert definitions.replace("b)", "") in one.replica.registry.facts.of("t")


def test_null_written_out_is_no_other_default(equals):
    one, two = made = equals(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    one.shell(rebuild("id INTEGER PRIMARY KEY, a DEFAULT NULL, b DEFAULT (null /* none */)"))
    converge(made)
    assert not note(one) + note(two)
