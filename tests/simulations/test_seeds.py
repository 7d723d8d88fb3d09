"""Seeds that once failed hold: one run a line of data/seeds.txt."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from mycomesh.simulations.cli import add_arguments, main

LINES = [
    line.split("#")[0].split()
    for line in (Path(__file__).parent / "data" / "seeds.txt").read_text().splitlines()
    if line.split("#")[0].strip()
]


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_seed_that_once_failed_holds(words, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    code = main(parser.parse_args([*words, "--json"]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["violations"] == []
    assert code == 0
