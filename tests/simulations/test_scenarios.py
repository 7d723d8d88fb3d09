"""The catalogue: every scenario expands to plain data that only its arguments decide."""

from __future__ import annotations

import pytest

from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenarios import CATALOGUE, Changes, Scenario, build


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_scenario_depends_on_its_arguments_alone(name):
    nodes = CATALOGUE[name].nodes_min
    for count in (nodes, nodes + 1, 20):
        scenario = build(name, seed=3, nodes=count)
        assert scenario == build(name, seed=3, nodes=count)
        assert scenario.name == name
        assert scenario.nodes == count
        assert all(0 <= fault.at_s <= scenario.duration_s + 30 for fault in scenario.faults)


@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - {"two-nodes"}))
def test_another_seed_is_another_schedule(name):
    assert len({build(name, seed=seed).faults for seed in range(5)} | {build(name, seed=9).clocks}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nonsense"}, "there is no scenario 'nonsense'; choose one of two-nodes"),
        ({"name": "split-brain", "nodes": 1}, "--nodes for split-brain: must be a whole number from 2 to 5000, not 1"),
        ({"name": "split-brain", "nodes": 5_001}, "from 2 to 5000"),
        ({"name": "split-brain", "duration_s": 0}, "--duration: must be more than 0"),
        ({"name": "split-brain", "duration_s": float("nan")}, "--duration: must be a number, more than 0"),
    ],
)
def test_impossible_requests_say_what_is_allowed(arguments, message):
    name = arguments.pop("name")
    with pytest.raises(ScenarioError, match=message):
        build(name, seed=1, **arguments)


def test_clocks_must_fit_the_nodes():
    with pytest.raises(ScenarioError, match="clocks"):
        Scenario("x", 2, 10, clocks=(build("clock-chaos", seed=1).clocks[0],))


def test_areas_of_a_fleet_change_no_write():
    fleet = build("area-fleet", seed=1, nodes=100, changes=Changes(areas=5))
    whole = build("area-fleet", seed=1, nodes=100, changes=Changes(areas=0))
    assert fleet.keeps[:3] == (None, ("1",), ("2",))
    assert len(fleet.keeps) == 100
    assert whole.keeps == ()
    assert (whole.rates, whole.faults) == (fleet.rates, fleet.faults)
    assert fleet.rates.total * 100 == pytest.approx(10 * build("split-brain", seed=1, nodes=100).rates.total * 100)
    with pytest.raises(ScenarioError, match="--areas: is for area-fleet"):
        build("areas", seed=1, changes=Changes(areas=2))


def test_a_fleet_of_areas_receives_less():
    cut, whole = (
        run(build("area-fleet", seed=1, nodes=9, duration_s=5, changes=Changes(areas=areas, rate=15)), 1)
        for areas in (3, 0)
    )
    assert cut.ok, cut.violations
    assert whole.ok, whole.violations
    assert cut.commits == pytest.approx(whole.commits, rel=0.05)  # those before a node has the tables do nothing
    rows = ("Batch", "Chunk")
    assert sum(cut.received[kind] for kind in rows) < 0.8 * sum(whole.received[kind] for kind in rows)
