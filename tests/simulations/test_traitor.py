"""A member that lies: honest nodes stay equal, and keep every honest row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mycomesh.simulations.faults import Betray, Crash, Purge, Restart
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenario import Rates, Scenario
from mycomesh.simulations.scenarios import build
from mycomesh.simulations.traitor import LIES
from tests.sync.scale import SCALE, sweep


def run_with(seed, lies=None, **changes):
    """Run the scenario; with `lies`, the traitor tells only those. Returns the result and how many lies it told."""
    scenario = build("traitor", seed=seed)
    if lies is not None:
        faults = tuple(replace(each, lies=lies) if isinstance(each, Betray) else each for each in scenario.faults)
        scenario = replace(scenario, faults=faults)
    told = []

    def inspect(cluster):
        told.extend(
            host.shell.traitor.told
            for host in cluster.hosts
            if host.shell is not None and host.shell.traitor is not None
        )

    return run(replace(scenario, **changes), seed, inspect=inspect), sum(told)


@pytest.mark.slow
@pytest.mark.parametrize("seed", sweep([1, 2, 3, 10], 2))
def test_honest_nodes_keep_honest_rows_among_all_lies(seed):
    result, told = run_with(seed, LIES)
    assert result.ok, result.violations
    assert told > 10


@pytest.mark.slow
@pytest.mark.parametrize("lie", sweep(LIES, 6))
def test_each_lie_is_told_and_harms_nobody(lie):
    told = 0
    # Audits are rare: eight seeds give that lie no chance.
    for seed in range(1, 9 if lie != "audits" or SCALE != 1 else 2):
        result, lies = run_with(seed, (lie,), duration_s=30.0 if lie != "audits" else 40.0)
        assert result.ok, (seed, result.violations)
        told += lies
        if told:
            return
    assert told or lie == "audits", "the scenario never gives this lie a chance"


@pytest.mark.parametrize("actions", [1, 2, 4])
def test_orders_reach_all_nodes_although_the_root_dies(actions):
    rates = Rates(edit=4.0, rows=6)
    faults = (Crash(3.0, 0, actions=actions), Purge(3.0, 2, 0.5), Restart(4.0, 0))
    found = []

    def inspect(cluster):
        found.extend(host.shell.core.mesh.membership.roster.purge_orders() for host in cluster.members())

    result = run(Scenario("orders", 3, 5.0, rates, faults=faults), 1, inspect=inspect)
    assert result.ok, result.violations
    assert len(found) == 2
    assert all(len(orders) == 1 for orders in found)
