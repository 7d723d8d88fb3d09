"""A short run of every fuzz target, the same one each time; `python -m tests.fuzz TARGET` runs for as long as you like."""

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz.targets import TARGETS, fuzz_test
from tests.sync.scale import examples

REPLICA_TARGETS = {"answers", "changes", "facts", "repairs"}  # each example opens files


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_target_holds_against_hostile_input(name):
    count, sample = (12, 8) if name in REPLICA_TARGETS else (150, 100)
    fuzz_test(name, examples(count, sample=sample))()


def test_the_command_counts_what_it_ran(capsys, monkeypatch):
    monkeypatch.setattr(command, "ROUND_EXAMPLES", 20)
    assert command.fuzz("join-codes", seconds=0, first_seed=3, rounds=2) == 0
    assert "40 executions in 2 rounds" in capsys.readouterr().out


def test_a_failure_prints_the_line_that_replays_it(capsys, monkeypatch):
    monkeypatch.setattr(command, "ROUND_EXAMPLES", 50)
    monkeypatch.setattr("mycomesh.mesh.membership.enrolment.JoinCode.parse", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command.fuzz("join-codes", seconds=0, first_seed=3, rounds=2)
    assert "replay: python -m tests.fuzz join-codes --seed 3 --rounds 1" in capsys.readouterr().err
