"""A definition with SQL that programs beside other nodes cannot read stays on the node that made it."""

from __future__ import annotations

import pytest

from mycomesh.sync.replica import ReplicaConfig
from tests.sync.peers import Peer, converge

NEW_TABLE = "CREATE TABLE f(id INTEGER PRIMARY KEY, d BLOB CHECK(json_valid(d, 8)))"


def note_of(peer, name):
    return next((table.note for table in peer.replica.status().tables if table.name == name), "")


def schema(peer):
    return " ".join(sql for (sql,) in peer.sql("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL"))


def test_a_table_with_newer_sql_is_reported_not_replicated(pair):
    one, two = pair
    one.sql(f"{NEW_TABLE}; INSERT INTO f(id) VALUES(1); CREATE TABLE plain(id INTEGER PRIMARY KEY)")
    converge(pair)
    assert list(two.tables()) == ["plain"]
    assert "json_valid() with 2 arguments needs SQLite 3.45" in note_of(one, "f")
    assert 'sqlite_floor = "3.45"' in note_of(one, "f")
    assert one.digests() == two.digests()


def test_columns_and_indexes_with_newer_sql_stay_local(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    converge(pair)
    one.sql(
        "CREATE INDEX i ON t(octet_length(a)); ALTER TABLE t ADD COLUMN b CHECK(concat(b) IS NOT 'x');"
        "ALTER TABLE t ADD COLUMN g AS (json_pretty(a)); INSERT INTO t(id, a, b) VALUES(1, '{}', 'y')"
    )
    converge(pair)
    converge(pair)
    assert two.sql("SELECT id, a FROM t") == [(1, "{}")]
    assert not {"octet_length", "concat", "json_pretty"} & set(schema(two).replace("(", " ").split())
    assert "octet_length() needs SQLite 3.43" in note_of(one, "index i")
    assert one.digests() == two.digests()


def test_too_new_definitions_of_a_peer_are_not_adopted(tmp_path):
    one = Peer(tmp_path / "1.db", 1, config=ReplicaConfig(sqlite_floor=(3, 50)))
    two = Peer(tmp_path / "2.db", 2, config=ReplicaConfig(sqlite_floor=(3, 45)))
    three = Peer(tmp_path / "3.db", 3)
    one.wall_ms += 1_000  # its word is the later one
    one.sql(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b CHECK(json_pretty(b) IS NOT 1)); CREATE INDEX i ON t(unistr(a));"
        "CREATE TABLE u(id INTEGER PRIMARY KEY, a)"
    )
    converge([one, two, three])
    one.sql("ALTER TABLE u ADD COLUMN g AS (json_pretty(a)); ALTER TABLE u ADD COLUMN c CHECK(unistr(c) IS NOT 1)")
    converge([one, two, three])
    converge([one, two, three])
    assert "json_pretty" in schema(three)
    assert "unistr" in schema(three)
    assert "json_pretty" not in schema(two)
    assert "unistr" not in schema(two)
    assert "json_pretty() needs SQLite 3.46" in note_of(two, "t")
    assert two.sql("SELECT c FROM u") == []  # without its constraint
    for peer in (one, two, three):
        peer.close()


def test_a_raised_floor_lets_the_table_spread(tmp_path):
    one, two = Peer(tmp_path / "1.db", 1), Peer(tmp_path / "2.db", 2)
    one.sql(f"{NEW_TABLE}; INSERT INTO f(id) VALUES(1)")
    converge([one, two])
    assert list(two.tables()) == []
    two.close()
    two.config = ReplicaConfig(sqlite_floor=(3, 45))
    two.open()
    converge([one, two])
    converge([one, two])
    assert two.sql("SELECT id FROM f") == [(1,)]
    assert note_of(one, "f") == ""
    two.close()
    two.open()  # the same setting is stated once
    assert two.drain() == []
    for peer in (one, two):
        peer.close()


@pytest.mark.parametrize("stated_first", [True, False])
def test_a_users_table_may_be_called_floor(tmp_path, stated_first):
    """Its fact has the name under which earlier versions look for the floor."""
    one = Peer(tmp_path / "1.db", 1, config=ReplicaConfig(sqlite_floor=(3, 50)) if stated_first else None)
    two = Peer(tmp_path / "2.db", 2)
    if stated_first:
        converge([one, two])
    one.sql("CREATE TABLE floor(id INTEGER PRIMARY KEY, a); INSERT INTO floor VALUES(1, 'a')")
    converge([one, two])
    if not stated_first:
        one.close()
        one.config = ReplicaConfig(sqlite_floor=(3, 50))
        one.open()
    one.sql("CREATE INDEX i ON floor(unistr(a))")
    converge([one, two])
    two.sql("INSERT INTO floor VALUES(2, 'b'); ALTER TABLE floor ADD COLUMN c")
    converge([one, two])
    converge([one, two])
    assert one.sql("SELECT id, c FROM floor ORDER BY id") == two.sql("SELECT id, c FROM floor ORDER BY id")
    assert one.sql("SELECT count(*) FROM floor") == [(2,)]
    assert "unistr" in schema(two)
    assert {peer.replica.registry.floor for peer in (one, two)} == {(3, 50)}
    for peer in (one, two):
        peer.close()


def test_a_table_named_like_a_fact_stays_at_home(tmp_path):
    one, two = Peer(tmp_path / "1.db", 1), Peer(tmp_path / "2.db", 2)
    one.sql('CREATE TABLE "view:v"(a); CREATE TABLE "a:b"(id INTEGER PRIMARY KEY); CREATE VIEW v AS SELECT 1')
    converge([one, two])
    assert list(two.tables()) == ["a:b"]
    assert "its name begins with view:" in note_of(one, "view:v")
    for peer in (one, two):
        peer.close()
