"""The application: plain SQL on a stock connection, and what it tells the oracle."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.oracle import Oracle, tokens_in
from mycomesh.simulations.workload import TABLES, Application, Rates
from mycomesh.simulations.world import EPOCH_MS, World

BUSY = Rates(telemetry=1, edit=2, insert=1, delete=1, alert=1, trim=0.5, rename=1, burst=1, rows=5)


def application(path, rates=BUSY, seed=1, node=0):
    oracle = Oracle()
    app = Application(node, rates, World(seed).stream(f"application/{node}"), oracle)
    app.open(str(path), lambda: EPOCH_MS, schema=True)
    return app, oracle


def visible_in(db):
    return {
        token
        for table in TABLES
        for row in db.execute(f"SELECT * FROM {table}")
        for value in row
        for token in tokens_in(value)
    }


def test_with_one_application_exactly_unreplaced_values_are_visible(tmp_path):
    app, oracle = application(tmp_path / "a.db")
    kinds = {app.act(number) for number in range(400)}
    assert kinds == {"telemetry", "edit", "insert", "delete", "alert", "trim", "rename", "burst"}
    assert visible_in(app.db) == {token for token in oracle.written if not oracle.is_replaced(token)}
    assert oracle.deletes
    app.close()


def test_the_same_seed_writes_the_same(tmp_path):
    contents = []
    for name in ("a.db", "b.db"):
        app, _ = application(tmp_path / name)
        for number in range(100):
            app.act(number)
        contents.append([app.db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES])
        app.close()
    assert contents[0] == contents[1]


def test_triggers_see_the_virtual_time(tmp_path):
    app, _ = application(tmp_path / "a.db")
    app.db.execute("CREATE TABLE log(at)")
    app.db.execute("CREATE TRIGGER t AFTER INSERT ON alerts BEGIN INSERT INTO log VALUES (julianday()); END")
    app.db.execute("INSERT INTO alerts VALUES ('x', 'y')")
    ((day,),) = app.db.execute("SELECT at FROM log")
    assert round((day - 2_440_587.5) * 86_400_000) == EPOCH_MS
    app.close()


def test_tables_that_have_not_arrived_are_left_alone(tmp_path):
    app = Application(0, BUSY, World(1).stream("a"), Oracle())
    app.open(str(tmp_path / "a.db"), lambda: EPOCH_MS, schema=False)
    assert app.act(0) == "waiting for tables"
    assert app.commits == 0
    app.close()


def test_a_failed_transaction_tells_the_oracle_nothing(tmp_path):
    app, oracle = application(
        tmp_path / "a.db", Rates(telemetry=1, edit=0, insert=0, delete=0, alert=0, trim=0, burst=0)
    )
    app.db.execute("CREATE TRIGGER no BEFORE INSERT ON drones BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(apsw.ConstraintError):
        app.act(0)
    assert not oracle.written
    app.close()


def test_forgiven_writes_are_those_of_lost_file_since_backup(tmp_path):
    app, oracle = application(tmp_path / "a.db")
    for number in range(100):
        app.act(number)
    oracle.excuse(0, 50)
    assert {token for token, written in oracle.written.items() if written.at_us >= 50} <= set(oracle.excused)
    assert not any(oracle.written[token].at_us < 50 for token in oracle.excused if token in oracle.written)
    app.close()


def test_negative_rates_are_refused():
    with pytest.raises(ScenarioError, match="edit: must be from 0 to 1000 a second, not -1"):
        Rates(edit=-1)
