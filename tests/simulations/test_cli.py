"""`mycomesh simulate`: its output, its exit codes, and one clear line for what cannot be."""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile

import pytest

from mycomesh.simulations.cli import add_arguments, main
from mycomesh.simulations.console import Bar
from mycomesh.simulations.scenarios import CATALOGUE


def simulate(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args(words))


def test_the_list_names_every_scenario(capsys):
    assert simulate("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOGUE)


def test_a_run_prints_a_table_for_people(capsys):
    assert simulate("two-nodes", "--duration", "3", "--seed", "5") == 0
    out, err = capsys.readouterr()
    names, row = out.splitlines()
    assert names.split()[:4] == ["scenario", "seed", "held", "nodes"]
    assert row.split()[:4] == ["two-nodes", "5", "yes", "2"]
    assert err == ""


def test_json_is_one_object_a_run(capsys):
    assert simulate("two-nodes", "--duration", "3", "--seeds", "5..6", "--json", "--jobs", "2") == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["seed"] for result in results] == [5, 6]
    fields = {"scenario", "seed", "nodes", "converged", "trace", "violations", "virtual_s", "events", "bytes"}
    assert all(fields <= set(result) for result in results)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a scenario"),
        (["nonsense"], "no scenario 'nonsense'"),
        (["two-nodes", "--nodes", "-3"], "--nodes for two-nodes: must be a whole number from 2"),
        (["two-nodes", "--duration", "-1"], "--duration: must be more than 0"),
        (["two-nodes", "--seeds", "9..3"], "--seeds: must be A..B"),
        (["two-nodes", "--seeds", "all"], "--seeds: must be A..B"),
        (["two-nodes", "--seed", "-3"], "--seed: must be a whole number from 0, not -3"),
        (["two-nodes", "--seed", "1", "--seeds", "1..2"], "--seed or --seeds, not both"),
        (["two-nodes", "--jobs", "0"], "--jobs: must be from 1"),
    ],
)
def test_an_impossible_run_is_one_line_and_exit_2(words, message, capsys):
    assert simulate(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_failing_run_prints_the_line_that_replays_it(capsys, monkeypatch):
    monkeypatch.setattr("mycomesh.simulations.runner.violations", lambda _cluster: ["node 1: planted"])
    assert simulate("two-nodes", "--duration", "2", "--seed", "9", "--mesh", "plain") == 1
    out, err = capsys.readouterr()
    assert "node 1: planted" in out
    assert " NO " in out
    assert err == "replay: mycomesh simulate two-nodes --nodes 2 --seed 9 --duration 2 --mesh plain\n"


def test_a_stopped_run_removes_its_files(monkeypatch, tmp_path):
    """They are in memory: a killed run of 1,000 nodes would keep a gigabyte of it."""
    made = tmp_path / "run"

    def directory(**_places):
        made.mkdir()
        return str(made)

    def told(_bar, _virtual_s):
        assert any(made.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(tempfile, "mkdtemp", directory)
    monkeypatch.setattr(Bar, "live", True, raising=False)
    monkeypatch.setattr(Bar, "show", told)
    with pytest.raises(SystemExit) as ended:
        simulate("two-nodes", "--duration", "3")
    assert ended.value.code == 128 + signal.SIGTERM
    assert not made.exists()
    assert signal.getsignal(signal.SIGTERM) is before
