"""SQL of flows: which statement a section becomes, and what does not fit its tables."""

from __future__ import annotations

import pytest

from mycomesh.tools.flows.sql_function import FunctionError
from mycomesh.tools.flows.writer import Batch


def write(writer, *changes):
    return writer.write(Batch(len(changes), list(changes), list(range(len(changes)))), b"\x01", lambda _: b"\x02")


def test_several_results_of_a_row_have_several_keys(writer, change, rows):
    flow = writer("SELECT new.id AS drone, value AS what FROM new, json_each(battery)")
    write(flow, change(1, id="d1", battery="[1, 2, 3]"), change(2, id="d2", battery="[4]"))
    assert rows("SELECT drone, what FROM alerts ORDER BY what") == [("d1", "1"), ("d1", "2"), ("d1", "3"), ("d2", "4")]
    before = rows("SELECT * FROM alerts ORDER BY key")
    write(flow, change(1, id="d1", battery="[1, 2, 3]"))
    assert rows("SELECT * FROM alerts ORDER BY key") == before, "a replay writes the same rows"


def test_a_key_of_integers_is_derived(writer, change, rows):
    sql = "CREATE TABLE drones(id TEXT PRIMARY KEY, battery); CREATE TABLE alerts(id INTEGER PRIMARY KEY, drone)"
    flow = writer("SELECT id AS drone FROM new", sql=sql)
    write(flow, change(1, id="d1", battery=1), change(2, id="d2", battery=1))
    write(flow, change(1, id="d1", battery=1))
    assert rows("SELECT drone, typeof(id), id > 1 << 40 FROM alerts ORDER BY drone") == [
        ("d1", "integer", 1),
        ("d2", "integer", 1),
    ]


def test_a_key_that_the_select_makes_is_written_again(writer, change, rows):
    flow = writer("SELECT id AS key, battery AS what FROM new")
    write(flow, change(1, id="d1", battery=5))
    write(flow, change(2, id="d1", battery=7))
    assert rows("SELECT key, what FROM alerts") == [("d1", "7")]


def test_an_insert_has_the_key_and_the_writer(writer, change, rows):
    flow = writer(
        "WITH x AS (SELECT * FROM new) INSERT OR IGNORE INTO alerts SELECT _key, _node, _at FROM x", into=None
    )
    write(flow, change(1, id="d1", battery=5))
    write(flow, change(1, id="d1", battery=5))
    assert rows("SELECT drone, what, length(key) FROM alerts") == [("alpha", "2026-12-01T08:00:00Z", 32)]


def test_on_selects_what_is_new(writer, change, rows):
    flow = writer("SELECT name AS drone FROM new", on="SELECT upper(id) AS name FROM drones WHERE battery < 20")
    write(flow, change(1, id="d1", battery=5), change(2, id="d2", battery=50))
    assert rows("SELECT drone FROM alerts") == [("D1",)]


def test_blobs_and_broken_text_keep_their_bytes(writer, change, rows):
    flow = writer("SELECT id AS drone, hex(battery) || typeof(battery) AS what FROM new")
    write(flow, change(1, id="d1", battery={"base64": "AP8="}))
    assert rows("SELECT what FROM alerts") == [("00FFblob",)]


@pytest.mark.parametrize(
    ("run", "sql", "said"),
    [
        ("SELECT volt AS what FROM new", None, "no such column: volt; columns of drones are id, battery"),
        ("SELECT id FROM new", None, "alerts has no column 'id'"),
        (
            "SELECT id AS a FROM new",
            "CREATE TABLE drones(id, battery); CREATE TABLE alerts(a, b, PRIMARY KEY(a, b))",
            "must make the key of alerts, a, b",
        ),
    ],
)
def test_sql_that_does_not_fit_is_named(writer, run, sql, said):
    flow = writer(run, **({"sql": sql} if sql else {}))
    with pytest.raises(FunctionError, match=said):
        flow.check()


def test_several_nodes_need_a_key(writer):
    flow = writer("SELECT id AS a FROM new", sql="CREATE TABLE drones(id); CREATE TABLE alerts(a)", where="everywhere")
    with pytest.raises(FunctionError, match="alerts needs a primary key"):
        flow.check()
