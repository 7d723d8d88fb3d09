"""The verdict: each kind of loss is seen, and nothing that is right is called wrong."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import apsw
import pytest

from mycomesh.simulations.checkers import contents_of, history_violations, strays
from mycomesh.simulations.oracle import Oracle, Written, kept_tokens, text_of
from mycomesh.simulations.workload import SCHEMA


def wrote(oracle, over=None, node=0, column="note", table="missions"):
    token = oracle.token()
    oracle.record_write(token, Written(table, "1", column, node, 5), None if over is None else text_of(over))
    return token


def verdict(oracle, visible, traced=()):
    return history_violations(oracle, Counter(visible), dict.fromkeys(traced))


def test_a_visible_value_is_right():
    oracle = Oracle()
    assert verdict(oracle, [wrote(oracle)]) == []


def test_a_value_that_is_nowhere_is_lost():
    oracle = Oracle()
    wrote(oracle)
    (line,) = verdict(oracle, [])
    assert "missions.note of row 1, written <w1> at node 0" in line
    assert "lost" in line


def test_a_replaced_or_recorded_value_is_not_lost():
    oracle = Oracle()
    first = wrote(oracle)
    second = wrote(oracle, over=first)
    assert verdict(oracle, [second]) == []
    assert verdict(oracle, [], traced=[second]) == []


def test_a_concurrent_loser_without_a_trace_is_lost():
    oracle = Oracle()
    first = wrote(oracle)
    here, there = wrote(oracle, over=first, node=1), wrote(oracle, over=first, node=2)
    assert verdict(oracle, [here], traced=[there]) == []
    (line,) = verdict(oracle, [here])
    assert "<w3> at node 2" in line


def test_value_that_came_back_after_its_replacement_is_wrong():
    oracle = Oracle()
    first = wrote(oracle)
    second = wrote(oracle, over=first, node=1)
    (line,) = verdict(oracle, [first], traced=[second])
    assert "visible although replaced or deleted by <w2> at node 1" in line


def test_a_deleted_row_that_came_back_is_wrong():
    oracle = Oracle()
    first = wrote(oracle)
    oracle.record_delete(oracle.token(), 3, 9, (text_of(first), None, 4))
    assert verdict(oracle, []) == []
    (line,) = verdict(oracle, [first])
    assert "delete <w2> at node 3" in line


def test_a_row_that_is_there_twice_is_wrong():
    oracle = Oracle()
    first = wrote(oracle)
    (line,) = verdict(oracle, [first, first])
    assert "is there 2 times" in line


def test_a_lost_file_excuses_its_writes_and_their_effects():
    oracle = Oracle()
    first = wrote(oracle)
    second = wrote(oracle, over=first, node=1)
    oracle.excuse(1, 0)
    assert verdict(oracle, [first]) == []
    assert verdict(oracle, [second]) == []


def purged_history(*, over=None):
    """A value that node 1 replaced, and what a purged node 2 made of that."""
    oracle = Oracle()
    first = wrote(oracle, column="birth")
    second = wrote(oracle, over=first, node=1, column="birth")
    oracle.record_traitor(2, 6)
    oracle.purged[2] = None
    last = wrote(oracle, over=second if over is None else over, node=2, column="birth")
    return oracle, first, second, last


def test_purge_may_uncover_what_it_had_covered():
    oracle, first, second, _ = purged_history()
    assert oracle.is_replaced(first)
    assert verdict(oracle, [first]) == []
    assert verdict(oracle, [second]) == []
    assert verdict(oracle, [first, second])  # the later value is left, and keeps the first one out


def test_purge_uncovers_nothing_that_honest_writes_keep_out():
    oracle, first, second, _ = purged_history()
    third = wrote(oracle, over=second, node=3, column="birth")
    assert verdict(oracle, [third]) == []
    (line,) = verdict(oracle, [first, third])
    assert "visible although replaced" in line


def test_a_purge_may_uncover_rows_of_overwritten_deletes():
    oracle = Oracle()
    first = wrote(oracle, column="birth")
    oracle.record_delete(oracle.token(), 3, 9, (text_of(first),))
    oracle.record_traitor(2, 6)
    oracle.purged[2] = None
    assert verdict(oracle, [first])  # nothing has overwritten the delete
    oracle.made_up["missions", "1"] = None
    assert verdict(oracle, [first]) == []
    oracle.made_up.clear()
    oracle.record_write(oracle.token(), Written("missions", "1", "birth", 2, 10), None)
    assert verdict(oracle, [first]) == []


def test_purged_writes_that_a_delete_saw_end_nothing():
    oracle = Oracle()
    oracle.record_traitor(2, 0)
    oracle.purged[2] = None
    first = wrote(oracle, column="birth")
    bad = wrote(oracle, over=first, node=2, column="birth")
    oracle.record_delete(oracle.token(), 3, 9, (text_of(first), text_of(bad)))
    assert verdict(oracle, [first])


def test_contents_do_not_depend_on_the_order_of_rows():
    one, other = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    rows = [(1, 2.0, None, "4", b"5"), (1, 2, 3, 4, 5), (None, None, None, None, "6")]
    for db, order in ((one, rows), (other, rows[::-1])):
        db.execute(SCHEMA)
        db.executemany("INSERT INTO drones VALUES (?, ?, ?, ?, ?)", order)
    assert contents_of(one) == contents_of(other)
    assert len(contents_of(one)["drones"]) == 3
    other.execute("DELETE FROM drones WHERE drone_id IS NULL")
    assert contents_of(one) != contents_of(other)


def test_traces_are_found_in_conflicts_and_parked_rows():
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE mycomesh_conflicts(a, reason, lost); CREATE TABLE mycomesh_parked(a, b, content)")
    db.execute("""INSERT INTO mycomesh_conflicts VALUES (1, 'two values', '{"note": "<w7>"}')""")
    db.execute("""INSERT INTO mycomesh_conflicts VALUES (1, 'deleted elsewhere, as member x reports', '<w8>')""")
    db.execute("INSERT INTO mycomesh_parked VALUES (1, 2, x'643c77393e')")
    assert kept_tokens(db) == [7, 9]


AREA = "7"


def strayed(oracle, writers, readers, *, restored=True):
    """Ask about two nodes of one area with such rows, the second of which may only read it."""

    def host(index, rows):
        db = apsw.Connection(":memory:")
        db.execute("CREATE TABLE drones(altitude, drone_id, note)")
        db.executemany("INSERT INTO drones VALUES(1, 7, ?)", [(text_of(token),) for token in rows])
        return SimpleNamespace(index=index, keeps=None, application=SimpleNamespace(db=db))

    writer, reader = hosts = host(0, writers), host(1, readers)
    network = SimpleNamespace(faults=Counter(restore=int(restored)))
    cluster = SimpleNamespace(oracle=oracle, writes=(None, ()), network=network, hosts=hosts, members=lambda: hosts)
    assert not strays(cluster, writer, AREA)
    return strays(cluster, reader, AREA)


def test_reader_may_have_what_a_lost_file_held():
    oracle = Oracle()
    kept = wrote(oracle)
    oracle.record_rollback(0, 6)
    lost = wrote(oracle)
    assert not strayed(oracle, [kept], [kept, lost])
    oracle.record_rollback(0, 5)
    assert strayed(oracle, [kept], [kept, lost])
    assert not strayed(oracle, [kept], [kept, lost], restored=False)


def test_reader_may_lack_what_a_lost_file_deleted():
    oracle = Oracle()
    row, other = wrote(oracle), wrote(oracle)
    oracle.record_delete(oracle.token(), 0, 9, (text_of(row),))
    assert not strayed(oracle, [row, other], [other])
    oracle.record_rollback(0, 9)
    assert strayed(oracle, [row, other], [other])
    assert not strayed(oracle, [row, other], [row])


@pytest.mark.parametrize(
    ("node", "table", "right"), [(0, "drones", True), (1, "drones", False), (0, "missions", False)]
)
def test_equal_rows_may_hide_a_lost_delete(node, table, right):
    """It was a delete in the table that is cut, and its node may write the area."""
    oracle = Oracle()
    row, gone = wrote(oracle), wrote(oracle, node=node, table=table)
    oracle.record_rollback(node, 5)
    assert not strayed(oracle, [row], [row])
    oracle.record_delete(oracle.token(), node, 9, (text_of(gone),))
    oracle.record_rollback(node, 9)
    assert strayed(oracle, [row], [row]) == right
