"""Generated columns: each is computed everywhere, the latest definition applies everywhere, and no row depends on any."""

from __future__ import annotations

import pytest

from mycomesh.sync.schema.facts import SCHEMA_TABLE
from tests.sync.peers import Peer, assert_equal, converge

T = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'a1', 1), (2, 'a2', 2)"


@pytest.fixture
def peers(equals):
    """Make so many replicas, equal, with the table `t`."""
    return lambda count, ddl=T: equals(count, ddl)


def shown(peer, columns="g", table="t"):
    return peer.sql(f"SELECT {columns} FROM {table} ORDER BY id")


def generated(peer, table="t"):
    """Return (name, whether it is stored) of the generated columns of a table, as any client sees them."""
    return peer.sql("SELECT name, hidden = 3 FROM pragma_table_xinfo(?) WHERE hidden IN (2, 3) ORDER BY name", table)


def note(peer, table="t"):
    return next((status.note for status in peer.replica.status().tables if status.name == table), "")


def facts(peer):
    return peer.sql(f"SELECT name, sql FROM {SCHEMA_TABLE} WHERE kind = 'generated' ORDER BY name")


def assert_all_equal(made):
    for peer in made[1:]:
        assert_equal(made[0], peer)
    assert all(peer.scrub().found == 0 for peer in made)
    assert not any(note(peer) for peer in made)


def test_of_two_definitions_the_later_stands_everywhere(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN g AS (a || 'one');")
    two.wall_ms += 1_000
    two.shell("ALTER TABLE t ADD COLUMN g AS (a || 'two'); UPDATE t SET a = 'x' WHERE id = 1;")
    three.shell("INSERT INTO t VALUES(3, 'a3', 3);")
    converge(made)
    assert_all_equal(made)
    assert shown(one) == [("xtwo",), ("a2two",), ("a3two",)]
    one.wall_ms += 5_000
    one.shell("ALTER TABLE t DROP COLUMN g; ALTER TABLE t ADD COLUMN g AS (b + 1);")
    converge(made)
    assert_all_equal(made)
    assert shown(three) == [(2,), (3,), (4,)]
    assert facts(three) == [('generated:["t", "g"]', "g AS (b + 1)")]


def test_a_dropped_one_goes_everywhere_whoever_made_it(peers):
    one, two, three = made = peers(3, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, g AS (a) STORED, h AS (g || b))")
    two.sql("INSERT INTO t VALUES(1, 'a', 'b')")
    two.shell("ALTER TABLE t DROP COLUMN h;")
    converge(made)
    assert_all_equal(made)
    assert generated(one) == generated(three) == [("g", 1)]
    three.replica.migrate("ALTER TABLE t DROP COLUMN g", three.wall_ms)
    newcomer = peers(1)[-1]
    assert_all_equal(made)
    assert generated(one) == generated(newcomer) == []
    one.shell("ALTER TABLE t ADD COLUMN g AS (b);")
    converge(made)
    assert_all_equal(made)
    assert shown(newcomer) == [("b",)]


def test_existing_generated_columns_need_no_facts_and_stay_stored(peers):
    one, two = made = peers(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, g AS (a || 1) STORED, h UNIQUE AS (a || 2))")
    one.shell("ALTER TABLE t ADD COLUMN n; INSERT INTO t(id, a) VALUES(1, 'x');")
    converge(made)
    assert_all_equal(made)
    assert generated(two) == [("g", 1), ("h", 0)]
    assert facts(two) == []


def test_a_rebuilds_stored_column_is_computed_on_read_elsewhere(peers):
    one, two, three = made = peers(3)
    one.shell(
        "BEGIN; CREATE TABLE r(id INTEGER PRIMARY KEY, a, g AS (a || b) STORED NOT NULL, b); INSERT INTO r SELECT * FROM t;"
        " DROP TABLE t; ALTER TABLE r RENAME TO t; COMMIT;"
    )
    two.shell("INSERT INTO t VALUES(3, 'a3', 3);")
    converge(made)
    newcomer = peers(1)[-1]
    assert_all_equal(made)
    assert shown(newcomer) == [("a11",), ("a22",), ("a33",)]
    assert generated(one) == [("g", 1)]
    assert generated(two) == generated(three) == generated(newcomer) == [("g", 0)]
    one.shell("ALTER TABLE t ADD COLUMN n;")
    converge(made)
    assert generated(peers(1)[-1]) == [("g", 1)]
    assert_all_equal(made)


def test_a_stored_column_replaces_a_generated_namesake(peers):
    one, two, _ = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN n AS (a || b);")
    two.shell("ALTER TABLE t ADD COLUMN n DEFAULT 7; UPDATE t SET n = 'written' WHERE id = 2;")
    converge(made)
    assert_all_equal(made)
    for peer in made:
        assert shown(peer, "n") == [(7,), ("written",)]
        assert generated(peer) == []


@pytest.mark.parametrize("how", ["hand", "migrate"])
def test_generated_column_that_becomes_stored_one_keeps_its_values(peers, how):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN g AS (a || b);")
    converge(made)
    script = (
        "CREATE TABLE r(id INTEGER PRIMARY KEY, a, b, g); INSERT INTO r SELECT id, a, b, g FROM t; DROP TABLE t;"
        " ALTER TABLE r RENAME TO t;"
    )
    if how == "hand":
        two.shell(f"BEGIN; {script} UPDATE t SET g = 'own' WHERE id = 1; COMMIT;")
    else:
        two.replica.migrate(f"{script} UPDATE t SET g = 'own' WHERE id = 1;", two.wall_ms)
    three.shell("UPDATE t SET b = 9 WHERE id = 2;")
    converge(made)
    assert_all_equal(made)
    assert shown(three) == [("own",), ("a22",)]
    assert generated(one) == []


def test_stored_column_that_migration_makes_generated_one(peers):
    one, two, three = made = peers(3)
    one.replica.migrate("ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b AS (a || '!')", one.wall_ms)
    two.shell("UPDATE t SET b = 'late' WHERE id = 1; INSERT INTO t VALUES(3, 'a3', 'late');")
    converge(made)
    newcomer = peers(1)[-1]
    assert_all_equal(made)
    assert shown(three, "b") == shown(newcomer, "b") == [("a1!",), ("a2!",), ("a3!",)]


def test_renamed_columns_and_tables_are_renamed_in_expressions(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t RENAME COLUMN a TO first;")
    two.replica.migrate("ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME COLUMN b TO second", two.wall_ms)
    three.shell("ALTER TABLE t ADD COLUMN g AS (a || b);")
    converge(made)
    one.shell("ALTER TABLE u ADD COLUMN h AS (g || second);")
    converge(made)
    newcomer = peers(1)[-1]
    assert_all_equal(made)
    assert shown(newcomer, "first, second, g, h", "u") == [("a1", 1, "a11", "a111"), ("a2", 2, "a22", "a222")]
    known = facts(three)
    two.shell("ALTER TABLE u RENAME COLUMN first TO [the first];")
    converge(made)
    assert_all_equal(made)
    assert facts(one) == known


def test_a_generated_columns_unique_index_is_rebuilt_everywhere(peers):
    one, two, three = made = peers(3)
    one.shell(
        "ALTER TABLE t ADD COLUMN g AS (a || b); CREATE UNIQUE INDEX i ON t(g); CREATE INDEX j ON t(lower(g)) WHERE g > 'a';"
    )
    converge(made)
    two.replica.migrate(
        "DROP INDEX i; DROP INDEX j; ALTER TABLE t DROP COLUMN g; ALTER TABLE t ADD COLUMN g AS (b || a);"
        " CREATE UNIQUE INDEX i ON t(g); CREATE INDEX j ON t(lower(g)) WHERE g > 'a'",
        two.wall_ms,
    )
    converge(made)
    assert_all_equal(made)
    assert all(peer.sql("SELECT name FROM pragma_index_list('t') ORDER BY 1") == [("i",), ("j",)] for peer in made)
    one.sql("INSERT INTO t VALUES(8, 'x', 'same')")
    three.wall_ms += 1_000
    three.sql("INSERT INTO t VALUES(9, 'x', 'same')")
    converge(made)
    assert_all_equal(made)
    assert shown(three, "id") == [(1,), (2,), (8,)]
    three.shell("REPLACE INTO t VALUES(7, 'a1', 1);")
    converge(made)
    assert_all_equal(made)
    assert shown(one, "id") == [(2,), (7,), (8,)]


def test_a_changed_definition_is_followed_beneath_a_view(peers):
    one, two = made = peers(2)
    one.shell("ALTER TABLE t ADD COLUMN g AS (a);")
    converge(made)
    two.sql("CREATE VIEW mine AS SELECT g FROM t")
    one.shell("ALTER TABLE t DROP COLUMN g; ALTER TABLE t ADD COLUMN g AS (b);")
    converge(made)
    assert one.digests() == two.digests()
    assert two.sql("SELECT g FROM mine ORDER BY g") == shown(one) == [(1,), (2,)]
    assert not note(one)
    assert not note(two)


def test_a_definition_that_rows_refuse_parks_them_everywhere(peers):
    one, two = made = peers(2)
    two.sql("INSERT INTO t VALUES(3, NULL, 3)")
    one.shell("ALTER TABLE t ADD COLUMN g NOT NULL AS (a);")
    converge(made)
    assert one.digests() == two.digests()
    assert not note(two)
    for peer in made:
        (parked,) = peer.recorded("mycomesh_parked")
        assert "NOT NULL constraint failed" in str(parked) or "the table was rebuilt" in str(parked)
    two.shell("INSERT INTO t(id, a, b) VALUES(3, 'a3', 3);")
    converge(made)
    assert shown(one) == shown(two) == [("a1",), ("a2",), ("a3",)]
    assert_all_equal(made)
    assert not one.recorded("mycomesh_parked")
    assert not two.recorded("mycomesh_parked")


@pytest.mark.parametrize(
    "text",
    ["g AS (a); DROP TABLE t", "g AS (a)); DROP TABLE t; --", "g AS (a), h", "g", "g DEFAULT 1", "h AS (a)",
     "g AS ((SELECT 1))", "g AS (nowhere)", "g AS (a) PRIMARY KEY", "g AS (a", "g AS (a) --", "g AS (a) /*", "g AS (a)\0",
     "g AS (random())", "g AS (a); PRAGMA user_version = 9", b"g AS (a)", 5],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("column", ["g", "a", "mycomesh_g"])
def test_a_text_without_the_named_generated_column_is_ignored(peers, text, column):
    one, two = made = peers(2)
    before, schema = two.tables(), two.sql("SELECT sql FROM sqlite_schema WHERE name = 't'")
    liar = one.replica
    with liar.store.transaction():
        liar.registry.facts.write(f'generated:["t","{column}"]', "generated", text)
    two.take(one.drain(), one.node_id)
    assert two.tables() == before
    assert two.sql("SELECT sql FROM sqlite_schema WHERE name = 't'") == schema
    assert two.sql("PRAGMA user_version") == [(0,)]
    two.shell("UPDATE t SET a = 'goes on' WHERE id = 1;")
    converge(made)
    assert one.digests() == two.digests()
    assert one.sql("SELECT a FROM t WHERE id = 1") == [("goes on",)]


def test_a_fact_for_an_internal_table_is_ignored(peers):
    one, two = peers(2)
    ours = "SELECT name, sql FROM sqlite_schema WHERE name LIKE 'mycomesh%' ORDER BY 1"
    before = two.sql(ours)
    with one.replica.store.transaction():
        one.replica.registry.facts.write('generated:["mycomesh_schema","g"]', "generated", "g AS (sql)")
    two.take(one.drain(), one.node_id)
    assert two.sql(ours) == before


def test_it_outlives_another_definition_of_its_table(peers):
    one, two, _ = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN n; ALTER TABLE t ADD COLUMN g AS (a || b);")
    two.wall_ms += 1_000
    two.shell("ALTER TABLE t ADD COLUMN m;")
    converge(made)
    assert_all_equal(made)
    assert shown(two) == [("a11",), ("a22",)]


def test_change_of_it_outlives_another_definition_of_its_table(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN n; ALTER TABLE t ADD COLUMN g AS (a);")
    converge(made)
    two.replica.migrate("ALTER TABLE t DROP COLUMN g; ALTER TABLE t ADD COLUMN g AS (b)", two.wall_ms)
    three.wall_ms += 1_000
    three.shell("ALTER TABLE t ADD COLUMN m;")
    converge(made)
    assert_all_equal(made)
    assert shown(one) == shown(two) == [(1,), (2,)]


def test_what_it_is_computed_of_may_come_late(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN h AS (a);")
    converge(made)
    two.wall_ms += 1_000
    two.shell(
        "ALTER TABLE t DROP COLUMN h; ALTER TABLE t ADD COLUMN c DEFAULT 8; ALTER TABLE t ADD COLUMN h AS (c + b);"
    )
    three.wall_ms += 2_000
    three.shell("ALTER TABLE t ADD COLUMN d;")
    converge(made)
    assert_all_equal(made)
    assert shown(two, "h") == [(9,), (10,)]


def test_columns_computed_of_a_dropped_one_leave_and_return(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN g AS (a); ALTER TABLE t ADD COLUMN h AS (b);")
    converge(made)
    one.shell("ALTER TABLE t DROP COLUMN g;")
    two.wall_ms += 1_000
    two.shell("ALTER TABLE t DROP COLUMN h; ALTER TABLE t ADD COLUMN h AS (g || '!');")
    converge(made)
    assert_all_equal(made)
    assert generated(three) == []
    three.wall_ms += 5_000
    three.shell("ALTER TABLE t ADD COLUMN g AS (b);")
    converge(made)
    assert_all_equal(made)
    assert shown(three, "g, h") == [(1, "1!"), (2, "2!")]


def test_columns_computed_of_a_dropped_one_leave_despite_definitions(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN h AS (b); ALTER TABLE t ADD COLUMN i AS (a);")
    converge(made)
    one.shell("ALTER TABLE t DROP COLUMN h;")
    two.wall_ms += 1_000
    two.shell("ALTER TABLE t DROP COLUMN i; ALTER TABLE t ADD COLUMN i AS (upper(h)); ALTER TABLE t ADD COLUMN m;")
    converge(made)
    assert_all_equal(made)
    assert generated(three) == generated(peers(1)[-1]) == []


def test_what_is_computed_of_changed_one_is_computed_anew(peers):
    one, two, _ = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN g AS (a); ALTER TABLE t ADD COLUMN h AS (g || '!'); CREATE INDEX i ON t(h);")
    converge(made)
    two.shell(
        "DROP INDEX i; ALTER TABLE t DROP COLUMN h; ALTER TABLE t DROP COLUMN g; ALTER TABLE t ADD COLUMN g AS (b);"
        " ALTER TABLE t ADD COLUMN h AS (g || '!'); CREATE INDEX i ON t(h);"
    )
    converge(made)
    assert_all_equal(made)
    assert shown(one, "h") == [("1!",), ("2!",)]
    assert one.shell("PRAGMA integrity_check; SELECT id FROM t INDEXED BY i WHERE h = '2!';") == b"ok\n2\n"


def test_tables_older_than_the_mesh_end_with_one_definition(tmp_path):
    one, two, three = made = [Peer(tmp_path / f"{number}.db", number) for number in range(3)]
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, g AS (a), h AS (b)); INSERT INTO t VALUES(1, 'a1', 1)")
    two.wall_ms += 1_000
    two.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, g AS (b)); INSERT INTO t VALUES(2, 'a2', 2)")
    for peer in (one, two):
        peer.drain()
    converge(made)
    assert_all_equal(made)
    assert shown(three) == [(1,), (2,)]
    assert shown(two, "h") == [(1,), (2,)]
    for peer in made:
        peer.close()


def test_an_older_versions_file_keeps_and_follows_new_facts(peers):
    one, two, three = made = peers(3)
    one.shell("ALTER TABLE t ADD COLUMN g AS (a); ALTER TABLE t ADD COLUMN h AS (b);")
    converge(made)
    three.shell("ALTER TABLE t DROP COLUMN h;")
    converge(made)
    two.close()
    two.shell("DELETE FROM mycomesh_meta WHERE name GLOB 'generated/*'; ALTER TABLE t DROP COLUMN g;")
    two.open()
    assert shown(two) == [("a1",), ("a2",)]
    converge(made)
    assert_all_equal(made)


def test_a_fact_of_an_unknown_kind_is_passed_on(peers):
    one, two, three = peers(3)
    with one.replica.store.transaction():
        one.replica.registry.facts.write("later:t", "later", "what only a later version knows")
    converge([one, two])
    converge([two, three])
    kept = "SELECT sql FROM mycomesh_schema WHERE kind = 'later'"
    assert three.sql(kept) == one.sql(kept) == [("what only a later version knows",)]
