"""A stock client rebuilds a table with other constraints: the nodes that have the table keep theirs and report it (ADR 23), the
nodes that get it later get the new ones (ADR 36); no row is lost."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
@pytest.mark.parametrize("added", [True, False], ids=["added", "removed"])
@pytest.mark.parametrize(("columns", "told", "refuses"), REBUILT)
def test_a_rebuild_defines_the_table_and_others_report_it(peers, columns, told, refuses, added, down):
    before, after = (BEFORE, columns) if added else (columns, BEFORE)
    one, two, three = made = peers(3, before)
    (at_rest if down else Peer.shell)(one, rebuild(after))
    writer = two if added else one
    writer.shell("INSERT INTO t VALUES(4, NULL, 400);")
    three.shell("UPDATE t SET a = 'meanwhile' WHERE id = 1;")
    converge(made)
    where = "on the mesh and not here" if added else "here alone"
    assert not note(one)
    for peer in (two, three):
        assert note(peer).startswith(f"definitions differ: {told} {where}; each node keeps its own")
    for peer in made:
        strict = refuses and (peer is one) == added
        assert peer.sql("SELECT a, b FROM t WHERE id IN (1, 4)") == [("meanwhile", 1)] + [(None, 400)] * (not strict)
        assert len(peer.recorded("mycomesh_parked")) == strict
        assert peer.digests() == one.digests()
        assert peer.scrub().found == 0
    writer.shell("UPDATE t SET a = 'fixed', b = 4 WHERE id = 4;")
    converge(made)
    for peer in (two, three):
        assert_equal(one, peer)
        assert not peer.recorded("mycomesh_parked")
    for peer in (two, three):
        (at_rest if down else Peer.shell)(peer, rebuild(after))
    converge(made)
    newcomer = peers(1)[-1]
    converge([*made, newcomer])
    assert_equal(one, newcomer)
    assert not "".join(map(note, [*made, newcomer]))
    assert newcomer.sql("SELECT sql FROM sqlite_schema WHERE name = 't'") == one.sql(
        "SELECT sql FROM sqlite_schema WHERE name = 't'"
    )


@pytest.mark.parametrize("tightened", [True, False])
def test_a_rebuild_by_migrate_defines_tables_of_newcomers(peers, tightened):
    strict, loose = REBUILT[0][0], BEFORE
    before, after = (loose, strict) if tightened else (strict, loose)
    one, two, three = made = peers(3, before)
    script = rebuild(after)
    assert one.replica.migrate(script, one.wall_ms) == ["rebuilds t: other nodes get its columns, not its constraints"]
    (two if tightened else one).shell("INSERT INTO t VALUES(4, NULL, 400);")
    converge(made)
    newcomer = peers(1)[-1]
    told = "CHECK (b < 100) " + ("on the mesh and not here" if tightened else "here alone")
    assert [note(peer).startswith(f"definitions differ: {told}; ") for peer in made] == [False, True, True, False]
    held = {peer.number for peer in made if peer.recorded("mycomesh_parked")}
    assert held == ({one.number, newcomer.number} if tightened else {two.number, three.number})
    two.sql("DELETE FROM t WHERE b > 100")
    for peer in (two, three):
        converge(made)
        peer.replica.migrate(script, peer.wall_ms)
    converge(made)
    for peer in made:
        assert_equal(one, peer)
        assert not note(peer)
        assert len(peer.sql("SELECT * FROM t")) == (2 if tightened else 3)
        assert not peer.recorded("mycomesh_parked")


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


def test_very_many_constraints_are_told_in_one_line(peers):
    one, two = made = peers(2)
    checks = " ".join(f"CHECK (b < {number} + {'1 + ' * 100} 1000)" for number in range(9))
    one.shell(rebuild(f"id INTEGER PRIMARY KEY, a, b {checks}"))
    converge(made)
    assert "and 5 more on the mesh and not here" in note(two)
    assert len(note(two)) < 600
    assert not note(one)


def columns_of(peer):
    return [(name, default, bool(not_null)) for _, name, _, not_null, default, _ in peer.sql("PRAGMA table_info(t)")]


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
def test_a_column_dropped_by_rebuild_refuses_no_insert(equals, dropped, back, rows, down):
    before = f"CREATE TABLE t(id INTEGER PRIMARY KEY, {dropped}, model NOT NULL)"
    made = one, _ = equals(2, f"CREATE TABLE p(id INTEGER PRIMARY KEY); {before}")
    for row in range(rows):
        one.shell(f"INSERT INTO p VALUES({row + 10}); INSERT INTO t VALUES({row}, {row + 10}, 'm');")
    converge(made)
    (at_rest if down else Peer.shell)(
        one,
        "BEGIN; CREATE TABLE r(id INTEGER PRIMARY KEY, model NOT NULL); INSERT INTO r SELECT id, model FROM t;"
        " DROP TABLE t; ALTER TABLE r RENAME TO t; COMMIT;",
    )
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
    assert not note(one) + note(newcomer)
    assert note(two).startswith("definitions differ: NOT NULL a here alone, CHECK (b < 100) on the mesh and not here")
    assert note(two) == note(three)


def test_changes_that_no_program_made_redefine_nothing(equals):
    one, two = made = equals(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a NOT NULL, b)")
    one.shell(rebuild("id INTEGER PRIMARY KEY, a, b"))
    converge(made)
    told = note(two)
    assert told.startswith("definitions differ: NOT NULL a here alone")
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
    assert note(two) == told
    assert not note(one)


def test_null_written_out_is_no_other_default(equals):
    one, two = made = equals(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)")
    one.shell(rebuild("id INTEGER PRIMARY KEY, a DEFAULT NULL, b DEFAULT (null /* none */)"))
    converge(made)
    assert not note(one) + note(two)
