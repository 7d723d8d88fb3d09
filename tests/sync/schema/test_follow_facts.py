"""A schema fact that its sender may not state has no effect; of two definitions both are reported."""

from __future__ import annotations

import pytest

from tests.sync.migrations import T, note, started
from tests.sync.peers import assert_equal, converge


def test_two_defaults_for_one_column_are_told_with_both(migrating):
    one, two = started(migrating, T)
    one.sql("ALTER TABLE t ADD COLUMN d DEFAULT 7")
    two.sql("ALTER TABLE t ADD COLUMN d")
    converge([one, two])
    told = {note(one), note(two)}
    assert any("column 'd' has the default NULL here and 7 on the mesh" in each for each in told) or any(
        "column 'd' has the default 7 here and NULL on the mesh" in each for each in told
    )


@pytest.mark.parametrize(
    "fact",
    [
        ("t", "table", b"CREATE TABLE t(id)"),
        ("sqlite_master", "table", "CREATE TABLE sqlite_master(a)"),
        ("sqlite_sequence", "table", "CREATE TABLE sqlite_sequence(name, seq)"),
        ("mycomesh_meta", "table", "CREATE TABLE mycomesh_meta(a)"),
        ("q", "table", "CREATE TABLE q(a); DROP TABLE t"),
        ("q", "table", "CREATE TABLE q(a)\0"),
        ("index:i", "index", "CREATE INDEX i ON t(a)\0"),
        ('generated:["t","g"]', "generated", "g AS (a)\0"),
        ('name:["t"]', "name", "sqlite_t"),
        ("index:mycomesh_rows_2", "index", ""),
        ("index:sqlite_autoindex_u_1", "index", ""),
        ("index:i", "index", "CREATE UNIQUE INDEX i ON mycomesh_pending_2(what)"),
        ("index:mycomesh_9_keep", "index", "CREATE INDEX mycomesh_9_keep ON t(a)"),
        ('dropped:["mycomesh_schema"]', "dropped", ""),
        ('dropped:["mycomesh_schema","sql"]', "dropped", ""),
        ('name:["mycomesh_schema"]', "name", "mine"),
        ('counter:["mycomesh_schema","kind"]', "counter", ""),
        ('name:["t"]', "name", "mycomesh_meta"),
        ('name:["t"]', "name", "a\0b"),
        ("dropped:[]", "dropped", ""),
    ],
    ids=repr,
)
def test_a_fact_that_nobody_may_state_has_no_effect(migrating, fact):
    one, two = started(migrating, T + "; CREATE TABLE u(k UNIQUE)")
    ours = "SELECT name, sql FROM sqlite_schema WHERE 'mycomesh' IN (substr(name, 1, 8), substr(tbl_name, 1, 8)) ORDER BY 1"
    before, schema = two.tables(), two.sql(ours)
    liar = one.replica
    with liar.store.transaction():
        liar.registry.facts.write(*fact)
    two.take(one.drain(), one.node_id)
    assert two.tables() == before
    assert two.sql(ours) == schema
    columns = two.replica.tables["mycomesh_schema"].columns
    assert columns.dropped == columns.counters == set()
    two.sql("UPDATE t SET a = 'goes on' WHERE id = 1")
    converge([one, two])
    assert_equal(one, two)
