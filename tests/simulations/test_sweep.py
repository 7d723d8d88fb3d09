"""Sweeps go on where they stopped, say what is wrong with their file, and make failures small; on processes and on Dask."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex

import pytest

from mycomesh.simulations import cli, sweep
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.minimise import TRIES_MAX, kind_of, minimised
from mycomesh.simulations.numbers import numbers, numbers_text
from mycomesh.simulations.request import Request
from mycomesh.simulations.runner import Result
from mycomesh.simulations.sweep import Results, spread
from tests.sync.scale import SCALE

CALM = ("two-nodes", "--duration", "2", "--mesh", "plain")
DASK = importlib.util.find_spec("distributed") is not None


def simulate(*words):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args(words))


def seeds_in(path):
    return [json.loads(line)["result"]["seed"] for line in path.read_text().splitlines()]


def test_a_sweep_goes_on_where_it_stopped(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    assert simulate(*CALM, "--seeds", "1..2", "--results", str(file)) == 0
    first = file.read_bytes()
    capsys.readouterr()
    assert simulate(*CALM, "--seeds", "1..4", "--results", str(file), "--jobs", "2") == 0
    out, err = capsys.readouterr()
    assert file.read_bytes().startswith(first)
    assert sorted(seeds_in(file)) == [1, 2, 3, 4]
    assert [line.split()[1] for line in out.splitlines()[1:-1]] == ["1", "2", "3", "4"]
    assert out.splitlines()[-1] == "4 of 4 seeds held"
    assert "has 2 of 4 seeds already" in err


def test_torn_last_line_is_reported_and_its_seed_repeated(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    assert simulate(*CALM, "--seeds", "1..2", "--results", str(file)) == 0
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    capsys.readouterr()
    assert simulate(*CALM, "--seeds", "1..2", "--results", str(file)) == 0
    assert "removed an incomplete last line" in capsys.readouterr().err
    assert seeds_in(file) == [1, 2]


def test_results_of_other_requests_or_code_do_not_count(tmp_path, capsys, monkeypatch):
    file = tmp_path / "results.jsonl"
    assert simulate(*CALM, "--seed", "1", "--results", str(file)) == 0
    assert simulate(*CALM, "--seed", "1", "--rows", "7", "--results", str(file)) == 0
    assert "ignored 1 line(s) of other requests or other code" in capsys.readouterr().err
    monkeypatch.setattr(sweep, "code_of", lambda _request: "other code")
    assert simulate(*CALM, "--seed", "1", "--results", str(file)) == 0
    assert "2 line(s) of other requests" in capsys.readouterr().err
    assert seeds_in(file) == [1, 1, 1]


@pytest.mark.parametrize("line", ["no json", "[]", '{"request": 1}', '{"request": {}, "code": ""}'])
def test_a_file_that_holds_something_else_is_left_alone(tmp_path, capsys, line):
    file = tmp_path / "results.jsonl"
    file.write_text(line + "\n")
    code = simulate(*CALM, "--seed", "1", "--results", str(file))
    if line.endswith('""}'):  # of another request: it is not ours to judge
        assert code == 0
        return
    assert code == 2
    assert "line 1 is not a result of a sweep" in capsys.readouterr().err
    assert file.read_text() == line + "\n"


def test_a_stored_result_is_the_result(tmp_path):
    request = Request("two-nodes", 2, 2.0, "plain")
    results = Results(str(tmp_path / "r"), request)
    ran = request.attempt(3)
    results.add(ran)
    assert Results(str(tmp_path / "r"), request).of([3]) == [ran]


@pytest.mark.slow
@pytest.mark.skipif(SCALE == 1, reason="starts a cluster: runs in make long")
@pytest.mark.skipif(not DASK, reason="needs the extra: pip install 'mycomesh[cluster]'")
def test_a_dask_cluster_gives_the_same_results(tmp_path):
    request = Request("two-nodes", 2, 2.0, "plain")
    with spread(2, "LOCAL") as run_all:
        far = {result.seed: result.trace for result in run_all(request, range(1, 6))}
    assert far == {seed: request.attempt(seed).trace for seed in range(1, 6)}


def test_without_dask_the_line_says_what_to_install(monkeypatch, capsys):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(sweep.importlib, "import_module", missing)
    assert simulate(*CALM, "--seeds", "1..2", "--cluster", "LOCAL") == 2
    assert "pip install 'mycomesh[cluster]'" in capsys.readouterr().err


def test_run_that_breaks_is_failure_that_names_place(monkeypatch, capsys):
    def broken(_cluster):
        raise AssertionError("planted")

    monkeypatch.setattr("mycomesh.simulations.runner.violations", broken)
    assert simulate(*CALM, "--seeds", "4..5", "--minimise", "0") == 1
    out, err = capsys.readouterr()
    assert "test_sweep.py:" in out
    assert "AssertionError: planted" in out
    assert "replay: mycomesh simulate two-nodes --nodes 2 --seed 5" in err


# ---- small failures


def wrong_if(test):
    """Runs that fail when the scenario of the request passes the test."""

    def attempt(self, seed):
        scenario = self.expand(seed)
        violations = ("node 1: missions differs from node 0",) if test(scenario) else ()
        return Result(scenario.name, seed, scenario.nodes, True, "", violations, 1.0, 1, 1, 0.0, 1, "")

    return attempt


def test_a_failure_is_minimised_to_what_it_needs(monkeypatch):
    guilty = Request("storm", 12, 60.0).expand(7).faults
    monkeypatch.setattr(Request, "attempt", wrong_if(lambda it: it.nodes >= 5 and it.duration_s >= 10 and it.faults))
    request = Request("storm", 12, 60.0)
    small, result = minimised(request, request.attempt(7))
    assert not result.ok
    assert small.nodes in {5, 6}
    assert 10 <= small.duration_s < 15
    assert len(small.expand(7).faults) == 1 < len(guilty)
    assert small.changes.rows == 1
    assert minimised(request, request.attempt(7)) == (small, result)


def test_the_search_is_bounded_to_one_kind_of_failure(monkeypatch):
    tries = []
    right = wrong_if(lambda it: it.nodes >= 3)

    def attempt(self, seed):
        tries.append(self)
        return right(self, seed)

    monkeypatch.setattr(Request, "attempt", attempt)
    request = Request("storm", 40, 600.0)
    failed = right(request, 1)
    small, _ = minimised(request, failed)
    assert len(tries) <= TRIES_MAX
    assert small.nodes == 3
    assert kind_of(failed) == "differs from"


def test_the_minimised_line_is_written_down_and_really_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "mycomesh.simulations.runner.violations",
        lambda cluster: ["node 0: is down at the end"] if cluster.network.faults["split"] else [],
    )
    file = tmp_path / "results.jsonl"
    words = (
        "split-brain",
        "--nodes",
        "4",
        "--duration",
        "8",
        "--mesh",
        "plain",
        "--seeds",
        "1..1",
        "--results",
        str(file),
    )
    assert simulate(*words) == 1
    line = capsys.readouterr().err.splitlines()[-1].removeprefix("minimised: ")
    assert line.startswith(
        "mycomesh simulate split-brain --nodes 2 --seed 1 --duration 2 --rows 1 --mesh plain --skip-faults"
    )
    assert simulate(*shlex.split(line)[2:]) == 1
    capsys.readouterr()
    assert simulate(*words) == 1  # nothing is run again, the line is there
    assert capsys.readouterr().err.splitlines()[-1] == f"minimised: {line}"


@pytest.mark.parametrize(("text", "values"), [("0", (0,)), ("0-3,7", (0, 1, 2, 3, 7)), ("2,4-5", (2, 4, 5))])
def test_lists_of_faults_are_short(text, values):
    assert numbers(text) == values
    assert numbers_text(values) == text


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,,2", "0-999999999"])
def test_other_lists_are_refused(text):
    with pytest.raises(ScenarioError, match="--skip-faults"):
        numbers(text)
