"""Results, cursor and dead letters are one transaction, and nothing is written twice."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.tools.flows import writer as module
from mycomesh.tools.flows.clock import StatementClock
from mycomesh.tools.flows.writer import Batch, MovedError

FAILS = "SELECT id AS drone, abs(-9223372036854775807 - battery) AS what FROM new"


def batch(changes):
    return Batch(len(changes), changes, list(range(len(changes))))


def test_a_cursor_that_another_process_moved_writes_nothing(writer, change, rows):
    flow = writer("SELECT id AS drone FROM new")
    rows("UPDATE mycomesh_cursors SET position = x'07'")
    with pytest.raises(MovedError):
        flow.write(batch([change(1, id="d1", battery=1)]), b"\x01", lambda _: b"\x02")
    assert rows("SELECT count(*) FROM alerts") == [(0,)]
    assert rows("SELECT position FROM mycomesh_cursors") == [(b"\x07",)]


def test_a_row_that_fails_leaves_the_others(writer, change, rows):
    flow = writer(FAILS)
    changes = [change(number, id=f"d{number}", battery=int(number == 3)) for number in range(1, 6)]
    assert flow.write(batch(changes), b"\x01", lambda _: b"\x02") == 5
    assert [row[0] for row in rows("SELECT drone FROM alerts ORDER BY drone")] == ["d1", "d2", "d4", "d5"]
    assert rows("SELECT reader, row, why FROM mycomesh_dead_letters") == [("flow.low", "d3", "integer overflow")]
    assert rows("SELECT position FROM mycomesh_cursors") == [(b"\x01",)]


def test_too_many_failures_stop_at_the_last_one(writer, change, rows):
    flow = writer(FAILS)
    changes = [change(number, id=f"d{number}", battery=1) for number in range(50)]
    assert flow.write(batch(changes), b"\x01", lambda count: bytes([count])) == 20
    assert flow.judge.stops
    assert rows("SELECT count(*) FROM mycomesh_dead_letters") == [(20,)]
    assert rows("SELECT position FROM mycomesh_cursors") == [(bytes([20]),)]


def test_sql_without_an_end_is_interrupted(writer, change, rows, monkeypatch):
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS what FROM n, new"
    monkeypatch.setattr(StatementClock, "_is_late", lambda self: self._until_s > 0)
    flow = writer(f"{endless} WHERE battery = 0", timeout_s=1)
    assert flow.write(batch([change(1, id="d1", battery=0)]), b"\x01", lambda _: b"\x02") == 1
    assert rows("SELECT why FROM mycomesh_dead_letters") == [("took longer than 1 s",)]


def test_a_long_transaction_ends_before_its_page(writer, change, rows, monkeypatch):
    flow = writer(FAILS)
    monkeypatch.setattr(module, "HELD_S_MAX", -1.0)
    monkeypatch.setattr(module, "CHUNK", 2)
    changes = [change(number, id=f"d{number}", battery=int(number == 3)) for number in range(1, 6)]
    places = []
    while changes:
        done = flow.write(batch(changes), b"\x09", lambda count: bytes([count]))
        places.append((done, rows("SELECT position FROM mycomesh_cursors")[0][0]))
        changes = changes[done:]
    assert places == [(2, b"\x02"), (1, b"\x01"), (2, b"\x09")], "singly where one of two fails"
    assert rows("SELECT drone FROM alerts ORDER BY drone") == [("d1",), ("d2",), ("d4",), ("d5",)]
    assert rows("SELECT row FROM mycomesh_dead_letters") == [("d3",)]


def test_other_programs_write_between_slow_transactions(writer, change, rows, monkeypatch):
    rested = []
    monkeypatch.setattr(module.time, "sleep", rested.append)
    flow = writer("SELECT id AS drone FROM new")
    flow.write(batch([change(1, id="d1", battery=1)]), b"\x01", lambda _: b"\x02")
    assert rested == []
    monkeypatch.setattr(module, "LONG_S", -1.0)
    flow.write(batch([change(2, id="d2", battery=1)]), b"\x02", lambda _: b"\x02")
    assert rested == [module.REST_S]


def test_sql_that_takes_much_memory_is_refused(writer, change, rows, monkeypatch):
    monkeypatch.setattr(module, "HEAP_MIB", 64)  # of all connections of this process
    flow = writer("SELECT hex(hex(zeroblob(30000000))) AS what FROM new")
    try:
        assert flow.write(batch([change(1, id="d1", battery=0)]), b"\x01", lambda _: b"\x02") == 1
    finally:
        apsw.hard_heap_limit(0)
    assert rows("SELECT why FROM mycomesh_dead_letters") == [("took more than 64 MiB of memory",)]


def test_a_flow_that_waited_knows_it_later(writer, rows):
    flow = writer("SELECT id AS drone FROM new", sql="CREATE TABLE drones(id)")
    assert flow.note_wait()
    rows("CREATE TABLE alerts(key TEXT PRIMARY KEY, drone)")
    assert flow.columns() == ("id",)
    flow.show("running", "")
    assert flow.note_wait()


def test_a_sample_writes_nothing(writer, change, rows):
    flow = writer(FAILS)
    rows("INSERT INTO drones VALUES('d1', 0), ('d2', 1)")
    (first, why), (second, results) = flow.sample(10)
    assert (first["id"], why) == ("d2", "integer overflow")
    assert (second["id"], results[0]["drone"]) == ("d1", "d1")
    assert rows("SELECT count(*) FROM alerts") == [(0,)]


def test_a_letter_is_tried_again_on_request(writer, change, rows):
    sql = "CREATE TABLE drones(id); CREATE TABLE alerts(key TEXT PRIMARY KEY, drone); CREATE TABLE names(id)"
    flow = writer("SELECT id AS drone, id AS key FROM new WHERE abs(-9223372036854775807 - (id NOT IN names))", sql=sql)
    flow.write(batch([change(1, id="d1"), change(2, id="d2")]), b"\x01", lambda _: b"\x02")
    rows("INSERT INTO names VALUES('d1')")
    flow.retry()
    assert rows("SELECT count(*) FROM mycomesh_dead_letters") == [(2,)], "nobody has asked"
    rows("UPDATE mycomesh_dead_letters SET tries = 0")
    flow.retry()
    assert rows("SELECT drone FROM alerts") == [("d1",)]
    assert rows("SELECT row, tries FROM mycomesh_dead_letters") == [("d2", 1)]
