"""Two writes of one cell are a conflict only if a value is lost: equal outcomes are none."""

from __future__ import annotations

import pytest

from tests.sync.peers import Peer, assert_equal, converge


@pytest.fixture
def both(tmp_path):
    opened = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    opened[0].sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); CREATE TABLE words(k TEXT PRIMARY KEY, v)")
    opened[0].sql("INSERT INTO t VALUES(1, 'a', 'b'), (2, 'a', 'b'), (3, 'a', 'b'); INSERT INTO words VALUES('k', 'a')")
    converge(opened)
    yield opened
    for peer in opened:
        peer.close()


def apart(both, first, second):
    """Each side writes on its own, the second later; then each gets the other's live batch."""
    one, two = both
    one.sql(first)
    mine = one.drain()
    two.replica.store.clock.witness(one.replica.store.clock.last)
    two.sql(second)
    theirs = two.drain()
    one.take(theirs, two.node_id)
    two.take(mine, one.node_id)
    assert_equal(one, two)
    return [peer.sql("SELECT lost, reason FROM mycomesh_conflicts ORDER BY seq") for peer in both]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("DELETE FROM t WHERE id < 3", "DELETE FROM t WHERE id < 3"),
        ("DELETE FROM words", "DELETE FROM words"),
        ("UPDATE t SET v = 'same'", "UPDATE t SET v = 'same'"),
        ("UPDATE t SET v = 'same', w = 1", "UPDATE t SET v = 'same'"),
        ("INSERT INTO t VALUES(9, 'x', 'y')", "INSERT INTO t VALUES(9, 'x', 'y')"),
        ("REPLACE INTO words VALUES('k', 'b')", "REPLACE INTO words VALUES('k', 'b')"),
    ],
)
def test_equal_outcomes_are_no_conflict(both, first, second):
    assert apart(both, first, second) == [[], []]


def test_a_value_that_a_delete_hides_is_a_conflict(both):
    found = apart(both, "UPDATE t SET v = 'kept' WHERE id = 1", "DELETE FROM t WHERE id = 1")
    assert [lost for records in found for lost, _ in records] == ['{"v": "kept"}'] * 2


def test_delete_that_loses_to_write_is_conflict(both):
    found = apart(both, "DELETE FROM t WHERE id = 1", "UPDATE t SET v = 'later' WHERE id = 1")
    assert all(records for records in found)


def test_different_values_are_conflict_of_columns_that_differ(both):
    found = apart(both, "UPDATE t SET v = 'x', w = 'z' WHERE id = 1", "UPDATE t SET v = 'y', w = 'z' WHERE id = 1")
    assert [records[0][0] for records in found] == ['{"v": "x"}'] * 2
