"""A metered link between real nodes: its budget holds, alerts pass what waits, and a restart does not forget the day."""

from __future__ import annotations

import time

import pytest

from tests.integration.machines import Machine, eventually

RATE = 40_000  # bytes a second
ROWS = 1_500
FILL = (
    f"WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
    " INSERT INTO telemetry SELECT i, hex(randomblob(60)) FROM n;"
)


@pytest.fixture
def machines(tmp_path):
    pair = [Machine(tmp_path, name) for name in ("drone", "ground")]
    yield pair
    for machine in pair:
        if machine.process is not None:
            machine.terminate()


def metered(machine):
    return machine.status().get("metered") or {}


@pytest.mark.slow
def test_a_metered_link_keeps_its_budget(machines):
    drone, ground = machines
    ground.sql("CREATE TABLE telemetry(id INTEGER PRIMARY KEY, x); CREATE TABLE alerts(id INTEGER PRIMARY KEY, x)")
    ground.done("init")
    ground.up("--port", "0", "--urgent", "alerts")
    drone.done("join", ground.done("invite").strip(), "--no-multicast", "--peer", ground.address)
    drone.home.config.mkdir(exist_ok=True)
    (drone.home.config / "config.toml").write_text(f'[link]\nbudget = "{RATE} B/s"\ndaily = "100 MB"\n')
    drone.up("--port", "0", "--peer", ground.address)
    drone.shows("SELECT count(*) FROM telemetry", "0\n")
    before, started = metered(drone)["spent_bytes"], time.monotonic()
    ground.sql(FILL)  # of the end that has no budget
    ground.sql("INSERT INTO alerts VALUES(1, 'smoke')")
    drone.shows("SELECT x FROM alerts", "smoke\n")
    assert drone.sql("SELECT count(*) FROM telemetry") != f"{ROWS}\n", "the alert has passed what waits"
    drone.shows("SELECT count(*) FROM telemetry", f"{ROWS}\n")
    spent, elapsed_s = metered(drone)["spent_bytes"] - before, time.monotonic() - started
    assert spent > 120 * ROWS, "each row is sent"
    assert spent <= RATE * elapsed_s + 200_000, "a second's burst and the first window exceed the rate"
    assert "metered links: 1" in drone.done("status")
    drone.terminate()
    drone.up("--port", "0", "--peer", ground.address)
    eventually(lambda: metered(drone).get("spent_bytes", 0) >= spent, lambda: f"the day is known: {metered(drone)}")


@pytest.mark.slow
def test_a_table_keeps_its_budget_beside_others(machines):
    drone, ground = machines
    drone.sql("CREATE TABLE telemetry(id INTEGER PRIMARY KEY, x); CREATE TABLE missions(id INTEGER PRIMARY KEY, x)")
    drone.done("init")
    drone.home.config.mkdir(exist_ok=True)
    (drone.home.config / "config.toml").write_text(f'[table.telemetry]\nbudget = "{RATE} B/s"\n')
    drone.up("--port", "0")
    ground.done("join", drone.done("invite").strip(), "--no-multicast", "--peer", drone.address)
    ground.up("--port", "0", "--peer", drone.address)
    ground.shows("SELECT count(*) FROM telemetry", "0\n")
    before, started = metered(drone)["spent_bytes"], time.monotonic()
    drone.sql(FILL)
    drone.sql("INSERT INTO missions VALUES(1, 'go')")
    ground.shows("SELECT x FROM missions", "go\n")
    assert ground.sql("SELECT count(*) FROM telemetry") != f"{ROWS}\n", "the other table does not wait"
    eventually(lambda: "for its own budget: telemetry" in drone.done("status"), lambda: drone.done("status"))
    ground.shows("SELECT count(*) FROM telemetry", f"{ROWS}\n")
    spent, elapsed_s = metered(drone)["spent_bytes"] - before, time.monotonic() - started
    assert 100 * ROWS < spent <= RATE * (elapsed_s + 1) + 100_000
    assert "limits: those of single tables" in drone.done("status")
    drone.terminate()
    drone.up("--port", "0")
    eventually(lambda: metered(drone).get("spent_bytes", 0) >= spent, lambda: f"the day is known: {metered(drone)}")
