"""Links with budgets that die and come back: nothing is lost, what is superseded is not sent, and alerts do not wait."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mycomesh.simulations.faults import Radio
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenario import Scenario
from mycomesh.simulations.scenarios import build
from mycomesh.simulations.workload import Rates
from mycomesh.simulations.world import SECOND
from tests.simulations.test_slow_link import Arrivals
from tests.sync.scale import sweep

NOTHING = dict.fromkeys(("telemetry", "edit", "insert", "delete", "trim", "burst", "alert"), 0)
BUDGET = 2_000
OFF_S, ON_S, END_S = 8.0, 13.0, 20.0


@pytest.mark.parametrize("seed", sweep(range(1, 13), 3))
def test_nothing_is_lost_on_links_with_budgets_that_die(seed):
    result = run(build("metered", seed=seed, duration_s=20), seed)
    assert result.ok, result.violations


def away(budget, paced, rates):
    """Two nodes whose link is away for a while; return the run and what came to node 1 when."""
    faults = (Radio(OFF_S, 1, on=False), Radio(ON_S, 1, on=True))
    scenario = Scenario("budgets", 2, END_S, rates, Conditions(), faults, settle_s=1_800)
    record = Arrivals()
    scenario = replace(scenario, budget=budget, paced=paced, urgent=("alerts",))
    result = run(scenario, 3, record=record)
    assert result.ok, result.violations
    return result, record


def test_superseded_updates_do_not_use_the_budget():
    rates = Rates(**NOTHING | {"edit": 20.0}, rows=3)
    paced, _ = away(BUDGET, ("missions",), rates)
    free, _ = away(0, (), rates)
    assert paced.commits == free.commits > 500
    assert paced.bytes < free.bytes / 4
    assert paced.bytes < 1.5 * BUDGET * paced.virtual_s


def test_alerts_pass_what_waits_for_a_budget():
    rates = Rates(**NOTHING | {"telemetry": 15.0, "alert": 2.0})
    _, record = away(BUDGET, ("drones",), rates)
    written = record.cluster.oracle.written
    linked = [
        (record.seen[token] - it.at_us) / SECOND
        for token, it in written.items()
        if it.node == 0 and it.table == "alerts" and not OFF_S - 4 < it.at_us / SECOND < ON_S + 5
    ]
    waited = [
        (record.seen[token] - it.at_us) / SECOND
        for token, it in written.items()
        if it.node == 0 and it.table == "drones" and token in record.seen
    ]
    assert len(linked) >= 10
    assert max(linked) < 3.0
    assert max(waited) > 4 * max(linked)
