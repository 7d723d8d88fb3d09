"""A served file as a flow sees it, and changes as the feed has them."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.tools.flows.settings import parse
from mycomesh.tools.flows.writer import Writer

SITE = "ab" * 16
TABLES = "CREATE TABLE drones(id TEXT PRIMARY KEY, battery); CREATE TABLE alerts(key TEXT PRIMARY KEY, drone TEXT, what TEXT)"


@pytest.fixture
def change():
    """Return a function that makes the change with a number."""

    def make(number, **values):
        return {
            "id": f"drones/{SITE}/{number}",
            "table": "drones",
            "op": "insert",
            "row": str(values.get("id")),
            "who": "alpha",
            "at": "2026-12-01T08:00:00Z",
            "key": {"id": values.get("id")},
            "values": values,
            "columns": sorted(values),
        }

    return make


@pytest.fixture
def writer(tmp_path):
    """Return a function that opens a writer on a file with tables and a cursor."""
    opened = []

    def make(run, into="alerts", sql=TABLES, directory=".", **section):
        file = str(tmp_path / "f.db")
        section = {
            "on": "drones",
            "run": run if run.startswith(("python:", "exec:", "http", "onnx:")) else f"sql: {run}",
            **({"into": into} if into else {}),
            **section,
        }
        settings = parse("low", section, directory)
        with apsw.Connection(file) as db:
            db.execute(sql)
            db.execute("CREATE TABLE IF NOT EXISTS mycomesh_cursors(name, table_name, area, position)")
            db.execute("INSERT INTO mycomesh_cursors VALUES(?, ?, '', x'00')", (settings.cursor, fold(settings.table)))
        opened.append(Writer(file, settings))
        assert opened[-1].read_position()
        return opened[-1]

    yield make
    for each in opened:
        each.close()
    apsw.hard_heap_limit(0)  # a writer sets it, for the whole process


@pytest.fixture
def rows(tmp_path):
    """Return a function that reads the file by SQL."""
    return lambda sql: apsw.Connection(str(tmp_path / "f.db")).execute(sql).fetchall()
