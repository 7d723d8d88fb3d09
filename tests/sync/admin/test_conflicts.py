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
    return one.replica.conflicts.latest(10)


def restore(peer, conflict):
    done = peer.replica.conflicts.restore(str(conflict.number), peer.wall_ms)
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
    [again] = one.replica.conflicts.latest(10)
    assert again.restored_at
    with pytest.raises(PolicyError, match="has these values already"):
        restore(one, again)


def test_a_zero_of_the_other_sign_is_restored(pair):
    [conflict] = split(pair, ROW, "UPDATE t SET v = -0.0", "UPDATE t SET v = 0.0")
    assert restore(pair[0], conflict) == "updated t: v"
    converge(pair)
    assert [str(peer.sql("SELECT v FROM t")[0][0]) for peer in pair] == ["-0.0"] * 2
    assert_equal(*pair)


@pytest.mark.each_value
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
    [conflict] = one.replica.conflicts.latest(10)
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
    assert one.replica.conflicts.latest(1)[0].restored_at == ""


def test_a_conflict_that_is_not_there(pair):
    with pytest.raises(PolicyError, match="there is no conflict 7"):
        pair[0].replica.conflicts.restore("7", 1_000)


def test_a_conflict_of_a_table_that_is_gone(pair):
    [conflict] = split(pair, ROW, "UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'")
    one, _ = pair
    one.sql("DROP TABLE t")
    one.drain()
    with pytest.raises(PolicyError, match="no replicated table 't'"):
        restore(one, conflict)


def test_long_values_are_shortened_in_list_and_restored_whole(pair):
    long = "x" * 5_000
    [conflict] = split(pair, ROW, f"UPDATE t SET v = '{long}'", f"UPDATE t SET v = '{long}y'")
    assert conflict.lost["v"].endswith("... (5000 characters)")
    assert conflict.won["v"].endswith("... (5001 characters)")
    restore(pair[0], conflict)
    converge(pair)
    assert [peer.sql("SELECT length(v) FROM t") for peer in pair] == [[(5_000,)]] * 2


def test_latest_come_first_and_no_more_than_asked_for(pair):
    one, two = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    one.sql("INSERT INTO t VALUES(1, 0), (2, 0), (3, 0)")
    converge(pair)
    one.sql("UPDATE t SET v = 1")
    one.drain()
    two.wall_ms += 10
    two.sql("UPDATE t SET v = 2")
    converge(pair)
    numbers = [conflict.number for conflict in one.replica.conflicts.latest(10)]
    assert numbers == [3, 2, 1]
    assert [conflict.number for conflict in one.replica.conflicts.latest(2)] == [3, 2]


def live(pair, one_writes, two_writes):
    """Both sides write, the second later, and get each other's batches: each side has the conflict on record."""
    one, two = pair
    one.sql(one_writes)
    mine = one.drain()
    two.replica.store.clock.witness(one.replica.store.clock.last)
    two.sql(two_writes)
    theirs = two.drain()
    one.take(theirs, two.node_id)
    two.take(mine, one.node_id)
    return [peer.replica.conflicts.latest(1)[0] for peer in pair]


def prepared(pair, ddl=ROW):
    pair[0].sql(ddl)
    converge(pair)
    return pair


def restored(pair):
    return [bool(peer.replica.conflicts.latest(1)[0].restored_at) for peer in pair]


def test_a_conflict_has_one_id_on_all_nodes(pair):
    prepared(pair)
    pair[1].sql("INSERT INTO t VALUES(2, 'x', 'y')")
    live(pair, "UPDATE t SET v = 'other' WHERE id = 1", "UPDATE t SET v = 'another' WHERE id = 1")
    first, second = live(pair, "UPDATE t SET w = 'mine'", "UPDATE t SET w = 'theirs'")
    assert first.id == second.id
    assert first.id[0] == "c"
    assert len({conflict.id for conflict in pair[0].replica.conflicts.latest(10)}) > 1


LIVE = [
    ("UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'"),
    ("UPDATE t SET v = 'mine', w = 'too'", "UPDATE t SET v = 'theirs', w = 'another'"),
    ("UPDATE t SET v = x'00ff'", "UPDATE t SET v = 1.5"),
    ("UPDATE t SET v = 'mine'", "DELETE FROM t"),
    ("DELETE FROM t", "REPLACE INTO t VALUES(1, 'again', 'w')"),
]


@pytest.mark.parametrize(("mine", "theirs"), LIVE)
@pytest.mark.parametrize("where", [0, 1])
def test_a_restored_conflict_is_restored_on_all_nodes(pair, mine, theirs, where):
    prepared(pair)
    conflict = live(pair, mine, theirs)[0]
    assert restored(pair) == [False, False]
    here, there = pair[where], pair[1 - where]
    here.replica.conflicts.restore(conflict.id, here.wall_ms)
    there.take(here.drain(), here.node_id)
    assert restored(pair) == [True, True]
    assert_equal(*pair)


@pytest.mark.parametrize(("mine", "theirs"), LIVE)
def test_an_undone_restore_is_open_again_on_all(pair, mine, theirs):
    one, two = prepared(pair)
    conflict = live(pair, mine, theirs)[0]
    before = one.sql("SELECT * FROM t")
    one.replica.conflicts.restore(conflict.id, one.wall_ms)
    two.take(one.drain(), one.node_id)
    assert one.sql("SELECT * FROM t") == two.sql("SELECT * FROM t") != before
    one.replica.conflicts.undo(conflict.id)
    two.take(one.drain(), one.node_id)
    assert one.sql("SELECT * FROM t") == two.sql("SELECT * FROM t") == before
    assert restored(pair) == [False, False]
    assert_equal(one, two)


def test_losing_value_that_application_writes_again_counts_as_restored(pair):
    one, two = prepared(pair)
    live(pair, "UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'")
    two.sql("UPDATE t SET v = 'mine'")
    one.take(two.drain(), two.node_id)
    assert restored(pair) == [True, True]
    two.sql("UPDATE t SET v = 'something else'")
    one.take(two.drain(), two.node_id)
    assert restored(pair) == [True, True]


def test_an_undo_is_refused_once_the_row_was_changed(pair):
    one, _ = prepared(pair)
    conflict = live(pair, "UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'")[0]
    with pytest.raises(PolicyError, match="it is not restored"):
        one.replica.conflicts.undo(conflict.id)
    restore(one, conflict)
    one.sql("UPDATE t SET v = 'later'")
    one.drain()
    with pytest.raises(PolicyError, match="was changed since"):
        one.replica.conflicts.undo(conflict.id)
    assert one.sql("SELECT v FROM t") == [("later",)]


def test_an_undo_belongs_to_the_node_that_restored(pair):
    one, two = prepared(pair)
    conflict = live(pair, "UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'")[0]
    restore(one, conflict)
    two.take(one.drain(), one.node_id)
    with pytest.raises(PolicyError, match="another node has restored it"):
        two.replica.conflicts.undo(conflict.id)


def test_a_losing_insert_is_restored_and_taken_back(pair):
    one, two = prepared(pair)
    conflict = live(pair, "INSERT INTO t VALUES(2, 'mine', 'w')", "INSERT INTO t VALUES(2, 'theirs', 'w')")[0]
    done = one.replica.conflicts.restore(conflict.id, one.wall_ms, as_new_row=True)
    assert done == "inserted into t as row 3"
    two.take(one.drain(), one.node_id)
    assert two.sql("SELECT * FROM t WHERE id > 1") == [(2, "theirs", "w"), (3, "mine", "w")]
    assert one.replica.conflicts.latest(1)[0].restored_at
    one.sql("UPDATE t SET v = 'theirs' WHERE id = 2")
    one.drain()
    assert one.replica.conflicts.latest(1)[0].restored_at
    one.replica.conflicts.undo(conflict.id)
    two.take(one.drain(), one.node_id)
    assert two.sql("SELECT id FROM t ORDER BY id") == [(1,), (2,)]
    assert_equal(one, two)


def test_an_application_chosen_key_is_no_new_row(pair):
    one, _ = prepared(pair, "CREATE TABLE t(id TEXT PRIMARY KEY, v); INSERT INTO t VALUES('k', 1)")
    conflict = live(pair, "UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'")[0]
    with pytest.raises(PolicyError, match="SQLite chooses no key"):
        one.replica.conflicts.restore(conflict.id, one.wall_ms, as_new_row=True)
    assert one.sql("SELECT v FROM t") == [("theirs",)]


def test_what_undoes_a_restore_goes_with_its_conflict(pair):
    one, _ = prepared(pair)
    listing = "SELECT count(*) FROM mycomesh_meta WHERE name GLOB 'undo/*'"
    first = live(pair, "UPDATE t SET v = 'mine'", "UPDATE t SET v = 'theirs'")[0]
    restore(one, first)
    one.drain()
    one.sql(f"DELETE FROM mycomesh_conflicts WHERE seq = {first.number}")
    second = live(pair, "UPDATE t SET w = 'mine'", "UPDATE t SET w = 'theirs'")[0]
    restore(one, second)
    assert one.sql(listing) == [(1,)]
