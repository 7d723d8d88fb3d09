"""Installation of capture: what fits stays, what does not is replaced."""

from __future__ import annotations

import pytest

TABLES = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT UNIQUE, w REAL); CREATE TABLE keyless(v, w);"
    " CREATE TABLE keyed(k TEXT PRIMARY KEY, v) WITHOUT ROWID"
)
TRIGGERS = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name"


def schema_version(node):
    return node.sql("PRAGMA schema_version")[0][0]


def test_reopening_leaves_the_schema_as_it_is(peers):
    (node,) = peers(1)
    node.sql(TABLES)
    node.drain()
    before = schema_version(node), node.sql(TRIGGERS)
    assert len(before[1]) == 4 * 3 + 2  # a UNIQUE column has two more
    for _ in range(2):
        node.close()
        node.open()
        node.drain()
    assert (schema_version(node), node.sql(TRIGGERS)) == before


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TRIGGER mycomesh_2_update",
        "DROP TRIGGER mycomesh_2_delete; CREATE TRIGGER mycomesh_2_delete AFTER DELETE ON t BEGIN SELECT 1; END",
        "CREATE TRIGGER mycomesh_2_evict_x BEFORE UPDATE ON t BEGIN SELECT 1; END",
    ],
)
def test_triggers_that_do_not_fit_are_replaced(peers, damage):
    (node,) = peers(1)
    node.sql(TABLES)
    node.drain()
    before = node.sql(TRIGGERS)
    node.sql(damage)
    assert node.sql(TRIGGERS) != before
    node.close()
    node.open()
    node.drain()
    assert node.sql(TRIGGERS) == before
