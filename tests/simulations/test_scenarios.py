"""The catalogue: every scenario expands to plain data that only its arguments decide."""

from __future__ import annotations

import pytest

from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.scenarios import CATALOGUE, Scenario, build


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
