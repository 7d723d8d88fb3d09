"""A link that is slower than the writes: what is live goes before the backlog of a split, and what is urgent before both."""

from __future__ import annotations

import pytest

from mycomesh.mesh.session.records import WINDOW_MIN
from mycomesh.simulations.faults import Radio
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.oracle import tokens_in
from mycomesh.simulations.recorder import Recorder
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenario import Scenario
from mycomesh.simulations.workload import Rates
from mycomesh.simulations.world import SECOND

HEALED_S = 20.0


class Arrivals(Recorder):
    """Notes when each value is first seen in node 1's file."""

    def begin(self, header, world, network, cluster):
        super().begin(header, world, network, cluster)
        self.cluster, self.world, self.seen, self.values = cluster, world, {}, set()
        self.look()

    def look(self):
        host = self.cluster.hosts[1]
        if host.application.running:
            for query in ("SELECT body FROM alerts", "SELECT timestamp FROM drones WHERE drone_id = 0"):
                fresh = {value for (value,) in host.application.db.execute(query)} - self.values
                self.values |= fresh
                for value in fresh:
                    for token in tokens_in(value):
                        self.seen.setdefault(token, self.world.now_us)
        self.world.after(SECOND // 4, self.look)


# A dataclass with slots cannot be given more fields by a subclass in any simpler way.
Arrivals.__slots__ = ("cluster", "seen", "values", "world")


def test_alerts_pass_the_telemetry_that_waits_since_the_split():
    rates = Rates(**dict.fromkeys(("telemetry", "edit", "insert", "delete", "trim", "burst"), 0), alert=1.0, bulk=0.4)
    faults = (Radio(2.0, 1, on=False), Radio(HEALED_S, 1, on=True))
    conditions = Conditions(delay_us=150_000, jitter_us=50_000, bandwidth_bytes_s=2_000)
    record = Arrivals()
    result = run(Scenario("slow", 2, 34.0, rates, conditions, faults, settle_s=600), 4, record=record)
    assert result.ok, result.violations
    written = record.cluster.oracle.written
    here = {token: it for token, it in written.items() if it.node == 0 and token in record.seen}
    late = {token: it for token, it in here.items() if it.table == "alerts" and 21e6 < it.at_us < 32e6}
    waiting = {token: it for token, it in here.items() if it.table == "drones" and 3e6 < it.at_us < HEALED_S * 1e6}
    assert len(late) >= 5
    for token in late:
        overtaken = sum(
            record.seen[old] >= record.seen[token] for old in waiting
        )  # those of its own chunk come with it
        assert overtaken > len(waiting) // 3, "it waited behind rows that had waited longer"


BANDWIDTH = 15_000
FOUND_S = 8.0  # the window has come down to what the link carries


def waits(urgent):
    """Seconds from the commit of each alert of node 0 to node 1's file, by when; bulk loads ask more than the link carries."""
    rates = Rates(**dict.fromkeys(("telemetry", "edit", "insert", "delete", "trim", "burst"), 0), alert=1.0, bulk=3.0)
    conditions = Conditions(delay_us=50_000, jitter_us=20_000, bandwidth_bytes_s=BANDWIDTH)
    record = Arrivals()
    result = run(Scenario("slow", 2, 15.0, rates, conditions, settle_s=600, urgent=urgent), 5, record=record)
    assert result.ok, result.violations
    written = record.cluster.oracle.written.items()
    return [
        (record.seen[token] - it.at_us) / SECOND
        for token, it in written
        if it.table == "alerts" and it.node == 0 and it.at_us >= FOUND_S * SECOND
    ]


@pytest.mark.slow
def test_a_bulk_load_does_not_delay_an_urgent_table():
    urgent, plain = waits(("alerts",)), waits(())
    assert len(urgent) == len(plain) >= 8
    below_s = WINDOW_MIN / BANDWIDTH  # what lies in queues below the link when an alert is written
    assert max(urgent) < below_s + 1
    assert sum(plain) / len(plain) > 2 * max(urgent)
