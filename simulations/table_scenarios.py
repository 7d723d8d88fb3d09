"""Scenarios of what tables offer: own ids, counters, changed definitions, rows that go with time, readers of the feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.simulations.faults import (
    Backup,
    ClockSet,
    Clone,
    Crash,
    Fault,
    Heal,
    Join,
    PowerCut,
    Radio,
    Reset,
    Restart,
    Restore,
    Split,
)
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.scenario import Scenario, in_order
from mycomesh.simulations.workload import Rates
from mycomesh.simulations.world import Clock

if TYPE_CHECKING:
    import random

__all__ = ["mixed_load", "own_ids", "readers", "retention"]


def own_ids(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let nodes number rows on all sides of splits, over crashes, a power cut, a restored backup and a cloned file."""
    order = list(range(nodes))
    rng.shuffle(order)
    clone = nodes - 1
    faults: list[Fault] = [
        Split(duration_s * 0.3, (tuple(sorted(order[::2])), tuple(sorted(order[1::2])))),
        Heal(duration_s * 0.5),
        Split(duration_s * 0.65, tuple((node,) for node in range(nodes))),
        Heal(duration_s * 0.85),
    ]
    restored, *others = [node for node in order if node != clone]
    faults += [Backup(duration_s * 0.25, restored), Restore(duration_s * rng.uniform(0.35, 0.8), restored)]
    faults.append(Clone(duration_s * rng.uniform(0.3, 0.6), rng.choice(others), clone))
    for node in others:
        at = duration_s * rng.uniform(0.2, 0.8)
        back = at + rng.uniform(0.5, 10)
        cut = rng.random() < 0.5
        faults += [PowerCut(at, node, 0.4) if cut else Crash(at, node, actions=rng.randrange(30)), Restart(back, node)]
    rates = Rates(telemetry=0.1, edit=0.1, number=1.5, rows=12)
    return Scenario("own-ids", nodes, duration_s, rates, faults=in_order(faults), absent=(clone,), tables_at=0)


def mixed_load(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Use counters, REPLACE, bulk loads and schema changes on both sides of a split, with two crashes."""
    order = list(range(nodes))
    rng.shuffle(order)
    halves = (tuple(sorted(order[::2])), tuple(sorted(order[1::2])))
    faults: list[Fault] = [Split(duration_s * 0.3, halves), Heal(duration_s * 0.7)]
    for half in halves:
        at = rng.uniform(0.35, 0.6) * duration_s
        node = rng.choice(half)
        faults += [Crash(at, node, actions=rng.randrange(20)), Restart(at + rng.uniform(0.5, 10), node)]
    rates = Rates(
        telemetry=0.3,
        edit=0.4,
        delete=0.05,
        rename=0.1,
        bulk=0.01,
        count=0.5,
        replace=0.2,
        schema=0.05,
        migrate=0.05,
        rows=12,
    )
    return Scenario("mixed-load", nodes, duration_s, rates, faults=in_order(faults))


def readers(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let programs read the change feed over splits, radios that are off, crashes, power cuts and restored backups."""
    order = list(range(nodes))
    rng.shuffle(order)
    faults: list[Fault] = [
        Split(duration_s * 0.2, (tuple(sorted(order[::2])), tuple(sorted(order[1::2])))),
        Heal(duration_s * 0.4),
        Split(duration_s * 0.6, tuple((node,) for node in range(nodes))),
        Heal(duration_s * 0.75),
    ]
    for node in range(nodes):
        at = rng.uniform(0.1, 0.85) * duration_s
        back = at + rng.uniform(0.3, 8)
        match rng.randrange(4):
            case 0:
                faults += [Radio(at, node, on=False), Radio(back, node, on=True)]
            case 1:
                faults += [PowerCut(at, node, 0.5), Restart(back + 0.5, node)]
            case 2:
                faults += [Backup(at, node), Restore(min(back, duration_s), node)]
            case _:
                faults += [Crash(at, node, actions=rng.randrange(30)), Restart(back, node)]
    faults.append(Reset(rng.uniform(0, duration_s)))
    rates = Rates(
        telemetry=0.5,
        edit=0.4,
        insert=0.2,
        delete=0.15,
        alert=0.1,
        trim=0.05,
        rename=0.2,
        burst=0.05,
        bulk=0.01,
        rows=12,
    )
    conditions = Conditions(loss=rng.choice((0.0, 0.02)), reset=rng.choice((0.0, 0.002)))
    return Scenario(
        "readers", nodes, duration_s, rates, conditions, in_order(faults), urgent=("alerts",), readers=2 * nodes
    )


def retention(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let rows go with time over a split, crashes, a node that returns late, a newcomer, and in some runs a restored backup."""
    late, crashed, restored = (rng.randrange(nodes - 1) for _ in range(3))
    newcomer = nodes - 1
    rest = [node for node in range(nodes - 1) if node != late]
    rng.shuffle(rest)
    half = len(rest) // 2
    faults: list[Fault] = [
        Radio(duration_s * 0.15, late, on=False),
        Split(duration_s * 0.25, (tuple(sorted([*rest[:half], late])), tuple(sorted([*rest[half:], newcomer])))),
        Join(duration_s * 0.5, newcomer),
        Crash(duration_s * rng.uniform(0.3, 0.6), crashed, actions=rng.randint(1, 30)),
        Restart(duration_s * 0.65, crashed),
        Heal(duration_s * rng.uniform(0.55, 0.75)),
        Radio(duration_s * 0.85, late, on=True),
    ]
    if rng.random() < 0.4 and restored != crashed:
        faults += [Backup(duration_s * 0.2, restored), Restore(duration_s * 0.7, restored)]
    if rng.random() < 0.5:  # while it is alone, the clock of the node that returns late is an hour ahead
        faults += [
            ClockSet(duration_s * 0.3, late, Clock(skew_ms=3_600_000)),
            ClockSet(duration_s * 0.8, late, Clock()),
        ]
    rates = Rates(telemetry=2, edit=0.3, insert=0.1, delete=0.05, trim=0.05, burst=0.05)
    age_s = max(2, int(duration_s / 6))
    return Scenario(
        "retention", nodes, duration_s, rates, faults=in_order(faults), absent=(newcomer,), tables_at=0, retain_s=age_s
    )
