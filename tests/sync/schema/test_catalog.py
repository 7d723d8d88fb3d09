"""The pass over a changed schema: tables that make room for those of the mesh, and the scans that a change needs."""

from __future__ import annotations

import pytest

from mycomesh.sync.schema import table_pass
from mycomesh.sync.schema.catalog import NEW_TABLES_MAX
from tests.sync.peers import assert_equal, converge


def test_tables_renamed_at_once_all_make_room_for_mesh(pair):
    one, two = pair
    for name in ("a", "b"):
        one.sql(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, x)")
        two.sql(f"CREATE TABLE {name}(k TEXT PRIMARY KEY, y)")
        two.sql(f"INSERT INTO {name} VALUES('of two', 1)")
    for peer in pair:
        peer.drain()
    converge(pair)
    parked = next(peer for peer in pair if any(table.note for table in peer.replica.status().tables))
    parked.shell("ALTER TABLE a RENAME TO own_a; ALTER TABLE b RENAME TO own_b;")
    parked.drain()
    converge(pair)
    for name in ("a", "b"):
        shapes = [[row[1] for row in peer.sql(f"PRAGMA table_info({name})")] for peer in pair]
        assert shapes[0] == shapes[1]
        rows = [peer.sql(f"SELECT * FROM {name}") for peer in pair]
        assert rows[0] == rows[1]


FORGE = """
PRAGMA writable_schema = 1;
INSERT INTO sqlite_schema VALUES('table', 'vdocs', 'vdocs', 0, 'CREATE VIRTUAL TABLE vdocs USING vec0(emb float[4])');
PRAGMA writable_schema = RESET;
CREATE VIEW seen AS SELECT 1; DROP VIEW seen;
"""
UNFORGE = FORGE.replace(FORGE.splitlines()[2], "DELETE FROM sqlite_schema WHERE name = 'vdocs';")


def test_content_of_an_unknown_module_stays_at_home(pair):
    one, two = pair
    for peer in pair:
        peer.shell(
            f"CREATE TABLE docs(id INTEGER PRIMARY KEY, body); CREATE TABLE vdocs_chunks(id INTEGER PRIMARY KEY, c);"
            f"INSERT INTO docs VALUES({peer.number}, 'x'); INSERT INTO vdocs_chunks VALUES(1, {peer.number}); {FORGE}"
        )
        peer.drain()
    converge(pair)
    for peer in pair:
        assert peer.sql("SELECT count(*) FROM docs") == [(2,)]
        assert peer.sql("SELECT c FROM vdocs_chunks") == [(peer.number,)]
        notes = {table.name: table.note for table in peer.replica.status().tables}
        assert "vdocs_chunks seem to hold that content" in notes["vdocs"]
        assert "vdocs_chunks" not in notes
    assert one.digests().keys() == two.digests().keys() == {"docs", "mycomesh_schema"}


def test_a_table_that_becomes_content_leaves_and_returns(pair):
    """Earlier versions replicated such tables: their capture goes, and nothing of them is lost if they prove ordinary."""
    one, two = pair
    one.shell("CREATE TABLE vdocs_chunks(id INTEGER PRIMARY KEY, c); INSERT INTO vdocs_chunks VALUES(1, 'both')")
    converge(pair)
    one.shell(FORGE)
    one.drain()
    assert one.sql("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'vdocs_chunks'") == [(0,)]
    one.shell("UPDATE vdocs_chunks SET c = 'one'")
    two.shell("INSERT INTO vdocs_chunks VALUES(2, 'two')")
    converge(pair)
    assert one.sql("SELECT * FROM vdocs_chunks") == [(1, "one")]
    assert two.sql("SELECT * FROM vdocs_chunks") == [(1, "both"), (2, "two")]
    one.shell(UNFORGE)
    converge(pair)
    for peer in pair:
        assert peer.sql("SELECT * FROM vdocs_chunks") == [(1, "one"), (2, "two")]


@pytest.fixture
def both(equals):
    """Two equal replicas of a table."""
    made = equals(2, "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES(1, 'x', 'y')")
    for peer in made:
        peer.replica.catalog.take_rebuilt()
    return made


def test_a_unique_index_is_no_rebuild_on_any_node(both, monkeypatch):
    one, two = both
    scanned = []
    monkeypatch.setattr("mycomesh.sync.capture.table_scan.begin", lambda table, **_: scanned.append(table.store.path))
    one.sql("CREATE UNIQUE INDEX u ON t(a)")
    converge(both)
    assert [peer.replica.catalog.take_rebuilt() for peer in both] == [[], []]
    assert scanned == [str(one.path)], "where a program made it, one may have replaced rows before the pass"
    two.sql("REPLACE INTO t VALUES(2, 'x', 'z')")
    converge(both)
    assert_equal(one, two)
    assert one.sql("SELECT * FROM t") == [(2, "x", "z")]


def test_rows_replaced_before_the_pass_are_found(both):
    one, two = both
    one.sql("CREATE UNIQUE INDEX u ON t(a); REPLACE INTO t VALUES(2, 'x', 'z')")
    converge(both)
    assert_equal(one, two)
    assert two.sql("SELECT * FROM t") == [(2, "x", "z")]
    assert one.replica.catalog.take_rebuilt() == []


def test_a_table_without_its_triggers_is_reported(both):
    two = both[1]
    two.sql("DROP TRIGGER mycomesh_2_insert; INSERT INTO t VALUES(7, 'q', 'r')")
    converge(both)
    assert two.replica.catalog.take_rebuilt() == ["t"]


def statements_of_a_fact(one, two, name):
    """Return how many statements a node takes to follow one table of another."""
    one.sql(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, v UNIQUE)")
    batches, executed, db = one.drain(), [], two.replica.store.db
    db.set_exec_trace(lambda _cursor, sql, _bindings: executed.append(sql) or True)
    two.take(batches, one.node_id)
    db.set_exec_trace(None)
    assert two.sql(f"SELECT * FROM {name}") == []
    return len(executed)


def test_fact_beside_more_tables_takes_no_more_statements(pair):
    one, two = pair
    taken = []
    for count in (4, 40):
        one.sql(";".join(f"CREATE TABLE beside{count}_{each}(id INTEGER PRIMARY KEY, v)" for each in range(count)))
        two.take(one.drain(), one.node_id)
        taken.append(statements_of_a_fact(one, two, f"late{count}"))
    assert taken[1] <= taken[0] + 2
    converge(pair)
    assert_equal(one, two)


def test_each_pass_looks_at_few_new_tables(pair, monkeypatch):
    one, two = pair
    looked = []
    monkeypatch.setattr(table_pass, "definition_refusal", lambda sql: looked.append(sql) or "")
    count, passes = 5 * NEW_TABLES_MAX, 5
    one.sql(";".join(f"CREATE TABLE t{number:02}(id INTEGER PRIMARY KEY, v)" for number in range(count)))
    one.drain()
    assert count <= len(looked) <= count + passes
    converge(pair)
    assert_equal(one, two)
    assert len(two.digests()) == count + 1
