"""Cycles that triggers close: SQLite says which tables a row of the results writes."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.tools.flows.cycles import written_by_triggers
from mycomesh.tools.flows.settings import parse
from mycomesh.tools.flows.sql_function import FunctionError
from mycomesh.tools.flows.writer import Writer

TABLES = """
CREATE TABLE drones(id INTEGER PRIMARY KEY); CREATE TABLE alerts(id INTEGER PRIMARY KEY, drone); CREATE TABLE log(drone);
CREATE TABLE "my pages"(id INTEGER PRIMARY KEY); CREATE VIEW pages AS SELECT * FROM "my pages";
"""
TO_LOG = "CREATE TRIGGER one AFTER UPDATE ON alerts BEGIN INSERT INTO log VALUES(1); END;"
TO_DRONES = "CREATE TRIGGER two AFTER INSERT ON log BEGIN UPDATE drones SET id = id + 1; END;"
OF_VIEW = "CREATE TRIGGER three INSTEAD OF INSERT ON pages BEGIN INSERT INTO Log VALUES(new.id); END;"
CAPTURE = "CREATE TRIGGER mycomesh_x AFTER INSERT ON alerts BEGIN INSERT INTO mycomesh_log VALUES(1); END;"


@pytest.fixture
def db(tmp_path):
    db = apsw.Connection(str(tmp_path / "f.db"))
    db.execute(f"CREATE TABLE mycomesh_log(x); {TABLES}{TO_LOG}{OF_VIEW}{CAPTURE}")
    return db


def low(into="alerts", **more):
    return parse("low", {"on": "drones", "run": "sql: SELECT id FROM new", "into": into, **more})


def test_tables_behind_triggers_are_those_of_the_user(db):
    assert written_by_triggers(db, "ALERTS") == ["log"]
    assert written_by_triggers(db, "pages") == ["log"]
    assert written_by_triggers(db, "my pages") == []
    assert written_by_triggers(db, "nowhere") == []
    db.execute(TO_DRONES)
    assert written_by_triggers(db, "alerts") == ["log", "drones"], "triggers start triggers"


@pytest.mark.parametrize("into", ["alerts", "pages"])
def test_a_trigger_that_leads_back_refuses_the_flow(db, tmp_path, into):
    writer = Writer(str(tmp_path / "f.db"), low(into))
    try:
        writer.check()
        db.execute(TO_DRONES)
        with pytest.raises(FunctionError, match="comes back to drones, by low and triggers; let it write into another"):
            writer.check()
    finally:
        writer.close()
        apsw.hard_heap_limit(0)


def test_triggers_and_flows_close_a_cycle_together(db, tmp_path):
    other = parse("back", {"on": "log", "run": "sql: SELECT 1 AS id FROM new", "into": "drones"})
    writer = Writer(str(tmp_path / "f.db"), low(), [other])
    try:
        with pytest.raises(FunctionError, match="by low -> back and triggers"):
            writer.check()
    finally:
        writer.close()
        apsw.hard_heap_limit(0)
