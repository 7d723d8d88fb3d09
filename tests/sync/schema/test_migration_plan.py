"""Migrations: what one replica drops and renames, the others drop and rename, and nothing else is lost."""

from __future__ import annotations

import pytest

from mycomesh.sync.errors import MigrationError
from mycomesh.sync.events import CommitSeen
from mycomesh.sync.wire.bundle import Bundle
from tests.sync.exchanges import World
from tests.sync.migrations import T, migrate, note, started
from tests.sync.peers import assert_equal, converge
from tests.sync.shapes import SHAPES


def test_a_dropped_tables_name_may_be_used_again(migrating):
    one, two, three = started(migrating, T, 3)
    assert migrate(one, "DROP TABLE t") == ["drops t and its rows"]
    two.sql("INSERT INTO t VALUES(7, 1, 2, 3)")
    converge([one, two, three])
    assert all("t" not in peer.tables() for peer in (one, two, three))
    assert_equal(one, two)
    left = "SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_*_[0-9]*'"
    two.sql("CREATE TABLE t(another PRIMARY KEY); INSERT INTO t VALUES('row')")
    converge([one, two, three])
    assert_equal(one, two)
    assert_equal(three, two)
    assert one.sql("SELECT * FROM t") == [("row",)]
    assert one.sql(left) == two.sql(left)


def test_rows_that_migration_writes_arrive_with_what_it_changes(migrating):
    one, two = started(
        migrating, "CREATE TABLE p(id INTEGER PRIMARY KEY, first, last); INSERT INTO p VALUES(1, 'Ada', 'L')"
    )
    script = """
        BEGIN;
        ALTER TABLE p ADD COLUMN name TEXT;
        UPDATE p SET name = first || ' ' || last;
        ALTER TABLE p DROP COLUMN first;
        ALTER TABLE p DROP COLUMN last;
        COMMIT;
    """
    assert migrate(one, script) == ["drops p.first and its values", "drops p.last and its values"]
    converge([one, two])
    assert_equal(one, two)
    assert two.sql("SELECT * FROM p") == [(1, "Ada L")]


def test_a_twelve_step_rebuild_drops_a_unique_column(migrating):
    one, two = started(
        migrating, "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b, c DEFAULT 4); INSERT INTO t VALUES(1, 2, 3, 4)"
    )
    told = migrate(
        one,
        "CREATE TABLE n(id INTEGER PRIMARY KEY, b NOT NULL, c); INSERT INTO n SELECT id, b, c FROM t;"
        " DROP TABLE t; ALTER TABLE n RENAME TO t",
    )
    assert told == ["drops t.a and its values", "rebuilds t"]
    converge([one, two])
    assert one.sql("SELECT * FROM t") == [(1, 3, 4)]
    assert one.digests() == two.digests()
    assert_equal(one, two)
    assert not note(two)
    two.shell("INSERT INTO t VALUES(2, 5, 6);")
    newcomer = migrating(1)[-1]
    converge([one, two, newcomer])
    assert one.sql("SELECT * FROM t WHERE id = 2") == [(2, 5, 6)]
    assert_equal(one, two)
    assert_equal(one, newcomer)


def test_a_rebuilds_indexed_column_is_not_overwritten_by_others(migrating):
    one, two = started(migrating, T)
    two.sql("INSERT INTO t(id, a) VALUES(70, 'here'), (71, 'here too')")
    converge([one, two])
    migrate(
        one,
        "CREATE TABLE n(id INTEGER PRIMARY KEY, a, b2 INTEGER NOT NULL); INSERT INTO n SELECT id, a, id FROM t;"
        " DROP TABLE t; ALTER TABLE n RENAME TO t; CREATE UNIQUE INDEX u ON t(a, b2)",
    )
    parts = [part for bundle in one.drain() for part in Bundle.decode(bundle).sections]
    for facts in (True, False):  # definitions come first, rows when the receiver has looked at its own
        bundle = Bundle([part for part in parts if (part.table == "mycomesh_schema") is facts])
        two.take([bundle.encode()], one.node_id)
        two.wall_ms += 1_000
        two.drain()
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT count(*) FROM t WHERE b2 IS NOT id") == [(0,)]
    assert not one.recorded("mycomesh_conflicts") + two.recorded("mycomesh_conflicts")


def test_two_nodes_that_drop_all_columns_end_equal(migrating):
    one, two, three = started(
        migrating, "CREATE TABLE t(a, b); INSERT INTO t VALUES('a1', 'b1'); " + T.replace(" t", " u"), 3
    )
    migrate(one, "ALTER TABLE t DROP COLUMN a")
    migrate(two, "ALTER TABLE t DROP COLUMN b")
    converge([one, two, three])
    assert one.digests() == two.digests() == three.digests()
    for peer in (one, two, three):
        assert note(peer) == "not replicated: the mesh has dropped all of its columns"
        peer.sql(f"INSERT INTO u(a) VALUES('goes on {peer.number}')")
        peer.drain()
    converge([one, two, three])
    assert one.sql("SELECT a FROM u ORDER BY a") == three.sql("SELECT a FROM u ORDER BY a")
    three.close()
    three.open()
    assert note(three) == "not replicated: the mesh has dropped all of its columns"


def test_a_reference_keeps_a_dropped_column_and_reports_it(migrating):
    one, two = started(migrating, T)
    two.sql("CREATE VIEW mine AS SELECT b FROM t, mycomesh_meta")  # so it stays at home
    migrate(one, "ALTER TABLE t DROP COLUMN b")
    converge([one, two])
    assert note(two).startswith("column 'b' is dropped on the mesh and stays in this file: error in view mine")
    two.shell("UPDATE t SET b = 'private', a = 'told' WHERE id = 1;")
    converge([one, two])
    assert one.sql("SELECT a FROM t WHERE id = 1") == [("told",)]
    assert one.digests() == two.digests()
    two.sql("DROP VIEW mine")
    one.sql("CREATE TABLE another(x)")
    converge([one, two])
    assert_equal(one, two)
    assert not note(two)


@pytest.mark.parametrize(
    "made", ["VIEW mine AS SELECT b FROM t", "TRIGGER mine AFTER DELETE ON t BEGIN SELECT old.b; END"]
)
def test_views_and_triggers_that_travel_leave_with_their_column(migrating, made):
    one, two = started(migrating, T)
    two.sql(f"CREATE {made}")
    migrate(one, "ALTER TABLE t DROP COLUMN b")
    converge([one, two])
    assert not note(two)
    assert_equal(one, two)
    assert not two.sql("SELECT 1 FROM sqlite_schema WHERE name = 'mine'")


def test_indexes_follow_their_renamed_and_dropped_columns(migrating):
    one, two = started(migrating, T + "; CREATE UNIQUE INDEX ua ON t(a); CREATE INDEX ib ON t(b)")
    migrate(
        one, "DROP INDEX ib; ALTER TABLE t DROP COLUMN b; ALTER TABLE t RENAME COLUMN a TO z; ALTER TABLE t RENAME TO w"
    )
    converge([one, two])
    assert_equal(one, two)
    indexes = "SELECT i.name, \"unique\", c.name FROM pragma_index_list('w') i, pragma_index_info(i.name) c ORDER BY 1, c.seqno"
    newcomer = migrating(1)[-1]
    converge([one, two, newcomer])
    assert one.sql(indexes) == [("ua", 1, "z")]
    assert one.sql(indexes) == two.sql(indexes) == newcomer.sql(indexes)
    one.sql("INSERT INTO w VALUES(5, 'same', 'one')")
    two.wall_ms += 1_000
    two.sql("INSERT INTO w VALUES(6, 'same', 'two')")
    converge([one, two, newcomer])
    assert_equal(one, two)
    assert one.sql("SELECT id FROM w WHERE z = 'same'") == [(5,)]
    one.sql("CREATE INDEX ib ON w(c)")
    converge([one, two, newcomer])
    assert one.sql(indexes) == newcomer.sql(indexes)


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_every_shape_loses_and_renames_columns_under_way(migrating, shape):
    rows = "; ".join(shape.insert(number, f"'v{number}'", str(number)) for number in range(3))
    one, two = started(
        migrating, f"{shape.ddl}; ALTER TABLE {shape.t} ADD COLUMN spare ANY; {rows}; UPDATE {shape.t} SET spare = u"
    )
    two.sql(
        f"UPDATE {shape.t} SET v = 'later', spare = 'x' WHERE {shape.where(1)}; DELETE FROM {shape.t} WHERE {shape.where(2)}"
    )
    v, k = ("V" if shape.name == "upper" else "v"), shape.key[0]
    other = k if "rowid" in k else "other"  # SQLite renames no column of that name
    renames = f"ALTER TABLE {shape.t} RENAME COLUMN {v} TO value; ALTER TABLE {shape.t} RENAME TO moved"
    if other != k:
        renames += f"; ALTER TABLE moved RENAME COLUMN {k} TO {other}"
    migrate(one, f"ALTER TABLE {shape.t} DROP COLUMN spare; {renames}")
    converge([one, two])
    assert_equal(one, two)
    assert len(one.sql("SELECT * FROM moved")) == 2
    one.sql("UPDATE moved SET value = 'last'")
    two.sql(
        f"INSERT INTO moved({other}{''.join(f', {name}' for name in shape.key[1:])}, u) VALUES({shape.keys[3]}, 'new')"
    )
    converge([one, two])
    assert_equal(one, two)
    assert one.scrub().found == two.scrub().found == 0


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("ALTER TABLE t DROP COLUMN none", "line 1: no such column"),
        ("ALTER TABLE t DROP COLUMN b;\n\n  DROP TABLE missing;", "line 3: no such table"),
        ("ALTER TABLE t DROP COLUMN b; INSERT INTO t(id) VALUES(1)", "UNIQUE constraint failed"),
        ("ATTACH 'other.db' AS o", "line 1: ATTACH is not allowed in a migration"),
        ("PRAGMA legacy_alter_table = ON", "line 1: PRAGMA legacy_alter_table is not allowed"),
        ("PRAGMA journal_mode = DELETE", "line 1: PRAGMA journal_mode is not allowed"),
        ("DROP TABLE t; ROLLBACK", "line 1: ROLLBACK is not allowed"),
        ("DELETE FROM mycomesh_changes_2", "line 1: no such table: mycomesh_changes_2"),
        (
            "-- a; b\n/* ; */ CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END; DROP TABLE mycomesh_meta",
            "line 2: no such table",
        ),
        ("CREATE TABLE n(a PRIMARY KEY); DROP TABLE t; ALTER TABLE n RENAME TO t", "its primary key would be another"),
        ("SELEC 1", 'line 1: near "SELEC": syntax error'),
    ],
)
def test_an_impossible_migration_is_one_line_without_changes(migrating, script, error):
    one, two = started(migrating, T)
    before, digests = one.tables(), one.digests()
    schema = one.sql("SELECT name, sql FROM sqlite_schema ORDER BY 1, 2")
    with pytest.raises(MigrationError) as refused:
        migrate(one, script)
    assert error in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (one.tables(), one.digests()) == (before, digests)
    assert one.sql("SELECT name, sql FROM sqlite_schema ORDER BY 1, 2") == schema
    one.shell("UPDATE t SET a = 'goes on' WHERE id = 1;")
    converge([one, two])
    assert_equal(one, two)


def test_a_dry_run_tells_and_changes_nothing(migrating):
    one, _ = started(migrating, T)
    before = one.tables()
    told = one.replica.migrate("ALTER TABLE t DROP COLUMN b; DROP TABLE t", one.wall_ms, dry_run=True)
    assert told == ["drops t and its rows"]
    assert not one.replica.outbox.has_unstamped()
    assert one.tables() == before


def test_a_split_with_migrations_on_both_sides_heals_live(tmp_path):
    world = World.made(tmp_path, 4)
    one, two, three, four = world.nodes
    links = [world.link(one, two), world.link(two, three), world.link(three, four)]
    world.write(one, T)
    world.run(3_000)
    world.cut(links[1])
    one.peer.replica.migrate("ALTER TABLE t DROP COLUMN c; ALTER TABLE t RENAME COLUMN a TO name", one.peer.wall_ms)
    world.do(one, CommitSeen())
    four.peer.replica.migrate("ALTER TABLE t RENAME TO people; CREATE TABLE t(more)", four.peer.wall_ms)
    world.do(four, CommitSeen())
    world.run(3_000)
    assert_equal(one.peer, two.peer)
    assert_equal(three.peer, four.peer)
    two.peer.shell("UPDATE t SET name = 'two' WHERE id = 1;")
    three.peer.shell(
        "UPDATE people SET c = 'three', b = 'b3' WHERE id = 1; INSERT INTO people VALUES(3, 'a3', 'b3', 'c3');"
    )
    for node in (two, three):
        world.do(node, CommitSeen())
    world.run(3_000)
    world.link(two, three)
    world.run(60_000)
    for node in (two, three, four):
        assert_equal(one.peer, node.peer)
        assert not node.dropped
    assert four.sql("SELECT id, name, b FROM people ORDER BY id") == [
        (1, "two", "b3"),
        (2, "a2", "b2"),
        (3, "a3", "b3"),
    ]
    assert not [event for node in world.nodes for event in node.noticed() if event.startswith("repair")]
    world.close()


def test_migration_writes_table_with_full_text_index(migrating):
    (one,) = started(migrating, "CREATE TABLE t(id INTEGER PRIMARY KEY, name); INSERT INTO t VALUES(1, 'alpha')", 1)
    one.shell(
        "CREATE VIRTUAL TABLE words USING fts5(name); CREATE TRIGGER kept AFTER UPDATE ON t BEGIN"
        " INSERT INTO words(rowid, name) VALUES(new.id, new.name); END"
    )
    migrate(one, "UPDATE t SET name = 'omega'")
    assert one.shell("SELECT rowid FROM words WHERE words MATCH 'omega'") == b"1\n"
