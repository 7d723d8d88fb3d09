"""Scenarios of members in other hands: one whose key was taken, and one that lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.simulations.faults import (
    Betray,
    Crash,
    Cut,
    Fault,
    Heal,
    Purge,
    Radio,
    Restart,
    Revoke,
    Split,
)
from mycomesh.simulations.scenario import Scenario, in_order
from mycomesh.simulations.traitor import LIES
from mycomesh.simulations.workload import Rates

if TYPE_CHECKING:
    import random

__all__ = ["captured_drone", "traitor"]


def captured_drone(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let node 0 revoke a drone that keeps writing; split the mesh with the drone in one half, and heal."""
    drone = rng.randrange(1, nodes)
    others = [node for node in range(nodes) if node != drone]
    rng.shuffle(others)
    half = len(others) // 2
    faults: tuple[Fault, ...] = (
        Revoke(duration_s * 0.4, drone),
        Split(duration_s * 0.55, (tuple(sorted(others[:half])), tuple(sorted([*others[half:], drone])))),
        Heal(duration_s * 0.7),
        Radio(duration_s * 0.75, drone, on=False),
        Radio(duration_s * 0.8, drone, on=True),
    )
    rates = Rates(telemetry=0.5, edit=0.3, insert=0.1, delete=0.05, alert=0.05)
    return Scenario("captured-drone", nodes, duration_s, rates, faults=faults)


def traitor(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let a member begin to lie, and be the only way from a member that was away to the others, until the network heals."""
    order = list(range(nodes))
    rng.shuffle(order)
    liar, away, *others = order
    lies = LIES if rng.random() < 0.5 else tuple(sorted(rng.sample(LIES, 3)))
    back = duration_s * rng.uniform(0.45, 0.55)
    faults: list[Fault] = [
        Betray(duration_s * rng.uniform(0.1, 0.3), liar, lies),
        Radio(duration_s * rng.uniform(0.3, 0.4), away, on=False),
        *(Cut(duration_s * 0.42, away, other, one_way=False) for other in others),
        Radio(back, away, on=True),
        Heal(duration_s * rng.uniform(0.65, 0.9)),
    ]
    if others:
        node = rng.choice(others)
        at = rng.uniform(0.4, 0.6) * duration_s
        faults += [Crash(at, node, actions=rng.randrange(30)), Restart(at + rng.uniform(0.5, 8), node)]
    rates = Rates(telemetry=0.5, edit=0.5, insert=0.2, delete=0.1, alert=0.1, trim=0.02, burst=0.02, rows=12)
    signed = ("alerts", "drones", "missions") if rng.random() < 0.5 else ()
    if liar != 0 and rng.random() < 0.5:  # found out; node 0 has the root key
        begun = next(fault.at_s for fault in faults if isinstance(fault, Betray))
        faults.append(Purge(duration_s * rng.uniform(0.5, 0.95), liar, begun))
    return Scenario("traitor", nodes, duration_s, rates, faults=in_order(faults), signed=signed)
