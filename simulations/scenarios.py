"""The scenarios that a user can run: each a schedule of trouble, expanded from a node count and a seed.

Owns the catalogue. What always holds: a `Scenario` is plain frozen data; the same arguments give the same scenario;
every one can be run with any sensible node count, or says in one line why not. Must not know how nodes work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, pi, sin
from typing import TYPE_CHECKING

from simulations.errors import ScenarioError
from simulations.faults import (
    Backup,
    ClockSet,
    Clone,
    Crash,
    Cut,
    Fault,
    Heal,
    Join,
    Move,
    PowerCut,
    Radio,
    Reset,
    Restart,
    Restore,
    Split,
    Stop,
)
from simulations.network import Conditions
from simulations.workload import Rates
from simulations.world import Clock, World

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["CATALOGUE", "Entry", "Scenario", "build"]

NODES_MAX = 5_000  # beyond it, one process runs out of file descriptors and patience
DURATION_MAX_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run but for its seed: who, how much, on what network, and what goes wrong when."""

    name: str
    nodes: int
    duration_s: float  # of the safety phase: writes and faults
    rates: Rates = field(default_factory=Rates)
    conditions: Conditions = field(default_factory=Conditions)
    faults: tuple[Fault, ...] = ()
    clocks: tuple[Clock, ...] = ()  # one a node; empty: all right
    absent: tuple[int, ...] = ()  # nodes that are not started at the beginning
    tables_at: int | None = None  # the one node whose application makes the tables; None: each does
    settle_s: float = 300.0  # bound of the liveness phase: no faults, no writes, everybody up

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= NODES_MAX:
            raise ScenarioError(f"nodes: from 1 to {NODES_MAX}, not {self.nodes}")
        if not 0 < self.duration_s <= DURATION_MAX_S:
            raise ScenarioError(f"duration: more than 0 and at most {DURATION_MAX_S} s, not {self.duration_s:g}")
        if self.clocks and len(self.clocks) != self.nodes:
            raise ScenarioError(f"clocks: one a node ({self.nodes}), not {len(self.clocks)}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of `--list`: what it shows, its usual size, and how to expand it."""

    name: str
    text: str
    nodes: int
    nodes_min: int
    duration_s: float
    expand: Callable[[int, float, random.Random], Scenario]


def build(name: str, *, seed: int, nodes: int | None = None, duration_s: float | None = None) -> Scenario:
    """Expand a scenario of the catalogue.

    Raises:
        ScenarioError: no such scenario, or it is impossible with these numbers; one line says what is allowed.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise ScenarioError(f"no scenario {name!r}; there are: {', '.join(CATALOGUE)}")
    count = entry.nodes if nodes is None else nodes
    if not entry.nodes_min <= count <= NODES_MAX:
        raise ScenarioError(f"--nodes for {name}: from {entry.nodes_min} to {NODES_MAX}, not {count}")
    length = entry.duration_s if duration_s is None else duration_s
    if not 0 < length <= DURATION_MAX_S:
        raise ScenarioError(f"--duration: more than 0 and at most {DURATION_MAX_S} seconds, not {length:g}")
    return entry.expand(count, length, World(seed).stream(f"scenario/{name}"))


# ---- the catalogue


def _calm(nodes: int, duration_s: float, _rng: random.Random) -> Scenario:
    return Scenario("two-nodes", nodes, duration_s, rates=Rates(telemetry=2, edit=1, insert=0.3, delete=0.1))


def _split_brain(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Two halves for a third of the time, then thirds or a lone node, healed before the end."""
    order = list(range(nodes))
    rng.shuffle(order)
    half = nodes // 2
    halves = Split(duration_s * 0.2, (tuple(sorted(order[:half])), tuple(sorted(order[half:]))))
    rng.shuffle(order)
    third = max(1, nodes // 3)
    thirds = tuple(tuple(sorted(order[at : at + third])) for at in range(0, nodes, third))
    faults: tuple[Fault, ...] = (
        halves,
        Heal(duration_s * 0.5),
        Split(duration_s * 0.7, thirds),
        Heal(duration_s * 0.9),
    )
    rates = Rates(telemetry=0.5, edit=0.1, insert=0.05, delete=0.02, rename=0.01)
    return Scenario("split-brain", nodes, duration_s, faults=faults, rates=rates)


def _flapping(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Radios go off and on, ways are cut in one direction, streams break."""
    faults: list[Fault] = []
    for node in range(nodes):
        at = rng.uniform(1, 15)
        while at < duration_s:
            down = rng.choice((0.2, 1.0, 5.0, 20.0)) * rng.uniform(0.5, 1.5)
            faults += [Radio(at, node, on=False), Radio(at + down, node, on=True)]
            at += down + rng.expovariate(1 / 30)
    faults += [Reset(rng.uniform(0, duration_s)) for _ in range(int(duration_s / 10) + 1)]
    for _ in range(nodes // 2):
        source, target = rng.sample(range(nodes), 2)
        faults.append(Cut(rng.uniform(0, duration_s * 0.8), source, target))
    faults.append(Heal(duration_s * 0.85))
    conditions = Conditions(loss=0.02, reset=0.0005, delay_us=3_000, jitter_us=10_000, bandwidth_bytes_s=250_000)
    return Scenario("flapping", nodes, duration_s, faults=_sorted(faults), conditions=conditions)


def _late_returner(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """One node goes away early and comes back late; another joins late; all but node 0 begin with an empty file."""
    late = rng.randrange(nodes - 1)
    newcomer = nodes - 1
    faults: tuple[Fault, ...] = (
        Radio(duration_s * 0.1, late, on=False),
        Join(duration_s * 0.5, newcomer),
        Radio(duration_s * 0.9, late, on=True),
    )
    return Scenario("late-returner", nodes, duration_s, faults=faults, absent=(newcomer,), tables_at=0)


def _rolling_restart(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Every node in turn is killed (between two actions, or with its machine) or stopped, and comes back."""
    faults: list[Fault] = []
    step = duration_s * 0.9 / nodes
    for node in range(nodes):
        at = (node + 0.5) * step
        away = rng.uniform(0.2, 0.9) * step
        kind = rng.randrange(3)
        if kind == 0:
            faults.append(Crash(at, node, actions=rng.randint(1, 30)))
        elif kind == 1:
            faults.append(Crash(at, node, silent=True))
        else:
            faults.append(Stop(at, node))
        faults.append(Restart(at + away, node))
    return Scenario("rolling-restart", nodes, duration_s, faults=_sorted(faults))


def _clock_chaos(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Clocks are up to 50 s apart (the bound is 60 s), drift and jump; one boots in 1970 until GPS fixes it."""
    clocks = [Clock(rng.randint(-25_000, 25_000), rng.randint(-200, 200)) for _ in range(nodes)]
    boots = rng.randrange(nodes)
    clocks[boots] = Clock(skew_ms=-1_700_000_000_000)
    faults: list[Fault] = [ClockSet(duration_s * 0.5, boots, Clock())]
    for _ in range(nodes):
        jump = Clock(rng.randint(-25_000, 25_000), rng.randint(-200, 200))
        faults.append(ClockSet(rng.uniform(0, duration_s), rng.randrange(nodes), jump))
    halves = (tuple(range(nodes // 2)), tuple(range(nodes // 2, nodes)))
    faults += [Split(duration_s * 0.3, halves), Heal(duration_s * 0.6)]
    return Scenario("clock-chaos", nodes, duration_s, faults=_sorted(faults), clocks=tuple(clocks))


def _copies(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """A file is cloned for another member, and a node is set back to an old backup of its own file."""
    source = rng.randrange(nodes - 1)
    restored = (source + 1) % (nodes - 1)
    clone = nodes - 1
    faults: tuple[Fault, ...] = (
        Backup(duration_s * 0.2, restored),
        Clone(duration_s * 0.4, source, clone),
        Restore(duration_s * 0.7, restored),
    )
    return Scenario("copies", nodes, duration_s, faults=faults, absent=(clone,))


def _fly_by(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Drones circle past a convoy: links come and go with distance."""
    convoy = max(1, nodes // 3)
    loops = [(rng.uniform(200, 900), rng.uniform(60, 240), rng.uniform(0, 2 * pi)) for _ in range(nodes)]
    faults: list[Fault] = []
    for second in range(0, int(duration_s), 2):
        places = []
        for node in range(nodes):
            x, y = 10.0 * second, 60.0 * node
            if node >= convoy:
                radius, period, phase = loops[node]
                angle = phase + 2 * pi * second / period
                x, y = 10.0 * second + radius * cos(angle), radius * sin(angle)
            places.append((node, round(x, 1), round(y, 1)))
        faults.append(Move(float(second), tuple(places)))
    home = tuple((node, 0.0, 10.0 * node % 300) for node in range(nodes))
    faults.append(Move(duration_s, home))
    conditions = Conditions(range_m=600, loss=0.01)
    return Scenario("fly-by", nodes, duration_s, faults=tuple(faults), conditions=conditions)


def _storm(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Splits, dead radios, one-way cuts, broken streams, crashes, power cuts, restored backups and wrong clocks."""
    faults: list[Fault] = []
    last = duration_s * 0.9
    order = list(range(nodes))
    for _ in range(max(1, int(duration_s / 30))):
        rng.shuffle(order)
        at = rng.uniform(0, last)
        groups = rng.randint(2, min(nodes, 4))
        faults += [
            Split(at, tuple(tuple(sorted(order[group::groups])) for group in range(groups))),
            Heal(at + rng.expovariate(1 / 10)),
        ]
    for _ in range(max(2, int(nodes * duration_s / 60))):
        node = rng.randrange(nodes)
        at = rng.uniform(0, last)
        back = at + rng.choice((0.3, 3.0, 15.0)) * rng.uniform(0.5, 1.5)
        match rng.randrange(8):
            case 0 | 1:
                faults += [Radio(at, node, on=False), Radio(back, node, on=True)]
            case 2:
                faults.append(Cut(at, node, (node + rng.randrange(1, nodes)) % nodes))
            case 3:
                faults.append(Reset(at))
            case 4:
                faults += [Crash(at, node, actions=rng.randrange(30)), Restart(back, node)]
            case 5:
                unsynced = rng.uniform(0.1, 5)
                faults += [PowerCut(at, node, unsynced), Restart(back + unsynced, node)]
            case 6:
                faults += [Backup(at, node), Restore(back, node)]
            case _:
                faults.append(ClockSet(at, node, Clock(rng.randint(-25_000, 25_000), rng.randint(-200, 200))))
    clocks = tuple(Clock(rng.randint(-5_000, 5_000), rng.randint(-100, 100)) for _ in range(nodes))
    conditions = Conditions(loss=rng.choice((0.0, 0.02)), reset=rng.choice((0.0, 0.0005)))
    rates = Rates(
        telemetry=0.5, edit=0.4, insert=0.2, delete=0.1, alert=0.05, trim=0.05, rename=0.05, burst=0.05, rows=12
    )
    return Scenario("storm", nodes, duration_s, rates, conditions, _sorted(faults), clocks)


def _sorted(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry("two-nodes", "a calm link: writes go both ways", 2, 2, 60, _calm),
        Entry("split-brain", "the network falls into halves, then thirds, and heals", 6, 2, 120, _split_brain),
        Entry(
            "flapping", "radios go off and on, packets are lost, ways are cut in one direction", 5, 2, 120, _flapping
        ),
        Entry(
            "late-returner",
            "one node is away for most of the time, another joins with an empty file",
            5,
            3,
            120,
            _late_returner,
        ),
        Entry("rolling-restart", "every node in turn is killed or stopped and comes back", 5, 2, 120, _rolling_restart),
        Entry(
            "clock-chaos", "wrong, drifting and jumping clocks, one in 1970, during a split", 5, 2, 120, _clock_chaos
        ),
        Entry("copies", "a cloned file and a restored backup", 5, 3, 120, _copies),
        Entry("storm", "splits, flapping, crashes, power cuts, restores and wrong clocks, at random", 5, 2, 60, _storm),
        Entry("fly-by", "drones circle a convoy: links come and go with distance", 6, 2, 120, _fly_by),
    )
}
