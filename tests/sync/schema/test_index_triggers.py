"""Indexes of words and of boxes that a user's triggers keep: they hold what other nodes write, and no merge fails of them."""

from __future__ import annotations

import re

import pytest

from mycomesh.sync.errors import MigrationError
from tests.sync.peers import assert_equal, catch_up, converge

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, more TEXT); INSERT INTO t VALUES(1, 'alpha', 'x'), (2, 'beta', 'y');"
FTS5 = """
CREATE VIRTUAL TABLE t_fts USING fts5(name, content='t', content_rowid='id');
INSERT INTO t_fts(t_fts) VALUES('rebuild');
CREATE TRIGGER t_ai AFTER INSERT ON t BEGIN INSERT INTO t_fts(rowid, name) VALUES(new.id, new.name); END;
CREATE TRIGGER t_ad AFTER DELETE ON t BEGIN
  INSERT INTO t_fts(t_fts, rowid, name) VALUES('delete', old.id, old.name); END;
CREATE TRIGGER t_au AFTER UPDATE ON t BEGIN
  INSERT INTO t_fts(t_fts, rowid, name) VALUES('delete', old.id, old.name);
  INSERT INTO t_fts(rowid, name) VALUES(new.id, new.name); END;
"""
SQLITE_UTILS = """
CREATE VIRTUAL TABLE [t_fts] USING FTS5 ([name], content=[t]);
INSERT INTO [t_fts] (rowid, [name]) SELECT rowid, [name] FROM [t];
CREATE TRIGGER [t_ai] AFTER INSERT ON [t] BEGIN
  INSERT INTO [t_fts] (rowid, [name]) VALUES (new.rowid, new.[name]);
END;
CREATE TRIGGER [t_ad] AFTER DELETE ON [t] BEGIN
  INSERT INTO [t_fts] ([t_fts], rowid, [name]) VALUES('delete', old.rowid, old.[name]);
END;
CREATE TRIGGER [t_au] AFTER UPDATE ON [t] BEGIN
  INSERT INTO [t_fts] ([t_fts], rowid, [name]) VALUES('delete', old.rowid, old.[name]);
  INSERT INTO [t_fts] (rowid, [name]) VALUES (new.rowid, new.[name]);
END;
"""
FTS4 = """
CREATE VIRTUAL TABLE t_fts USING fts4(name, content='t');
INSERT INTO t_fts(t_fts) VALUES('rebuild');
CREATE TRIGGER t_bu BEFORE UPDATE ON t BEGIN DELETE FROM t_fts WHERE docid = old.id; END;
CREATE TRIGGER t_bd BEFORE DELETE ON t BEGIN DELETE FROM t_fts WHERE docid = old.id; END;
CREATE TRIGGER t_au AFTER UPDATE ON t BEGIN INSERT INTO t_fts(docid, name) VALUES(new.id, new.name); END;
CREATE TRIGGER t_ai AFTER INSERT ON t BEGIN INSERT INTO t_fts(docid, name) VALUES(new.id, new.name); END;
"""


BOXES = """
CREATE VIRTUAL TABLE area USING rtree(id, low, high);
CREATE TRIGGER b_ai AFTER INSERT ON b BEGIN INSERT INTO area VALUES(new.id, new.low, new.high); END;
"""


@pytest.fixture
def indexed(equals):
    """Two equal replicas of a table, with an index on each that SQL makes."""

    def make(index=FTS5, table=TABLE):
        both = equals(2, table)
        for peer in both:
            peer.shell(index)
        converge(both)
        return both

    return make


def found(peer, word, name="t_fts"):
    """The rowids under which the index has a word, as a program finds them."""
    return [int(row) for row in peer.shell(f"SELECT rowid FROM {name} WHERE {name} MATCH '{word}' ORDER BY 1").split()]


def check(peer, name="t_fts"):
    """Let FTS5 compare its index with the rows: the shell prints a difference, and the test fails."""
    peer.shell(f"INSERT INTO {name}({name}, rank) VALUES('integrity-check', 1)")


def note(peer, table="t"):
    return next(each.note for each in peer.replica.status().tables if each.name == table)


@pytest.mark.parametrize("index", [FTS5, SQLITE_UTILS, FTS4], ids=["fts5", "sqlite-utils", "fts4"])
def test_an_index_holds_what_others_write(indexed, index):
    one, two = indexed(index)
    two.shell(
        "UPDATE t SET name = 'omega' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES(3, 'gamma', 'z')"
    )
    converge([one, two])
    assert [found(one, word) for word in ("alpha", "beta", "gamma", "omega")] == [[], [], [3], [1]]
    one.shell("UPDATE t SET name = 'pi' WHERE id = 1; DELETE FROM t WHERE id = 3")
    converge([one, two])
    for peer in (one, two):
        peer.shell("INSERT INTO t_fts(t_fts) VALUES('integrity-check')")
        assert [found(peer, word) for word in ("omega", "gamma", "pi")] == [[], [], [1]]
        assert not note(peer)
    assert_equal(one, two)


def test_an_index_holds_many_rows_that_come_at_once(indexed):
    one, two = indexed()
    two.shell(
        "WITH n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 2009)"
        " INSERT INTO t SELECT i, 'many' || (i % 2), 'x' FROM n"
    )
    converge([one, two])
    check(one)
    assert len(found(one, "many1")) == 1_000


def test_an_index_keeps_writes_during_a_reopening(indexed):
    one, two = indexed()
    one.close()
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1")
    one.open()
    converge([one, two])
    check(one)
    assert found(one, "omega") == [1]


def test_an_index_follows_rows_that_get_another_id(indexed):
    one, two = indexed()
    one.replica.decisions.decide_policy("t", "keep-both")
    converge([one, two])
    one.shell("INSERT INTO t VALUES(7, 'here', 'x')")
    two.shell("INSERT INTO t VALUES(7, 'there', 'y')")
    converge([one, two])
    for peer in (one, two):
        check(peer)
        assert len(found(peer, "here")) == len(found(peer, "there")) == 1
        assert found(peer, "here") != found(peer, "there")
    one.shell("DELETE FROM t WHERE name = 'here'")
    converge([one, two])
    for peer in (one, two):
        check(peer)
        assert not found(peer, "here")
    assert_equal(one, two)


def test_an_index_follows_rows_that_displace_others(indexed):
    """Two rows claim one name: the one that came later is parked, on every node, and is in no index."""
    one, two = indexed(table=TABLE + "CREATE UNIQUE INDEX names ON t(name)")
    one.shell("INSERT INTO t VALUES(7, 'same', 'x')")
    two.wall_ms += 1_000
    two.shell("INSERT INTO t VALUES(8, 'same', 'y'), (9, 'other', 'z')")
    converge([one, two])
    assert_equal(one, two)
    for peer in (one, two):
        check(peer)
        assert len(found(peer, "same")) == 1
    one.shell("UPDATE t SET name = 'moved' WHERE name = 'same'")
    converge([one, two])
    assert_equal(one, two)
    for peer in (one, two):
        check(peer)
        assert len(found(peer, "same")) == len(found(peer, "moved")) == 1


def test_rows_without_a_key_are_indexed_under_their_rowids(indexed):
    keyless = "CREATE TABLE t(name TEXT); INSERT INTO t VALUES('alpha')"
    index = FTS5.replace(", content_rowid='id'", "").replace("new.id", "new.rowid").replace("old.id", "old.rowid")
    one, two = indexed(index, keyless)
    two.shell("INSERT INTO t VALUES('beta'); UPDATE t SET name = 'omega' WHERE name = 'alpha'")
    converge([one, two])
    two.shell("DELETE FROM t WHERE name = 'omega'; UPDATE t SET name = 'gamma'")
    converge([one, two])
    check(one)
    assert_equal(one, two)
    assert [len(found(one, word)) for word in ("alpha", "beta", "omega", "gamma")] == [0, 0, 0, 1]


def test_an_index_of_boxes_holds_what_others_write(indexed):
    boxes = """
    CREATE VIRTUAL TABLE area USING rtree(id, low, high);
    CREATE TRIGGER b_ai AFTER INSERT ON b BEGIN INSERT INTO area VALUES(new.id, new.low, new.high); END;
    CREATE TRIGGER b_au AFTER UPDATE OF low, high ON b BEGIN
      UPDATE area SET low = new.low, high = new.high WHERE id = old.id; END;
    CREATE TRIGGER b_ad AFTER DELETE ON b BEGIN DELETE FROM area WHERE id = old.id; END;
    """
    one, two = indexed(boxes, "CREATE TABLE b(id INTEGER PRIMARY KEY, low, high, tag)")
    two.shell("INSERT INTO b VALUES(1, 0, 10, 'x'), (2, 5, 15, 'y'), (3, 5, 15, 'z')")
    converge([one, two])
    two.shell("UPDATE b SET low = 7 WHERE id = 2; DELETE FROM b WHERE id = 3; UPDATE b SET tag = 'q' WHERE id = 1")
    converge([one, two])
    assert one.shell("SELECT id, low, high FROM area ORDER BY id") == b"1|0.0|10.0\n2|7.0|15.0\n"
    assert one.shell("SELECT rtreecheck('area')") == b"ok\n"


def test_a_constraint_of_an_index_parks_no_row(indexed):
    """A box whose sides are crossed is one that the R-tree refuses: no row of the table may depend on it."""
    one, two = indexed("", "CREATE TABLE b(id INTEGER PRIMARY KEY, low, high)")
    one.shell(BOXES)
    one.drain()
    two.shell("INSERT INTO b VALUES(1, 10, 0), (2, 5, 15)")
    converge([one, two])
    assert_equal(one, two)
    assert not one.recorded("mycomesh_parked")
    assert "index area" in note(one, "b")


def test_a_trigger_that_writes_more_is_reported_not_run(indexed):
    """Its rows in the other table come as rows: a second one of each would be wrong."""
    index = FTS5.replace(
        "VALUES(new.id, new.name); END;", "VALUES(new.id, new.name); INSERT INTO log VALUES(new.id); END;", 1
    )
    one, two = indexed(index, TABLE + "CREATE TABLE log(id)")
    two.shell("INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge([one, two])
    assert_equal(one, two)
    assert one.shell("SELECT count(*) FROM log") == b"1\n"
    assert "t_ai writes log too; INSERT INTO t_fts(t_fts) VALUES('rebuild')" in note(one)
    one.shell("DROP TRIGGER t_ai")
    one.drain()
    assert not note(one)


@pytest.mark.parametrize(
    ("when", "why"),
    [("mine(new.name)", "no such function: mine"), ("CASE WHEN new.id < 0 THEN RAISE(IGNORE) ELSE 1 END", "RAISE")],
)
def test_a_trigger_that_this_node_cannot_run_is_told(indexed, when, why):
    one, two = indexed()
    one.sql("DROP TRIGGER t_ai")
    one.sql(
        "CREATE TRIGGER t_ai AFTER INSERT ON t BEGIN"
        f" INSERT INTO t_fts(rowid, name) SELECT new.id, new.name WHERE {when}; END"
    )
    two.shell("INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge([one, two])
    assert_equal(one, two)
    assert why in note(one)


def test_a_damaged_index_stops_no_merge_and_is_told(indexed):
    one, two = indexed()
    one.shell("UPDATE t_fts_data SET block = x'ffffffffffffffff' WHERE id > 1")
    one.shell("CREATE TABLE u(id INTEGER PRIMARY KEY, v)")
    converge([one, two])
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO u VALUES(1, 'too')")
    for number in range(3, 40):  # FTS5 joins its segments at some of these commits
        two.shell(f"INSERT INTO t VALUES({number}, 'alpha', 'beta')")
        catch_up(one, two)
    converge([one, two])
    assert_equal(one, two)
    assert "index t_fts is not kept up to date" in note(one)
    assert "VALUES('rebuild')" in note(one)
    assert not note(two)


def test_index_of_another_table_goes_on_beside_damaged_one(indexed):
    other = "CREATE TABLE o(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO o VALUES(1, 'alpha');"
    both = FTS5 + re.sub(r"\bt_", "o_", FTS5).replace("'t'", "'o'").replace("ON t ", "ON o ")
    one, two = indexed(both, TABLE + other)
    one.shell("UPDATE t_fts_data SET block = x'ff' WHERE id <= 10")
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1; UPDATE o SET name = 'omega'")
    converge([one, two])
    assert_equal(one, two)
    assert "index t_fts" in note(one)
    assert not note(one, "o")
    check(one, "o_fts")
    assert found(one, "omega", "o_fts") == [1]


def test_an_index_whose_tables_are_gone_stops_no_merge(indexed):
    one, two = indexed()
    one.sql("DROP TABLE t_fts_data")
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1; INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge([one, two])
    assert_equal(one, two)
    assert "index t_fts is not kept up to date" in note(one)


def test_a_rebuilt_index_works_again_after_a_restart(indexed):
    one, two = indexed()
    kept = one.shell("SELECT id, hex(block) FROM t_fts_data WHERE id < 11")
    assert kept
    one.shell("UPDATE t_fts_data SET block = x'ff' WHERE id <= 10")
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1")
    converge([one, two])
    assert "index t_fts" in note(one)
    one.shell("INSERT INTO t_fts(t_fts) VALUES('rebuild')")
    one.close()
    one.open()
    assert not note(one)
    two.shell("UPDATE t SET name = 'pi' WHERE id = 1")
    converge([one, two])
    check(one)
    assert found(one, "pi") == [1]


def test_columns_that_are_renamed_and_dropped_take_index_along(indexed):
    one, two = indexed()
    one.replica.migrate("ALTER TABLE t DROP COLUMN more", one.wall_ms)
    one.shell("ALTER TABLE t ADD COLUMN shelf")
    converge([one, two])
    one.replica.migrate("ALTER TABLE t RENAME COLUMN shelf TO place", one.wall_ms)
    converge([one, two])
    one.shell("UPDATE t SET name = 'omega', place = 'p' WHERE id = 1")
    two.shell("UPDATE t SET name = 'pi' WHERE id = 2")
    converge([one, two])
    assert_equal(one, two)
    for peer in (one, two):
        check(peer)
        assert (found(peer, "omega"), found(peer, "pi")) == ([1], [2])


def test_column_that_index_needs_stays_and_is_told(indexed):
    one, two = indexed("")
    two.shell(FTS5)
    two.drain()
    one.replica.migrate("ALTER TABLE t DROP COLUMN name", one.wall_ms)
    converge([one, two])
    assert "error in trigger t_a" in note(two)
    one.shell("INSERT INTO t VALUES(5, 'x')")
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1")
    converge([one, two])
    check(two)
    assert found(two, "omega") == [1]


def test_what_is_told_goes_with_its_reason(indexed):
    """A transaction that is undone between the two changes nothing of that."""
    one, two = indexed()
    one.sql("CREATE TRIGGER t_more AFTER INSERT ON t BEGIN INSERT INTO t_fts(rowid, name) VALUES(mine(), ''); END")
    one.drain()
    before = note(one)
    assert before.count("no such function: mine") == 1
    one.sql("DROP TRIGGER t_more")
    with pytest.raises(MigrationError):
        one.replica.migrate("CREATE TABLE v(id); INSERT INTO v SELECT id FROM nowhere", one.wall_ms)
    with pytest.raises(MigrationError):
        one.replica.migrate("CREATE UNIQUE INDEX u ON t(substr(more, 9))", one.wall_ms)
    one.drain()
    assert not note(one)
    one.sql("CREATE TRIGGER t_more AFTER INSERT ON t BEGIN INSERT INTO t_fts(rowid, name) VALUES(mine(), ''); END")
    two.shell("ALTER TABLE t ADD COLUMN e")
    converge([one, two])
    assert note(one) == before


def test_a_refused_migration_keeps_the_names_of_indexes(indexed):
    """They go back with the TEMP triggers, and do not wait for the next pass."""
    one, _ = indexed()
    carried = one.replica.tables["t"].rows._indexes
    before = dict(carried)
    with pytest.raises(MigrationError):
        one.replica.migrate("CREATE TABLE v(id); INSERT INTO v SELECT id FROM nowhere", one.wall_ms)
    assert dict(carried) == before
    assert ("t_fts",) in before.values()


def test_a_migration_writes_into_the_index_once(indexed):
    one, two = indexed()
    one.replica.migrate("UPDATE t SET name = 'omega' WHERE id = 1; INSERT INTO t VALUES(5, 'pi', 'x')", one.wall_ms)
    converge([one, two])
    for peer in (one, two):
        check(peer)
        assert (found(peer, "omega"), found(peer, "pi")) == ([1], [5])


def test_a_dropped_table_takes_its_triggers_along(indexed):
    one, two = indexed()
    one.replica.migrate("DROP TABLE t", one.wall_ms)
    converge([one, two])
    assert "t" not in two.tables()
    for peer in (one, two):
        peer.shell("DROP TABLE t_fts")
    one.shell(TABLE.replace("t(", "t2(").replace("INTO t ", "INTO t2 "))
    converge([one, two])
    assert_equal(one, two)


def test_table_that_program_makes_anew_is_indexed_once(indexed):
    """SQLite keeps a TEMP trigger whose table another connection drops, and has it stand again for one of that name."""
    one, two = indexed()
    one.shell(
        "BEGIN; CREATE TABLE spare(id INTEGER PRIMARY KEY, name TEXT, more TEXT); INSERT INTO spare SELECT * FROM t;"
        f"DROP TABLE t; ALTER TABLE spare RENAME TO t; DROP TABLE t_fts; {FTS5}; COMMIT"
    )
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1; INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge([one, two])
    assert_equal(one, two)
    check(one)
    assert (found(one, "omega"), found(one, "gamma")) == ([1], [3])
    one.shell("DROP TABLE t")
    one.drain()
    one.shell(TABLE + FTS5.replace("CREATE VIRTUAL TABLE", "DROP TABLE t_fts; CREATE VIRTUAL TABLE"))
    converge([one, two])
    two.shell("UPDATE t SET name = 'sigma' WHERE id = 2")
    converge([one, two])
    check(one)
    assert found(one, "sigma") == [2]


def test_a_file_keeps_nothing_of_it(indexed):
    one, _ = indexed()
    listing = (
        "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name NOT LIKE 'mycomesh%' AND name NOT LIKE 'mycomesh%'"
    )
    before = one.shell(listing)
    one.app.close()
    one.app = None
    one.replica.remove()
    one.replica = None
    assert one.shell("SELECT type, name, sql FROM sqlite_schema") == before
