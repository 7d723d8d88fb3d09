"""Kills and splits: two nodes run the same flows, processes die and links break, and each input has its results once."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import subprocess

import pytest

from mycomesh.tools.models.onnx_file import FLOAT, Value, constant, model, node
from tests.integration import machines
from tests.integration.machines import SQLITE, Machine, eventually
from tests.sync.scale import SCALE

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

ROWS = 800 if SCALE == 1 else 50_000
ROUNDS = 4 if SCALE == 1 else 40
CONFIG = """
[flow.own]
on = "drones"
run = "sql: INSERT INTO by_own SELECT drone FROM new"

[flow.py]
on = "drones"
run = "python:crew:seen"
into = "by_py"

[flow.all]
on = "drones"
run = "sql: SELECT drone FROM new"
into = "by_all"
where = "everywhere"

[flow.one]
on = "drones"
run = "python:crew:seen"
into = "by_one"
where = "one"
"""
TABLES = (
    "CREATE TABLE drones(drone TEXT PRIMARY KEY, weight REAL); CREATE TABLE by_own(drone);"
    "CREATE TABLE by_py(key TEXT PRIMARY KEY, drone);"
    "CREATE TABLE by_all(id INTEGER PRIMARY KEY, drone); CREATE TABLE by_one(key TEXT PRIMARY KEY, drone);"
    "CREATE TABLE by_net(key TEXT PRIMARY KEY, drone, score)"
)
RESULTS = ["by_own", "by_py", "by_all", "by_one"]
if importlib.util.find_spec("onnxruntime") is not None:
    CONFIG += '[flow.net]\non = "drones"\nrun = "onnx: net"\ninto = "by_net"\n'
    RESULTS.append("by_net")
NET = model(
    [node("Mul", ["weight", "two"], "score")],
    [Value("weight", FLOAT, ["n"])],
    [Value("score", FLOAT, ["n"])],
    [constant("two", [1], [2.0])],
)


def prepare(machine):
    (machine.home.config / "crew.py").write_text("def seen(row):\n    return {'drone': row['drone']}\n")
    machine.home.config_file.write_text(CONFIG)
    machine.home.config_file.chmod(0o600)


def children(machine):
    return machine.status().get("children", ())


def running(machine):
    states = {each["name"]: each["state"] for each in children(machine)}
    return states and all(state in ("running", "standing by") for state in states.values())


def holders(nodes):
    """Return the machines on which the flow `one` runs."""
    return [
        each.name
        for each in nodes
        if any(child["name"] == "one" and child["state"] == "running" for child in children(each))
    ]


def kill_one(rng, machine):
    """Kill a flow's process or a worker."""
    flows = [each["pid"] for each in children(machine) if each["pid"]]
    parents = ",".join(map(str, flows))
    workers = subprocess.run(["pgrep", "-P", parents], capture_output=True, text=True, check=False).stdout.split()
    victims = rng.choice([flows, workers]) or flows
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(int(rng.choice(victims)), signal.SIGKILL)


def write(machine, label, count):
    machine.sql(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        f" INSERT INTO drones SELECT '{machine.name}-{label}-' || i, i FROM n"
    )


def restart(victim, alpha, port):
    victim.kill()
    words = ("--port", port) if victim is alpha else ("--port", "0", "--peer", alpha.address)
    victim.up(*words)


def check(nodes, written):
    """Check that each machine has the results of each input once, and goes on to have them."""
    for each in nodes:
        for table in RESULTS:
            each.shows(f"SELECT count(*), count(DISTINCT drone) FROM {table}", f"{written}|{written}\n")
    eventually(lambda: len(holders(nodes)) == 1, "one of them has the turn again")
    for each in nodes:
        eventually(lambda each=each: not any(reader["behind"] for reader in each.status()["readers"]), "all went in")
        for table in RESULTS:
            assert each.sql(f"SELECT count(*) FROM {table}") == f"{written}\n", table
        wrong = "SELECT count(*) FROM by_net JOIN drones USING(drone) WHERE score IS NOT 2 * weight"
        assert each.sql(wrong) == "0\n"
        assert each.sql("SELECT count(*) FROM mycomesh_dead_letters") == "0\n"


@pytest.mark.slow
def test_every_input_has_its_results_over_kills_and_splits(tmp_path, monkeypatch):
    # 10 s on a machine of its own: each round starts a node or loses a link.
    if SCALE != 1:
        monkeypatch.setattr(machines, "WAIT_S", 900)  # 300,000 rows go over a link that was cut all the time
    rng = random.Random(20261201)
    alpha, bravo = nodes = [Machine(tmp_path, name) for name in ("alpha", "bravo")]
    alpha.done("init", "--node-name", "alpha")
    prepare(alpha)
    alpha.sql(TABLES)
    alpha.up("--port", "0")
    bravo.done("join", alpha.done("invite").strip(), "--no-multicast", "--peer", alpha.address)
    prepare(bravo)
    bravo.up("--port", "0", "--peer", alpha.address)
    port = alpha.address.rpartition(":")[2]
    (tmp_path / "net.onnx").write_bytes(NET)
    alpha.done("model", "add", "net", str(tmp_path / "net.onnx"))
    written = 0
    try:
        for each in nodes:
            eventually(lambda each=each: running(each), f"the flows of {each.name} run")
        eventually(lambda: len(holders(nodes)) == 1, "one of them has the turn")
        for number in range(ROUNDS):
            fault = ("flow", "split", "node", "rejoin")[number % 4]
            victim = rng.choice(nodes)
            for each in nodes:
                write(each, number, ROWS // ROUNDS // 2)
            written += ROWS // ROUNDS // 2 * len(nodes)
            match fault:
                case "flow":
                    kill_one(rng, victim)
                case "split":
                    bravo.done("isolate")
                    eventually(lambda: len(holders(nodes)) == 2, "each side has its turn")
                case "node":
                    restart(victim, alpha, port)
                case _:
                    bravo.done("rejoin")
        bravo.done("rejoin")
        check(nodes, written)
    finally:
        for each in nodes:
            if each.process is not None:
                each.terminate()
