"""Seeds that once failed hold: one run a line of data/seeds.txt, the costly ones in `make long` alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from mycomesh.simulations.cli import add_arguments, main
from tests.sync.scale import SCALE

QUICK, COSTLY = (Path(__file__).parent / "data" / "seeds.txt").read_text().split("# ---- only in `make long`")
LINES = [
    line.split("#")[0].split()
    for line in (QUICK if SCALE == 1 else QUICK + "#" + COSTLY).splitlines()
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
