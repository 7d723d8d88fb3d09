"""A scenario of one's own: read in full, run, and refused in one line that names the file, the key and what is allowed."""

from __future__ import annotations

import re

import pytest

from mycomesh.mesh.versions import Versions
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.faults import ClockSet, Heal, Move, PowerCut, Split, Upgrade
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenario_file import load
from mycomesh.simulations.scenarios import Changes, build
from mycomesh.simulations.workload import Rates
from mycomesh.simulations.world import Clock

OWN = """
nodes = 3
duration = 20
settle = 100
heartbeat_ms = 2000
versions = [1, 1]
absent = [2]
tables_at = 0
urgent = ["alerts"]

[rates]
telemetry = 2
edit = 0.5
rows = 7

[network]
delay_ms = 20
jitter_ms = 5.5
bandwidth = 50000
loss = 0.01
range_m = 300

[[clock]]
node = 1
skew_ms = -4000
drift_ppm = 20

[[fault]]
kind = "heal"
at = 10

[[fault]]
kind = "split"
at = 5
groups = [[0], [1, 2]]

[[fault]]
kind = "upgrade"
at = 7
node = 1
versions = [1, 2]

[[fault]]
kind = "join"
at = 8
node = 2

[[fault]]
kind = "power-cut"
at = 12
node = 1

[[fault]]
kind = "restart"
at = 18
node = 1

[[fault]]
kind = "move"
at = 1
places = [[0, 0, 0], [1, 100.5, 0]]

[[fault]]
kind = "clock"
at = 15
node = 0
skew_ms = 900
"""


def written(folder, text):
    path = folder / "own.toml"
    path.write_text(text)
    return path


def test_every_word_of_a_file_is_in_the_scenario(tmp_path):
    scenario = load(written(tmp_path, OWN))
    assert (scenario.name, scenario.nodes, scenario.duration_s, scenario.settle_s) == ("own", 3, 20, 100)
    assert (scenario.heartbeat_ms, scenario.absent, scenario.tables_at) == (2000, (2,), 0)
    assert scenario.urgent == ("alerts",)
    assert scenario.rates == Rates(telemetry=2, edit=0.5, rows=7)
    assert scenario.conditions == Conditions(20_000, 5_500, 50_000, loss=0.01, range_m=300)
    assert scenario.clocks == (Clock(), Clock(-4000, 20), Clock())
    assert [fault.at_s for fault in scenario.faults] == [1, 5, 7, 8, 10, 12, 15, 18]
    assert Split(5, ((0,), (1, 2))) in scenario.faults
    assert Heal(10) in scenario.faults
    assert scenario.versions == Versions(1, 1)
    assert Upgrade(7, 1, Versions(1, 2)) in scenario.faults
    assert Move(1, ((0, 0, 0), (1, 100.5, 0))) in scenario.faults
    assert PowerCut(12, 1) in scenario.faults
    assert ClockSet(15, 0, Clock(900)) in scenario.faults


def test_file_runs_like_any_scenario_and_takes_same_changes(tmp_path):
    path = str(written(tmp_path, OWN))
    scenario = build(path, seed=3, nodes=4, duration_s=25, changes=Changes(rate=8, rows=5, loss=0.2))
    assert (scenario.nodes, scenario.duration_s, scenario.rates.rows, scenario.conditions.loss) == (4, 25, 5, 0.2)
    assert scenario.rates.total == pytest.approx(2)
    result = run(build(path, seed=3), 3)
    assert result.violations == ()
    assert result.faults["power_cut"] == 1
    assert result.faults["split"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("nodes = 3", "nodes = -3"), "nodes: must be a whole number from 1 to 5000, not -3"),
        (("nodes = 3", ""), "nodes: is missing; give a whole number from 1 to 5000"),
        (("duration = 20", "duration = nan"), "duration: must be a number, more than 0 and at most 604800 s, not nan"),
        (("duration = 20", "duration = 0"), "duration: must be more than 0 and at most 604800 s, not 0"),
        (("heartbeat_ms = 2000", "heartbeat_ms = 1"), "heartbeat_ms: must be a whole number from 50"),
        (("versions = [1, 1]", "versions = [2, 1]"), "versions: versions are 1 <= oldest <= newest <= 255, not 2 to 1"),
        (
            ("versions = [1, 1]", "versions = [1, 3]"),
            "versions: must be within 1 to 2, which this mycomesh speaks, not 1 to 3",
        ),
        (("versions = [1, 2]", "versions = 2"), "fault[2].versions: must be the oldest and the newest version"),
        (("absent = [2]", "absent = [3]"), "absent: must be a node from 0 to 2, not 3"),
        (('urgent = ["alerts"]', "urgent = [7]"), "urgent: must be names of tables, not 7"),
        (('urgent = ["alerts"]', "urgent = 'alerts'"), "urgent: must be a list, not 'alerts'"),
        (("absent = [2]", "absent = [2, 2]"), "absent: must name each node once, but 2 appears again"),
        (("tables_at = 0", "tabels_at = 0"), "tabels_at: unknown key; known keys are nodes, duration"),
        (("edit = 0.5", "edit = -0.5"), "rates.edit: must be from 0 to 1000 a second, not -0.5"),
        (("rows = 7", "rows = 0"), "rates.rows: must be a whole number from 1"),
        (("rows = 7", "deletes = 7"), "rates.deletes: unknown key; known keys are telemetry"),
        (("loss = 0.01", "loss = 1.5"), "network.loss: must be from 0 to 0.9, not 1.5"),
        (("bandwidth = 50000", "bandwidth = 0"), "network.bandwidth: must be from 1 to 1e+12 bytes a second, not 0"),
        (("drift_ppm = 20", "drift_ppm = 'x'"), "clock[0].drift_ppm: must be a whole number"),
        (('kind = "heal"', 'kind = "cure"'), "fault[0].kind: must be one of split, heal"),
        (("groups = [[0], [1, 2]]", "groups = [[0], [9]]"), "fault[1].groups: must be a node from 0 to 2, not 9"),
        (
            ("groups = [[0], [1, 2]]", "groups = [[0, 1], [1, 2]]"),
            "fault[1].groups: must name each node once, but 1 appears again",
        ),
        (
            ('kind = "heal"', 'kind = "revoke"\nnode = 0'),
            "fault[0].node: must be a node from 1 to 2, not 0, which revokes the others",
        ),
        (
            ('kind = "heal"', 'kind = "cut"\nsource = 1\ntarget = 1'),
            "fault[0].target: must be another node than source, not 1",
        ),
        (
            ('kind = "heal"', 'kind = "clone"\nsource = 2\nnode = 2'),
            "fault[0].node: must be another node than source, not 2",
        ),
        (('kind = "heal"', 'kind = "clone"\nsource = 0\nnode = 1'), "fault[0].node: must be one of 'absent', not 1"),
        (
            ("[[clock]]", "[[clock]]\nnode = 1\n[[clock]]"),
            "clock[1].node: must name each node once, but 1 appears again",
        ),
        (("groups = [[0], [1, 2]]", "group = 3"), "fault[1].group: unknown key"),
        (("groups = [[0], [1, 2]]", ""), "fault[1].groups: is missing; split needs it"),
        (("at = 5", "at = 500"), "fault[1].at: must be from 0 to 20 s, not 500"),
        (("[[0, 0, 0], [1, 100.5, 0]]", "[[0, 0]]"), "places: must be lists of [node, metres east, metres north]"),
        (("nodes = 3", "nodes = = 3"), "not a TOML file"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_key(change, message, tmp_path):
    assert change[0] in OWN
    path = written(tmp_path, OWN.replace(*change, 1))
    with pytest.raises(ScenarioError, match=re.escape(message)) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ScenarioError, match="cannot be read: No such file"):
        build(str(tmp_path / "none.toml"), seed=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": -1}, "--rate: must be more than 0"),
        ({"rows": 0}, "--rows: must be a whole number from 1"),
        ({"loss": 1.0}, "--loss: must be from 0 to 0.9"),
        ({"areas": -1}, "--areas: must be a whole number from 0"),
    ],
)
def test_impossible_changes_say_what_is_allowed(changes, message):
    with pytest.raises(ScenarioError, match=message):
        Changes(**changes)


def test_clone_of_a_missing_or_started_node_is_refused(tmp_path):
    text = "nodes = 3\nduration = 6\nabsent = [1, 2]\n"
    text += '[[fault]]\nkind = "clone"\nat = 1\nsource = 1\nnode = 2\n[[fault]]\nkind = "join"\nat = 2\nnode = 2\n'
    text += '[[fault]]\nkind = "clone"\nat = 4\nsource = 0\nnode = 2\n'
    result = run(build(str(written(tmp_path, text)), seed=1), 1)
    assert result.ok, result.violations
    assert "clone" not in result.faults
