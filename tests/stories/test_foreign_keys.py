"""Foreign keys of programs that enforce them: cascades arrive as rows, replicas end equal, and no child is lost (ADR 0013)."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.scale import examples

DDL = """
    CREATE TABLE missions(id INTEGER PRIMARY KEY, name);
    CREATE TABLE steps(id TEXT PRIMARY KEY, mission REFERENCES missions(id) ON DELETE {} ON UPDATE CASCADE, what)"""
ORPHANS = 'SELECT "table", parent FROM pragma_foreign_key_check'
WRITES = st.sampled_from([
    "INSERT OR IGNORE INTO missions VALUES({id}, 'm')", "DELETE FROM missions WHERE id = {id}",
    "INSERT INTO steps VALUES('{site}{number}', {id}, 's')", "DELETE FROM steps WHERE mission = {id}",
    "UPDATE OR IGNORE missions SET id = id + 1 WHERE id = {id}", "UPDATE steps SET mission = {id}", "exchange",
])  # fmt: skip


def strict(peer):
    peer.sql("PRAGMA foreign_keys = 1")
    return peer


@pytest.fixture
def pair(tmp_path):
    peers = [strict(Peer(tmp_path / f"{number}.db", number)) for number in range(2)]
    peers[0].sql(DDL.format("CASCADE"))
    peers[0].sql("INSERT INTO missions VALUES(1, 'map'), (2, 'search'); INSERT INTO steps VALUES('a', 1, 'fly')")
    converge(peers)
    yield peers
    for peer in peers:
        peer.close()


def test_the_effects_of_a_cascade_arrive_as_rows(pair):
    one, two = pair
    one.sql("DELETE FROM missions WHERE id = 1; UPDATE missions SET id = 9 WHERE id = 2")
    converge(pair)
    assert two.sql("SELECT * FROM steps") == []
    assert_equal(one, two)


def test_a_child_before_its_parent_arrives_at_once(pair):
    one, two = pair
    one.sql("INSERT INTO missions VALUES(5, 'late')")
    parent = one.drain()
    one.sql("INSERT INTO steps VALUES('b', 5, 'wait')")
    two.take(one.drain(), one.node_id)
    assert two.sql(ORPHANS) == [("steps", "missions")]
    two.take(parent, one.node_id)
    assert two.sql(ORPHANS) == []
    assert_equal(one, two)


def test_a_child_of_a_concurrently_deleted_parent_stays_everywhere(pair):
    one, two = pair
    one.sql("DELETE FROM missions WHERE id = 2")
    two.sql("INSERT INTO steps VALUES('c', 2, 'look')")
    converge(pair)
    assert_equal(one, two)
    for peer in pair:
        assert peer.sql("SELECT * FROM steps WHERE id = 'c'") == [("c", 2, "look")]
        assert peer.sql(ORPHANS) == [("steps", "missions")]
    one.sql("INSERT INTO missions VALUES(2, 'search again')")
    converge(pair)
    assert all(peer.sql(ORPHANS) == [] for peer in pair)


@given(
    action=st.sampled_from(["CASCADE", "SET NULL", "RESTRICT"]),
    writes=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), WRITES), max_size=14),
)
@examples(25)
def test_concurrent_writes_end_equal_and_only_deletes_remove(action, writes):
    with tempfile.TemporaryDirectory() as place:
        peers = [strict(Peer(Path(place) / f"{number}.db", number)) for number in range(2)]
        peers[0].sql(DDL.format(action))
        converge(peers)
        deleted = False
        born = set()
        for number, (site, mission, write) in enumerate(writes):
            if write == "exchange":
                converge(peers)
                continue
            before = {key for (key,) in peers[site].sql("SELECT id FROM steps")}
            with contextlib.suppress(apsw.ConstraintError):
                peers[site].sql(write.format(id=mission, site="ab"[site], number=number))
            after = {key for (key,) in peers[site].sql("SELECT id FROM steps")}
            born |= after - before
            deleted = deleted or bool(before - after)
        converge(peers)
        assert_equal(*peers)
        if not deleted:
            assert {key for (key,) in peers[0].sql("SELECT id FROM steps")} == born
        for peer in peers:
            peer.close()
