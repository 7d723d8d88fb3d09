"""Small clusters of real nodes: what design.md section 8 promises, under each kind of trouble, and determinism."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.runner import run
from simulations.scenarios import CATALOGUE, build

ROOT = Path(__file__).parents[2]


def check(result):
    assert result.converged, result.violations
    assert result.violations == ()


@pytest.mark.parametrize("mesh", ["real", "plain"])
def test_two_nodes_that_write_at_once_converge(mesh):
    result = run(build("two-nodes", seed=1, duration_s=20), 1, mesh=mesh)
    check(result)
    assert result.commits > 50
    assert result.faults.get("crash", 0) == 0


@pytest.mark.parametrize(
    ("name", "nodes", "seed", "struck"),
    [
        ("split-brain", 5, 1, "split"),
        ("flapping", 4, 1, "radio_off"),
        ("late-returner", 4, 1, "radio_off"),
        ("rolling-restart", 4, 2, "crash"),
        ("clock-chaos", 4, 1, "clock"),
    ],
)
def test_after_trouble_all_are_equal_and_nothing_is_lost(name, nodes, seed, struck):
    result = run(build(name, seed=seed, nodes=nodes, duration_s=40), seed)
    check(result)
    assert result.faults[struck] > 0, "the fault that this scenario is about never struck"


def test_a_newcomer_with_an_empty_file_gets_the_tables():
    scenario = build("late-returner", seed=4, nodes=3, duration_s=20)
    (newcomer,) = scenario.absent
    tables = []

    def inspect(cluster):
        db = cluster.places[newcomer].application.db
        tables.extend(db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall())

    check(run(scenario, 4, inspect=inspect))
    assert {("drones",), ("missions",), ("alerts",), ("callsigns",)} <= set(tables)


def one_line(name, seed, hash_seed, *extra):
    command = [sys.executable, "-m", "simulations", name, "--seed", str(seed), "--duration", "15", "--json", *extra]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["flapping", "rolling-restart"])
def test_the_same_seed_is_the_same_run_whatever_the_hash_seed(name):
    one, other = (one_line(name, 3, hash_seed) for hash_seed in ("1", "2"))
    del one["real_s"], other["real_s"]
    assert one == other
    assert one["events"] > 500


def test_another_seed_is_another_run():
    runs = [run(build("two-nodes", seed=seed, duration_s=5), seed).trace for seed in (1, 2)]
    assert runs[0] != runs[1]


def test_every_scenario_starts():
    for name in CATALOGUE:
        result = run(build(name, seed=1, duration_s=4), 1, mesh="plain")
        assert result.virtual_s >= 4
        assert result.commits > 0


EVERY_TRACE = """
from simulations.runner import run
from simulations.scenarios import CATALOGUE, Changes, build
for name in CATALOGUE:
    print(name, run(build(name, seed=5, nodes=3, duration_s=6, changes=Changes(loss=0.01)), 5).trace)
"""


def test_every_scenario_has_one_trace_a_seed_whatever_the_hash_seed():
    runs = [
        subprocess.run(
            [sys.executable, "-c", EVERY_TRACE],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert [line.split()[0] for line in runs[0]] == list(CATALOGUE)
