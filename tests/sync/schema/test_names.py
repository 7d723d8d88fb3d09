"""Names of tables and columns change on every replica, and two that change at once end the same; older writes still arrive."""

from __future__ import annotations

import pytest

from tests.sync.migrations import T, migrate, note, started
from tests.sync.peers import assert_equal, converge


def test_renamed_columns_accept_writes_under_the_old_name(migrating):
    one, two = started(migrating, T)
    told = migrate(
        one, "ALTER TABLE t RENAME COLUMN a TO b2; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME b2 TO b"
    )
    assert told == ["renames t.a to b", "renames t.b to a"]
    two.sql("UPDATE t SET a = 'was a' WHERE id = 1")
    one.shell("UPDATE t SET a = 'is a' WHERE id = 2;")
    converge([one, two])
    assert_equal(one, two)
    assert two.sql("SELECT id, a, b, c FROM t ORDER BY id") == [(1, "b1", "was a", "c1"), (2, "is a", "a2", "c2")]
    newcomer = migrating(1)[-1]
    converge([one, two, newcomer])
    assert_equal(two, newcomer)
    for peer in (one, two, newcomer):
        peer.close()
        peer.open()
    newcomer.shell("UPDATE t SET b = 'after' WHERE id = 1; INSERT INTO t VALUES(9, 1, 2, 3)")
    converge([one, two, newcomer])
    assert_equal(one, newcomer)
    assert_equal(one, two)
    assert all(peer.scrub().found == 0 for peer in (one, two, newcomer))


def test_a_renamed_table_continues_and_frees_its_name(migrating):
    one, two = started(migrating, T)
    assert migrate(one, "ALTER TABLE t RENAME TO archive; CREATE TABLE t(x)") == ["creates t", "renames t to archive"]
    one.shell("INSERT INTO t VALUES('new');")
    two.sql("UPDATE t SET a = 'meanwhile' WHERE id = 1")
    converge([one, two])
    assert_equal(one, two)
    assert two.sql("SELECT a FROM archive WHERE id = 1") == [("meanwhile",)]
    assert two.sql("SELECT x FROM t") == [("new",)]
    two.shell("DELETE FROM archive WHERE id = 2; INSERT INTO t VALUES('more')")
    converge([one, two])
    assert_equal(one, two)
    assert len(one.sql("SELECT * FROM t")) == 2
    newcomer = migrating(1)[-1]
    converge([one, two, newcomer])
    assert_equal(one, newcomer)


def test_two_tables_trade_names(migrating):
    one, two = started(migrating, T + "; CREATE TABLE u(k TEXT PRIMARY KEY, v); INSERT INTO u VALUES('k', 'v')")
    migrate(one, "ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u;")
    converge([one, two])
    assert_equal(one, two)
    assert two.sql("SELECT k, v FROM t") == [("k", "v")]
    two.shell("UPDATE u SET a = 'traded' WHERE id = 1;")
    converge([one, two])
    assert one.sql("SELECT a FROM u WHERE id = 1") == [("traded",)]


def test_of_two_concurrent_names_the_later_applies(migrating):
    one, two = started(migrating, T)
    two.wall_ms += 10_000
    migrate(one, "ALTER TABLE t RENAME TO x; ALTER TABLE x RENAME COLUMN a TO one")
    migrate(two, "ALTER TABLE t RENAME TO y; ALTER TABLE y RENAME COLUMN a TO two; ALTER TABLE y DROP COLUMN b")
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT id, two, c FROM y WHERE id = 1") == [(1, "a1", "c1")]


def test_two_things_given_one_name_end_equal_everywhere(migrating):
    one, two, three = started(migrating, T + "; CREATE TABLE u(x); INSERT INTO u VALUES('u')", 3)
    migrate(one, "ALTER TABLE t RENAME TO same; ALTER TABLE same RENAME COLUMN a TO z")
    migrate(two, "ALTER TABLE u RENAME TO same; ALTER TABLE t RENAME COLUMN b TO z")
    converge([one, two, three])
    assert_equal(one, two)
    assert_equal(one, three)
    assert sorted(one.tables()) == ["same", "u"]
    assert one.sql("SELECT z, b FROM same WHERE id = 1") == [("a1", "b1")]


def test_counter_policy_and_conflict_follow_their_names(migrating):
    one, two = started(migrating, "CREATE TABLE s(id INTEGER PRIMARY KEY, n INT, w); INSERT INTO s VALUES(1, 10, 'w')")
    one.replica.decisions.declare_counter("s", "n")
    converge([one, two])
    migrate(
        one,
        "ALTER TABLE s RENAME TO stock; ALTER TABLE stock RENAME COLUMN n TO amount; ALTER TABLE stock DROP COLUMN w",
    )
    one.sql("UPDATE stock SET amount = amount - 1")
    two.sql("UPDATE s SET n = n - 2")
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT amount FROM stock") == [(7,)]
    two.replica.decisions.decide_policy("stock", "keep-both")
    converge([one, two])
    assert one.replica.decisions.policy("stock") == "keep-both"
    migrate(two, "ALTER TABLE stock DROP COLUMN amount; ALTER TABLE stock ADD COLUMN amount INT DEFAULT 3")
    one.sql("UPDATE stock SET amount = amount - 1")
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT amount FROM stock") == [(3,)]


@pytest.mark.parametrize("name", ["Drones", "drones", "DRONES"])
def test_names_with_capital_letters_migrate(migrating, name):
    one, two = started(migrating, "CREATE TABLE Drones(Id PRIMARY KEY, Altitude)")
    one.sql("INSERT INTO Drones VALUES(1, 500)")
    migrate(one, f"ALTER TABLE {name} RENAME COLUMN altitude TO Height; ALTER TABLE {name} ADD COLUMN Speed")
    converge([one, two])
    assert two.sql("SELECT Id, Height, Speed FROM Drones") == [(1, 500, None)]
    assert two.sql("SELECT name FROM sqlite_schema WHERE type = 'table' AND lower(name) = 'drones'") == [("Drones",)]
    assert_equal(one, two)


def test_names_that_look_like_sql_are_names(migrating):
    one, two = started(migrating, T)
    odd = 'x"; DROP TABLE t; --'
    quoted = '"' + odd.replace('"', '""') + '"'
    one.sql(f"""CREATE TABLE {quoted}({quoted} PRIMARY KEY, "a]b", "'), (1")""")
    one.sql(f"INSERT INTO {quoted} VALUES('k', 1, 2)")
    converge([one, two])
    assert two.sql(f"SELECT * FROM {quoted}") == [("k", 1, 2)]
    two.sql(f"UPDATE {quoted} SET {quoted} = 'l'")
    migrate(two, f"ALTER TABLE {quoted} RENAME COLUMN {quoted} TO [;--]")
    converge([one, two])
    assert one.sql(f"SELECT [;--] FROM {quoted}") == [("l",)]
    assert_equal(one, two)


def test_tables_that_cannot_trade_names_trade_them_later(migrating):
    one, two = started(migrating, T + "; CREATE TABLE u(x)")
    two.sql("CREATE VIEW broken AS SELECT x FROM missing")
    migrate(one, "ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u")
    converge([one, two])
    assert one.digests() == two.digests()
    assert two.sql("SELECT a FROM t WHERE id = 1") == [("a1",)]
    assert all(note(two, name).startswith("keeps its name here (t is u, u is t on the mesh)") for name in ("t", "u"))
    two.sql("DROP VIEW broken")
    one.sql("CREATE TABLE another(x)")
    converge([one, two])
    assert_equal(one, two)
    assert two.sql("SELECT a FROM u WHERE id = 1") == [("a1",)]
    assert not note(two, "t") + note(two, "u")
