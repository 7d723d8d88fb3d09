"""Conflicts as people see them, and their losing sides written again: each wins everywhere, like any write."""

from __future__ import annotations

import pytest

from mycomesh.sync.errors import PolicyError
from tests.sync.peers import assert_equal, converge


def split(pair, ddl, one_writes, two_writes):
    """Both sides of a split write, the second later; returns the conflicts that the first knows afterwards."""
    one, two = pair
    one.sql(ddl)
    converge(pair)
    one.sql(one_writes)
    one.drain()
    two.wall_ms += 10
    two.sql(two_writes)
    two.drain()
    one.wall_ms += 20
    converge(pair)
    return one.replica.decisions.conflicts(10)


def restore(peer, conflict):
    done = peer.replica.decisions.restore(conflict.number, peer.wall_ms)
    assert "\n" not in done
    return done


ROW = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); INSERT INTO t VALUES(1, 'v', 'w')"


def test_a_conflict_tells_both_sides(pair):
    [conflict] = split(pair, ROW, "UPDATE t SET v = 'mine', w = 'only mine'", "UPDATE t SET v = 'theirs'")
    one, two = pair
    assert (conflict.table, conflict.key) == ("t", "1")
    assert (conflict.lost, conflict.won) == ({"v": "mine"}, {"v": "theirs"})
    assert (conflict.lost_site, conflict.won_site) == (one.replica.site.hex(), two.replica.site.hex())
    assert conflict.lost_at < conflict.won_at <= conflict.seen_at
    assert conflict.restored_at == ""


def test_a_restored_value_wins_everywhere_and_is_no_conflict(pair):
    [conflict] = split(pair, ROW, "UPDATE t SET v = 'mine', w = 'kept'", "UPDATE t SET v = 'theirs'")
    one, two = pair
    assert restore(one, conflict) == "updated t: v"
    converge(pair)
    assert [peer.sql("SELECT * FROM t") for peer in pair] == [[(1, "mine", "kept")]] * 2
    assert_equal(one, two)
    [again] = one.replica.decisions.conflicts(10)
    assert again.restored_at
    with pytest.raises(PolicyError, match="has these values already"):
        restore(one, again)


def test_a_zero_of_the_other_sign_is_restored(pair):
    [conflict] = split(pair, ROW, "UPDATE t SET v = -0.0", "UPDATE t SET v = 0.0")
    assert restore(pair[0], conflict) == "updated t: v"
    converge(pair)
    assert [str(peer.sql("SELECT v FROM t")[0][0]) for peer in pair] == ["-0.0"] * 2
    assert_equal(*pair)


@pytest.mark.parametrize(
    ("ddl", "key"),
    [
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)", "1"),
        ("CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY, v, w)", "'Ä key'"),
        ("CREATE TABLE t(id, v, w, PRIMARY KEY(id, w)) WITHOUT ROWID", "x'00ff'"),
        ("CREATE TABLE t(id, v, w)", "1"),
        ("CREATE TABLE t(id TEXT PRIMARY KEY, v, w)", "NULL"),
    ],
)
@pytest.mark.parametrize("value", ["'text'", "x'00ff'", "1.5", "-9223372036854775808", "9e999", "CAST(x'ff' AS TEXT)"])
def test_a_row_whose_delete_won_comes_back(pair, ddl, key, value):
    ddl += f"; INSERT INTO t VALUES({key}, 'old', 'w')"
    [conflict] = split(pair, ddl, f"UPDATE t SET v = {value}", "DELETE FROM t")
    one, two = pair
    assert conflict.won is None
    restore(one, conflict)
    converge(pair)
    same = f"v IS {value} AND typeof(v) = typeof({value})"
    assert [peer.sql(f"SELECT {same} FROM t") for peer in pair] == [[(1,)]] * 2
    assert_equal(one, two)


def test_a_delete_that_lost_is_done_after_all(pair):
    [conflict] = split(pair, ROW, "DELETE FROM t", "REPLACE INTO t VALUES(1, 'new', 'row')")
    one, two = pair
    assert (conflict.lost, conflict.reason) == ({}, "a delete lost to a later write")
    assert restore(one, conflict) == "deleted the row of t"
    converge(pair)
    assert [peer.sql("SELECT * FROM t") for peer in pair] == [[], []]
    assert_equal(one, two)
    with pytest.raises(PolicyError, match="already deleted"):
        restore(one, conflict)


def test_what_a_counter_lost_is_added_again(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t VALUES(1, 100)")
    one.drain()
    one.replica.decisions.declare_counter("t", "n")
    one.drain()
    converge(pair)
    one.sql("UPDATE t SET n = n - 3")
    one.drain()
    two.wall_ms += 10
    two.sql("REPLACE INTO t VALUES(1, 50)")
    converge(pair)
    [conflict] = one.replica.decisions.conflicts(10)
    assert conflict.lost == {"n +": -3}
    restore(one, conflict)
    two.sql("UPDATE t SET n = n - 1")
    converge(pair)
    assert [peer.sql("SELECT n FROM t") for peer in pair] == [[(46,)]] * 2


def test_what_a_constraint_refuses_is_not_restored(pair):
    ddl = "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE); INSERT INTO t VALUES(1, 'a')"
    [conflict] = split(pair, ddl, "UPDATE t SET u = 'b'", "UPDATE t SET u = 'c'; INSERT INTO t VALUES(2, 'b')")
    one, _ = pair
    with pytest.raises(
        PolicyError, match=rf"conflict {conflict.number} is not restored: UNIQUE constraint failed: t.u; make room"
    ):
        restore(one, conflict)
    assert one.sql("SELECT * FROM t ORDER BY 1") == [(1, "c"), (2, "b")]
    assert one.drain() == []
    assert one.replica.decisions.conflicts(1)[0].restored_at == ""


def test_a_conflict_that_is_not_there(pair):
    with pytest.raises(PolicyError, match="there is no conflict 7"):
        pair[0].replica.decisions.restore(7, 1_000)


def test_a_conflict_of_a_table_that_is_gone(pair):
    [conflict] = split(pair, ROW, "UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'")
    one, _ = pair
    one.sql("DROP TABLE t")
    one.drain()
    with pytest.raises(PolicyError, match="no replicated table 't'"):
        restore(one, conflict)


def test_long_values_are_shortened_in_the_list_and_restored_whole(pair):
    long = "x" * 5_000
    [conflict] = split(pair, ROW, f"UPDATE t SET v = '{long}'", f"UPDATE t SET v = '{long}y'")
    assert conflict.lost["v"].endswith("... (5000 characters)")
    assert conflict.won["v"].endswith("... (5001 characters)")
    restore(pair[0], conflict)
    converge(pair)
    assert [peer.sql("SELECT length(v) FROM t") for peer in pair] == [[(5_000,)]] * 2


def test_the_latest_come_first_and_no_more_than_asked_for(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    one.sql("INSERT INTO t VALUES(1, 0), (2, 0), (3, 0)")
    converge(pair)
    one.sql("UPDATE t SET v = 1")
    one.drain()
    two.wall_ms += 10
    two.sql("UPDATE t SET v = 2")
    converge(pair)
    numbers = [conflict.number for conflict in one.replica.decisions.conflicts(10)]
    assert numbers == [3, 2, 1]
    assert [conflict.number for conflict in one.replica.decisions.conflicts(2)] == [3, 2]
