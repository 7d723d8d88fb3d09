"""Planted bugs are found: a few on every run, all of them when MYCOMESH_TEST_SCALE is above 1."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mycomesh.simulations import mutations
from mycomesh.simulations.mutations import CASES, StaleMutationError, hunt, planted
from mycomesh.simulations.planted_bugs import MUTATIONS, Edit
from mycomesh.sync.crdt import lattice

QUICK = ("delete-not-captured", "signature-not-checked", "revocation-not-heeded")
SCALE = float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [each.name for each in MUTATIONS if SCALE > 1 or each.name in QUICK])
def test_a_planted_bug_is_found(name):
    found = hunt(CASES[name])
    assert found.seed is not None, f"{name} survived {found.tried} seeds: a checker is missing"


@pytest.mark.slow
def test_the_same_run_holds_without_the_bug():
    result = CASES["signature-not-checked"].case.run(1)
    assert result.ok, result.violations
    assert result.notices["warning: batch.forged"] > 0


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_applies_and_is_taken_back(mutation):
    functions = [mutations._function(mutation, edit)[0] for edit in mutation.edits]
    before = [function.__code__ for function in functions]
    with planted(mutation):
        assert all(function.__code__ is not code for function, code in zip(functions, before, strict=True))
    assert [function.__code__ for function in functions] == before


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit("mycomesh.sync.crdt.lattice:join", "no such text", ""), "is 0 times in mycomesh.sync.crdt.lattice:join"),
        (Edit("mycomesh.sync.crdt.lattice:join", "gained", ""), "times in mycomesh.sync.crdt.lattice:join, not once"),
        (Edit("mycomesh.sync.crdt.lattice:joined", "x", ""), "there is no mycomesh.sync.crdt.lattice:joined"),
    ],
)
def test_a_mutation_that_does_not_apply_is_an_error(edit, message):
    stale = replace(MUTATIONS[0], edits=(edit,))
    before = lattice.join.__code__
    with pytest.raises(StaleMutationError, match=message), planted(stale):
        pass
    assert lattice.join.__code__ is before


def test_list_is_long_enough_and_command_names_it(capsys):
    assert len(CASES) == len(MUTATIONS) >= 12
    assert mutations.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTATIONS)
    assert mutations.main(["nonsense"]) == 2


def test_the_docs_list_every_mutation_as_the_code_does():
    """`python -m simulations.mutations --table` prints the table; what a run found is its last two columns."""
    text = (Path(__file__).parents[2] / "docs" / "simulations.md").read_text()
    table = text[text.index(mutations.TABLE[0]) :].split("\n\n")[0].splitlines()[2:]
    stated = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    assert [row[:4] for row in stated] == [[each.name, each.why, each.case.text, str(each.seeds)] for each in MUTATIONS]
    assert all(1 <= int(row[4]) <= int(row[3]) for row in stated)
