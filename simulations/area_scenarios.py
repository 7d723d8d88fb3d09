"""Scenarios of tables that are cut into areas, of which nodes keep some."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.faults import (
    Backup,
    Betray,
    ClockSet,
    Crash,
    Divide,
    Fault,
    Heal,
    Keep,
    MailboxDoes,
    Move,
    Pin,
    Purge,
    Radio,
    Restart,
    Restore,
    Split,
)
from mycomesh.simulations.mailbox import WRONGS
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.scenario import Scenario, in_order
from mycomesh.simulations.traitor import LIES_ABOUT_AREAS
from mycomesh.simulations.workload import Rates
from mycomesh.simulations.world import Clock

if TYPE_CHECKING:
    import random

__all__ = ["aged_areas", "area_chain", "area_fleet", "area_moves", "area_rights", "areas", "in_areas", "late_areas"]

# Areas for each node: more of them than Digests names one by one.
AREAS_EACH = 5
FLEET = 20  # nodes of one area of a fleet, unless a request says otherwise
METRES = 80.0  # between two neighbours of a chain, whose radios reach 100


def areas(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Cut the telemetry by drone: nodes keep some areas, write to all, change what they keep, and return late or restored."""
    every = tuple(str(area) for area in range(AREAS_EACH * nodes))

    def some() -> tuple[str, ...]:
        return tuple(sorted(rng.sample(every, rng.randint(0, len(every) - 1))))

    keeps = (None, *(None if rng.random() < 0.2 else some() for _ in range(nodes - 1)))
    faults: list[Fault] = []
    for node in range(1, nodes):
        faults += [Keep(duration_s * rng.uniform(0.1, 0.95), node, some()) for _ in range(rng.randint(0, 3))]
    order = list(range(nodes))
    rng.shuffle(order)
    at_s = duration_s * rng.uniform(0.05, 0.4)
    halves = tuple(tuple(sorted(part)) for part in (order[: nodes // 2], order[nodes // 2 :]))
    faults += [Split(at_s, halves), Heal(at_s + duration_s * rng.uniform(0.1, 0.3))]
    late, crashed, restored = (rng.randrange(nodes), rng.randrange(nodes), rng.randrange(1, nodes))
    faults += [Radio(duration_s * 0.3, late, on=False), Radio(duration_s * rng.uniform(0.6, 0.95), late, on=True)]
    at_s = duration_s * rng.uniform(0.2, 0.7)
    faults += [Crash(at_s, crashed, actions=rng.randint(1, 60)), Restart(at_s + duration_s * 0.1, crashed)]
    if rng.random() < 0.5:
        faults += [Backup(duration_s * 0.3, restored), Restore(duration_s * rng.uniform(0.5, 0.9), restored)]
    rates = Rates(telemetry=0.6, edit=0.05, insert=0.05, delete=0.02, trim=0.1)
    return Scenario(
        "areas", nodes, duration_s, rates, faults=in_order(faults), keeps=keeps, areas=len(every), settle_s=600
    )


def aged_areas(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let the rows of `areas` go with time, while some nodes keep them for less, and in some runs a clock is an hour ahead."""
    scenario = areas(nodes, duration_s, rng)
    age_s = max(4, int(duration_s / 4))
    pinned_s = age_s // 3
    if rng.random() < 0.5:  # nothing but pins removes a row, and all of them come back
        age_s = max(4, int(4 * duration_s))
    faults: list[Fault] = []
    for node in rng.sample(range(1, nodes), 2 if rng.random() < 0.5 else 0):
        begins, ends = duration_s * rng.uniform(0.1, 0.5), duration_s * rng.uniform(0.55, 0.95)
        faults += [Pin(begins, node, pinned_s), Pin(ends, node, 0)]
    away = [fault for fault in scenario.faults if isinstance(fault, Radio)]
    if rng.random() < 0.5:  # of the node that returns late, while it is alone
        faults += [
            ClockSet(away[0].at_s + 1, away[0].node, Clock(skew_ms=3_600_000)),
            ClockSet(away[1].at_s - 1, away[0].node, Clock()),
        ]
    rates = replace(scenario.rates, telemetry=1, burst=0.02)
    return replace(
        scenario,
        name="aged-areas",
        rates=rates,
        retain_s=age_s,
        faults=in_order([*scenario.faults, *faults]),
        tables_at=0,
    )


def late_areas(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Cut the telemetry of `areas` when it has rows, by a primary key with the drone: one node decides, in some runs another too.

    Others are split off, out of reach, killed and restored at that time as at any other.
    """
    scenario = areas(nodes, duration_s, rng)
    faults: list[Fault] = [Divide(duration_s * rng.uniform(0.2, 0.8), rng.randrange(nodes))]
    if rng.random() < 0.3:
        faults.append(Divide(duration_s * rng.uniform(0.2, 0.8), rng.randrange(nodes)))
    at_s = faults[0].at_s + rng.uniform(0, 2)
    faults += [Crash(at_s, killed := rng.randrange(nodes), actions=rng.randint(1, 30)), Restart(at_s + 1, killed)]
    return replace(scenario, name="late-areas", keyed=True, faults=in_order([*scenario.faults, *faults]))


def area_moves(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Cut the table as `late_areas` does while its rows go with time, a member's writes are purged, or bases meet over a mailbox.

    Rows go with time in half of the runs, in half there is a purge, and in a third there are bases, since no mailbox carries the
    order of a purge. The gateway of a base keeps all areas, as it carries those of others.
    """
    scenario = late_areas(nodes, duration_s, rng)
    faults, keeps = list(scenario.faults), list(scenario.keeps)
    retain_s, settle_s = 0, scenario.settle_s
    divided_s = next(fault.at_s for fault in faults if isinstance(fault, Divide))
    if rng.random() < 0.5:
        retain_s = max(4, int(duration_s * rng.choice((0.25, 4))))
        pinned = rng.sample(range(1, nodes), 1)
        begins = duration_s * rng.uniform(0.1, 0.5)
        faults += [Pin(begins, node, max(1, retain_s // 3)) for node in pinned]
        faults += [Pin(duration_s * rng.uniform(0.55, 0.95), node, 0) for node in pinned]
    if rng.random() < 0.5:
        at_s = min(duration_s * 0.95, divided_s + rng.uniform(-1, 3))
        faults.append(Purge(at_s, rng.randrange(1, nodes), at_s * rng.uniform(0.3, 1)))
    gateways: tuple[int, ...] = ()
    bases: tuple[tuple[int, ...], ...] = ()
    if not any(isinstance(fault, Purge) for fault in faults) and rng.random() < 0.7:
        bases = (tuple(range(0, nodes, 2)), tuple(range(1, nodes, 2)))
        gateways = (0, 1)
        keeps[1] = None
        faults = [fault for fault in faults if not isinstance(fault, Keep) or fault.node not in gateways]
        wrongs = tuple(sorted(rng.sample(WRONGS, rng.randint(0, 2))))
        faults += [MailboxDoes(duration_s * rng.uniform(0.1, 0.9), wrongs)]
        settle_s = 3_600
    return replace(
        scenario, name="area-moves", faults=in_order(faults), keeps=tuple(keeps), gateways=gateways, bases=bases,
        tables_at=0, retain_s=retain_s, settle_s=settle_s,
    )  # fmt: skip


def area_rights(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let some nodes of `areas` write a few areas alone, and to all others in vain; in half of the runs one of them lies as well.

    The liar puts rows of other areas, and deletes of them, where its certificate lets it write.
    """
    scenario = areas(nodes, duration_s, rng)
    every = [str(area) for area in range(scenario.areas)]
    limited = rng.sample(range(1, nodes), rng.randint(1, max(1, nodes - 2)))
    some = {node: {str(node), *rng.sample(every, rng.randint(1, len(every) // 2))} for node in limited}
    writes = (tuple(sorted(some[node])) if node in some else None for node in range(nodes))
    faults = list(scenario.faults)
    if rng.random() < 0.5:
        faults.append(Betray(duration_s * rng.uniform(0.1, 0.5), rng.choice(limited), LIES_ABOUT_AREAS))
    rates = Rates(
        telemetry=0.8, edit=0, insert=0, delete=0, alert=0, trim=0.1, burst=0
    )  # some may write no other table
    return replace(
        scenario, name="area-rights", rates=rates, writes=tuple(writes), faults=in_order(faults), tables_at=0
    )


def area_fleet(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Give each node one area to keep and to write to, and the first one all; the network falls into halves, and heals."""
    order = list(range(nodes))
    rng.shuffle(order)
    halves = tuple(tuple(sorted(part)) for part in (order[: nodes // 2], order[nodes // 2 :]))
    faults: list[Fault] = [Split(duration_s * 0.4, halves), Heal(duration_s * 0.6)]
    scenario = Scenario("area-fleet", nodes, duration_s, faults=in_order(faults), tables_at=0, settle_s=600)
    return in_areas(scenario, max(1, nodes // FLEET))


def in_areas(scenario: Scenario, count: int) -> Scenario:
    """Return a fleet with so many areas of its telemetry; with 0 its table is not cut, and its writes are the same."""
    if not scenario.homes and scenario.name != "area-fleet":
        raise ScenarioError(f"--areas: is for area-fleet, whose nodes keep one area each, and not for {scenario.name}")
    if not count:
        return replace(scenario, keeps=(), areas=0)
    keeps = (None, *((str(node % count),) for node in range(1, scenario.nodes)))
    return replace(scenario, keeps=keeps, areas=count, homes=count)


def area_chain(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Put the nodes into a chain for good: the first keeps all, the others their own area, and what others keep lies between.

    A node in the middle crashes, another is out of reach for a while.
    """
    keeps = (None, *((str(node),) for node in range(1, nodes)))
    places = tuple((node, METRES * node, 0.0) for node in range(nodes))
    crashed, lost = rng.randrange(1, nodes), rng.randrange(1, nodes)
    faults: list[Fault] = [Move(0, places)]
    faults += [Crash(duration_s * 0.3, crashed, actions=rng.randint(1, 40)), Restart(duration_s * 0.5, crashed)]
    faults += [Radio(duration_s * 0.4, lost, on=False), Radio(duration_s * rng.uniform(0.6, 0.8), lost, on=True)]
    rates = Rates(telemetry=0.5, edit=0.05, insert=0.05, delete=0.02, trim=0.05)
    return Scenario(
        "area-chain", nodes, duration_s, rates, Conditions(range_m=METRES * 1.25), in_order(faults), tables_at=0,
        keeps=keeps, areas=nodes, lasting_range=True, settle_s=600,
    )  # fmt: skip
