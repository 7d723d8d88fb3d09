"""Scenarios of vehicles and radios: links come and go with distance, and carry little."""

from __future__ import annotations

from math import cos, pi, sin
from typing import TYPE_CHECKING

from mycomesh.simulations.faults import (
    Crash,
    Fault,
    Heal,
    Join,
    Move,
    Radio,
    Reset,
    Restart,
    Split,
)
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.scenario import Scenario, in_order
from mycomesh.simulations.tracks import position
from mycomesh.simulations.workload import Rates

if TYPE_CHECKING:
    import random

__all__ = ["convoy", "flash_crowd", "fly_by", "islands", "metered", "slow_link"]


def fly_by(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let drones circle past a convoy, so that links come and go with distance."""
    convoy = max(1, nodes // 3)
    loops = [(rng.uniform(200, 900), rng.uniform(60, 240), rng.uniform(0, 2 * pi)) for _ in range(nodes)]
    faults: list[Fault] = []
    for second in range(0, int(duration_s), 2):
        positions = []
        for node in range(nodes):
            x, y = 10.0 * second, 60.0 * node
            if node >= convoy:
                radius, period, phase = loops[node]
                angle = phase + 2 * pi * second / period
                x, y = 10.0 * second + radius * cos(angle), radius * sin(angle)
            positions.append((node, round(x, 1), round(y, 1)))
        faults.append(Move(float(second), tuple(positions)))
    home = tuple((node, 0.0, 10.0 * node % 300) for node in range(nodes))
    faults.append(Move(duration_s, home))
    conditions = Conditions(range_m=600, loss=0.01)
    return Scenario("fly-by", nodes, duration_s, faults=tuple(faults), conditions=conditions)


def convoy(nodes: int, duration_s: float, _rng: random.Random) -> Scenario:
    """Let quadcopters fly recorded sorties over vehicles that are 12 m apart, with radios that reach 25 m."""
    vehicles = max(1, nodes // 3)
    faults: list[Fault] = []
    for second in range(int(duration_s)):
        positions = [(node, 0.0, 12.0 * node) for node in range(vehicles)] if second == 0 else []
        positions += [(node, *position(node - vehicles, second + 7 * node)) for node in range(vehicles, nodes)]
        faults.append(Move(float(second), tuple(positions)))
    return Scenario("convoy", nodes, duration_s, faults=tuple(faults), conditions=Conditions(range_m=25, loss=0.01))


def islands(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Start three separate groups: two connect at half time, the third at four fifths."""
    order = list(range(nodes))
    rng.shuffle(order)
    one, two, three = (tuple(sorted(order[at::3])) for at in range(3))
    faults: tuple[Fault, ...] = (
        Split(0.0, (one, two, three)),
        Split(duration_s * 0.5, (tuple(sorted(one + two)), three)),
        Heal(duration_s * 0.8),
    )
    return Scenario("islands", nodes, duration_s, faults=faults)


def flash_crowd(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let all other nodes join at once, with empty files, after a few have written for a while."""
    founders = max(2, nodes // 4)
    crowd = tuple(range(founders, nodes))
    faults: list[Fault] = [Join(duration_s * 0.5 + rng.uniform(0, 2), node) for node in crowd]
    rates = Rates(telemetry=2, edit=0.3, insert=0.1, delete=0.05)
    return Scenario("flash-crowd", nodes, duration_s, rates, faults=in_order(faults), absent=crowd, tables_at=0)


def slow_link(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Limit each stream to 4 kB/s with long delays, while telemetry and bulk loads need more, and a split adds to it.

    Alerts are urgent, so they precede all of that.
    """
    order = list(range(nodes))
    rng.shuffle(order)
    halves = (tuple(sorted(order[::2])), tuple(sorted(order[1::2])))
    faults: tuple[Fault, ...] = (Split(duration_s * 0.3, halves), Heal(duration_s * 0.6))
    rates = Rates(telemetry=2, edit=0.2, alert=0.1, bulk=0.02)
    conditions = Conditions(delay_us=150_000, jitter_us=100_000, bandwidth_bytes_s=4_000)
    return Scenario("slow-link", nodes, duration_s, rates, conditions, faults, urgent=("alerts",))


def metered(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Give each link a budget far below what is written, while radios go off and on and streams break; nobody writes at last.

    Updates of few rows supersede each other, so most of them need never be sent. Alerts are urgent.
    """
    faults: list[Fault] = []
    for node in range(nodes):
        at_s = duration_s * rng.uniform(0.05, 0.3)
        while at_s < duration_s * 0.9:
            back_s = min(at_s + rng.uniform(1, duration_s * 0.2), duration_s * 0.95)
            faults += [Radio(at_s, node, on=False), Radio(back_s, node, on=True)]
            at_s = back_s + duration_s * rng.uniform(0.05, 0.3)
    faults += [Reset(duration_s * rng.uniform(0.1, 0.9)) for _ in range(4 * nodes)]
    crashed = rng.randrange(nodes)
    faults += [Crash(duration_s * 0.4, crashed, actions=rng.randint(1, 40)), Restart(duration_s * 0.5, crashed)]
    rates = Rates(telemetry=1, edit=4, insert=0.1, delete=0.05, alert=0.2, bulk=0.01, rows=8)
    return Scenario(
        "metered", nodes, duration_s, rates, Conditions(delay_us=50_000, jitter_us=30_000), in_order(faults),
        urgent=("alerts",), budget=2_000, paced=("drones", "missions"), settle_s=1_800,
    )  # fmt: skip
