"""An index that has missed rows gets them as soon as the node can run its triggers, and nothing of that stops a merge."""

from __future__ import annotations

import pytest

from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.schema.index_refill import FILLED_ROWS_MAX, MARKED_MAX, IndexRefill
from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.schema.test_index_triggers import FTS5, TABLE, check, found, note

AREA = """
CREATE VIRTUAL TABLE area USING rtree(id, low, high);
CREATE TRIGGER area_i AFTER INSERT ON t BEGIN INSERT INTO area VALUES(new.id, new.id, mine(new.id)); END;
"""


@pytest.fixture
def two_files(equals):
    return equals(2, TABLE)


def restarted(peer):
    peer.close()
    peer.open()
    peer.drain()


def rows(peer):
    return [row for (row,) in peer.sql("SELECT id FROM area ORDER BY 1")]


def marked(peer):
    return IndexRefill(peer.replica.store).marked


def test_a_damaged_index_is_whole_after_the_restart(two_files):
    one, two = two_files
    one.shell(FTS5)
    one.drain()
    one.shell("UPDATE t_fts_data SET block = x'ff' WHERE id <= 10")
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1; INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge(two_files)
    assert "off until the node starts again, which fills it" in note(one)
    restarted(one)
    assert not note(one)
    check(one)
    assert (found(one, "omega"), found(one, "gamma")) == ([1], [3])
    assert not marked(one)


def test_an_index_whose_function_comes_gets_its_rows(two_files):
    one, two = two_files
    one.sql(AREA)
    one.drain()
    two.shell("INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge(two_files)
    assert rows(one) == []
    one.sql("DROP TRIGGER area_i; " + AREA.splitlines()[2].replace("mine(new.id)", "new.id"))
    one.drain()
    assert rows(one) == [1, 2, 3]
    assert not note(one)


def test_the_remedy_for_vectors_is_told_with_the_module(tmp_path):
    sqlite_vec = pytest.importorskip("sqlite_vec")
    one, two = Peer(tmp_path / "1.db", 1), Peer(tmp_path / "2.db", 2)
    one.app.enable_load_extension(True)
    one.app.load_extension(sqlite_vec.loadable_path())
    one.sql(
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, emb BLOB); CREATE VIRTUAL TABLE vdocs USING vec0(emb float[2]);"
        "CREATE TRIGGER vdocs_i AFTER INSERT ON docs BEGIN INSERT INTO vdocs(rowid, emb) VALUES(new.id, new.emb); END"
    )
    converge([one, two])
    two.sql("INSERT INTO docs VALUES(7, ?)", sqlite_vec.serialize_float32((1, 2)))
    converge([one, two])
    assert marked(one) == {"vdocs"}
    one.config = ReplicaConfig(extensions=(sqlite_vec.loadable_path(),))
    restarted(one)
    one.app.enable_load_extension(True)
    one.app.load_extension(sqlite_vec.loadable_path())
    assert "index vdocs lacks rows of before" in note(one, "docs")
    one.sql(note(one, "docs").partition("table; ")[2].partition(" does it")[0])
    assert one.sql("SELECT rowid FROM vdocs") == [(7,)]
    restarted(one)
    assert not note(one, "docs")
    for peer in (one, two):
        peer.close()


def test_an_index_without_its_tables_stops_nothing(two_files):
    one, two = two_files
    one.shell(FTS5)
    one.drain()
    one.sql("DROP TABLE t_fts_data")
    two.shell("UPDATE t SET name = 'omega' WHERE id = 1")
    converge(two_files)
    restarted(one)
    two.shell("INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge(two_files)
    assert_equal(one, two)
    assert "index t_fts" in note(one)
    assert marked(one) == {"t_fts"}


def test_a_large_table_is_left_to_a_person(two_files):
    one, two = two_files
    one.sql(AREA)
    one.drain()
    numbers = f"WITH n(i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i <= {FILLED_ROWS_MAX})"
    two.shell(f"{numbers} INSERT INTO t SELECT i, 'x', 'y' FROM n")
    converge(two_files)
    one.sql("DROP TRIGGER area_i; " + AREA.splitlines()[2].replace("mine(new.id)", "new.id"))
    one.drain()
    assert (
        f"lacks rows of before, as this node cannot fill it: t has more than {FILLED_ROWS_MAX:,} rows; DELETE FROM area"
        in note(one)
    )
    two.shell("INSERT INTO t VALUES(-1, 'x', 'y')")
    converge(two_files)
    assert rows(one) == [-1]
    restarted(one)
    assert not note(one)


def test_of_many_stale_indexes_some_are_remembered(two_files):
    store = two_files[0].replica.store
    with store.transaction():
        IndexRefill(store).mark([f"i{number:04}" for number in range(MARKED_MAX + 1)])
    assert len(marked(two_files[0])) == MARKED_MAX


def test_an_index_of_two_tables_is_not_emptied(two_files):
    """Nobody could make again the entries of the other table."""
    one, two = two_files
    one.sql(AREA)
    one.sql(
        "CREATE TABLE more(id); CREATE TRIGGER more_i AFTER INSERT ON more BEGIN INSERT INTO area VALUES(new.id, 1, 1); END"
    )
    one.sql("INSERT INTO more VALUES(99)")
    one.drain()
    two.shell("INSERT INTO t VALUES(3, 'gamma', 'z')")
    converge(two_files)
    one.sql("DROP TRIGGER area_i; " + AREA.splitlines()[2].replace("mine(new.id)", "new.id"))
    one.drain()
    assert rows(one) == [99]
    assert "may hold more than the rows of that table; fill it with the program that made it" in note(one, "more")
