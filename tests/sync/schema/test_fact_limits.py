"""Definitions beyond the limits have no effect, the same ones on every replica."""

from __future__ import annotations

import pytest

from mycomesh.sync.schema import fact_limits
from tests.sync.peers import converge


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(fact_limits, "FACTS_PER_MEMBER_MAX", 3)
    monkeypatch.setattr(fact_limits, "FACTS_MAX", 4)


def test_a_member_states_no_more_tables_than_it_may(few, pair):
    one, two = pair
    for number in range(5):
        one.sql(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, v)")
        one.drain()
    converge(pair)
    assert sorted(two.tables()) == ["t0", "t1", "t2"]
    note = next(table.note for table in two.replica.status().tables if table.name == "definitions of the mesh")
    assert "2 definitions have no effect" in note
    assert one.node_id[:8].hex() in note


def test_members_together_state_no_more_facts_than_the_limit(few, trio):
    one, two, three = trio
    for number in range(3):
        for peer in (one, two):
            peer.sql(f"CREATE TABLE t{peer.number}{number}(id INTEGER PRIMARY KEY, v)")
            peer.drain()
            peer.wall_ms += 10
    converge(trio)
    assert len(three.tables()) == 4
    assert one.replica.registry.facts.without_effect == three.replica.registry.facts.without_effect


def test_sql_of_a_member_is_limited_too(pair, monkeypatch):
    monkeypatch.setattr(fact_limits, "SQL_PER_MEMBER_MAX", 100)
    one, two = pair
    for name in ("short", "long_enough_for_the_rest_of_the_room_that_there_is"):
        one.sql(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, a_column_with_a_name)")
        one.drain()
    converge(pair)
    assert sorted(two.tables()) == ["short"]


def test_a_decision_has_effect_however_many_definitions_there_are(few, pair):
    one, two = pair
    for number in range(3):
        one.sql(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, n INTEGER)")
        one.drain()
    converge(pair)
    one.replica.decisions.declare_counter("t0", "n")
    converge(pair)
    assert two.replica.tables["t0"].columns.counters == {"n"}


@pytest.mark.parametrize(("most", "made"), [(31, ["a"]), (32, ["a", "b"]), (33, ["a", "b"])])
@pytest.mark.parametrize("limit", ["COLUMNS_PER_MEMBER_MAX", "COLUMNS_OF_ALL_MAX"])
def test_columns_of_tables_are_limited_in_all(pair, monkeypatch, limit, most, made):
    monkeypatch.setattr(fact_limits, "COLUMNS_PER_MEMBER_MAX", 32)  # for the look that is taken first
    monkeypatch.setattr(fact_limits, limit, most)
    one, two = pair
    one.sql("CREATE TABLE a(id INTEGER PRIMARY KEY, v, w)")  # 12 of a table, and two commas
    one.drain()
    one.sql("CREATE TABLE b(id INTEGER PRIMARY KEY, v, w, x, y, z, zz)")
    one.drain()
    one.sql("CREATE INDEX i ON a(v, w)")
    converge(pair)
    assert sorted(two.tables()) == made
    assert two.sql("SELECT name FROM pragma_index_list('a')") == [("i",)]
