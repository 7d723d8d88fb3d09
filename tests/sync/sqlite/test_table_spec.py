"""The cache of table specs: what a pass over the schema of a file with many tables reads of SQLite's catalogue."""

from __future__ import annotations

import contextlib

import apsw
import pytest

from mycomesh.sync.sqlite.table_spec import TABLES_READ_SINGLY_MAX, FileSchema, read_table

COUNT = 2 * TABLES_READ_SINGLY_MAX


@pytest.fixture
def db():
    made = apsw.Connection(":memory:")
    for number in range(COUNT):
        made.execute(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, v UNIQUE)")
    made.execute("CREATE TABLE mycomesh_changes_2(v)")
    made.execute("CREATE TRIGGER mycomesh_2_insert AFTER INSERT ON t0 BEGIN SELECT 1; END")
    made.execute('CREATE TRIGGER "mycomeshx" AFTER INSERT ON T1 BEGIN SELECT 1; END')
    yield made
    made.close()


def entries(schema, name):
    return sorted((kind, entry) for kind, entry, _ in schema.catalogue_entries(name))


def test_entries_are_those_of_each_table(db):
    schema = FileSchema(db)
    for number in reversed(range(COUNT)):
        expected = [("index", f"sqlite_autoindex_t{number}_1"), ("table", f"t{number}")]
        triggers = {0: [("trigger", "mycomesh_2_insert")], 1: [("trigger", "mycomeshx")]}
        assert entries(schema, f"T{number}") == expected + triggers.get(number, [])


def test_internal_tables_have_entries_among_many(db):
    schema = FileSchema(db)
    for number in range(COUNT):
        schema.catalogue_entries(f"t{number}")
    assert entries(schema, "mycomesh_changes_2") == [("table", "mycomesh_changes_2")]
    assert entries(schema, "none") == []


def test_only_users_triggers_count(db):
    schema = FileSchema(db)
    assert schema.tables_with_triggers() == {"t1"}
    db.execute("DROP TRIGGER mycomeshx")
    assert schema.tables_with_triggers() == frozenset()


def test_triggers_of_unreadable_names_are_found():
    db = apsw.Connection(":memory:")
    db.execute("PRAGMA encoding = 'UTF-8'")
    db.execute("CREATE TABLE t(v)")
    db.execute("CREATE TRIGGER mine AFTER INSERT ON t BEGIN SELECT 1; END")
    db.execute("PRAGMA writable_schema = ON").fetchall()
    db.execute("UPDATE sqlite_schema SET sql = CAST(CAST(sql AS BLOB) || x'2d2dff' AS TEXT) WHERE name = 'mine'")
    assert FileSchema(db).tables_with_triggers() == {"t"}
    db.close()


class Refusing:
    """A connection in which each compilation of one kind of statement finds the file locked, or the disk failing."""

    def __init__(self, db, start, error):
        self._db, self._start, self._error = db, start, error

    def execute(self, sql, *args, **options):
        if sql.startswith(self._start):
            raise self._error("of this moment")
        return self._db.execute(sql, *args, **options)

    def __getattr__(self, name):
        return getattr(self._db, name)


@pytest.mark.parametrize("error", [apsw.BusyError, apsw.IOError, apsw.FullError])
@pytest.mark.parametrize("start", ["EXPLAIN INSERT", "SELECT ("])
def test_file_errors_say_nothing_of_a_table(error, start):
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a DEFAULT 7, b); CREATE UNIQUE INDEX i ON t(coalesce(a, b))")
    assert read_table(db, "t").folded == "t"
    with pytest.raises(error):
        read_table(Refusing(db, start, error), "t")
    db.close()


def read_all(schema, *more):
    return {name: schema.catalogue_entries(name) for name in [*(f"t{number}" for number in range(COUNT)), *more]}


def test_a_table_of_the_node_has_no_others_read(db):
    schema, executed = FileSchema(db), []
    before = read_all(schema)
    db.set_exec_trace(lambda _cursor, sql, _bindings: executed.append(sql) or True)
    with schema.altering("late"):
        db.execute("CREATE TABLE late(v)")
    with schema.altering():
        db.execute("CREATE TABLE mycomesh_changes_3(v)")
    after = read_all(schema, "late")
    db.set_exec_trace(None)
    assert len([sql for sql in executed if "sqlite_schema" in sql]) == 1
    assert after.pop("late") == [("table", "late", "CREATE TABLE late(v)")]
    assert after == before


@pytest.mark.parametrize("first", [True, False])
def test_what_programs_changed_beside_it_is_read(db, first):
    schema = FileSchema(db)
    read_all(schema)
    changes = schema.changes()
    if first:
        db.execute("ALTER TABLE t3 ADD COLUMN w")
    with schema.altering("late"):
        db.execute("CREATE TABLE late(v)")
    if not first:
        db.execute("ALTER TABLE t3 ADD COLUMN w")
    assert read_table(db, "t3") == schema.spec("t3")
    assert [column.name for column in schema.spec("t3").columns] == ["id", "v", "w"]
    assert schema.catalogue_entries("late") == [("table", "late", "CREATE TABLE late(v)")]
    assert schema.changes() > changes


def test_a_block_that_fails_is_read_as_it_ended(db):
    schema = FileSchema(db)
    read_all(schema)
    with contextlib.suppress(apsw.SQLError), schema.altering("t4"):
        db.execute("CREATE TRIGGER mycomesh_4_insert AFTER INSERT ON t4 BEGIN SELECT 1; END")
        db.execute("CREATE TABLE t4(v)")
    assert ("trigger", "mycomesh_4_insert") in entries(schema, "t4")


def test_files_with_views_or_indexes_of_modules_have_extras(db):
    schema = FileSchema(db)
    assert schema.has_extras
    db.execute("DROP TRIGGER mycomeshx")
    assert not schema.has_extras
    assert schema.virtual_tables() == ()
    db.execute("CREATE VIRTUAL TABLE area USING rtree(id, low, high)")
    assert [table.name for table in schema.virtual_tables()] == ["area"]
    db.execute("DROP TABLE area")
    db.execute("CREATE VIEW seen AS SELECT 1")
    assert schema.has_extras
