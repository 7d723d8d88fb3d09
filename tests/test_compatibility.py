"""The page of what was tried beside a node has a row for each trial, with the words of the trial; `make long` runs them."""

from __future__ import annotations

import re

from tests.compatibility.__main__ import COLUMNS, HEAD, PAGE
from tests.compatibility.applications import TRIALS
from tests.compatibility.rows import APPLICATIONS, DRIVERS
from tests.long import sweeps

ADVICE = {driver.name: driver.advice for driver in DRIVERS} | {
    name: advice for name, (_, advice) in APPLICATIONS.items()
}


def rows():
    text = PAGE.read_text()
    assert text.startswith(HEAD)
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in lines if cells[0] != COLUMNS[0]}


def test_every_trial_has_one_row_with_its_advice():
    found = rows()
    assert set(found) == set(ADVICE)
    assert list(TRIALS) == list(APPLICATIONS)
    for name, cells in found.items():
        assert len(cells) == len(COLUMNS)
        assert cells[4] == ADVICE[name], f"run python -m tests.compatibility {name!r} again"
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", cells[-1])


def test_a_driver_that_never_waits_has_advice():
    for driver in DRIVERS:
        if rows()[driver.name][2] == "not at all":
            assert re.search(r"5000|repeat|whole file", driver.advice), driver.name


def test_long_runs_try_all_of_them():
    assert any("tests.compatibility" in sweep.command for sweep in sweeps(1))
