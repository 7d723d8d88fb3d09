"""The catalogue of scenarios: each expands a node count, a duration and a seed into a schedule of faults.

Invariant: the same arguments give the same scenario.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi, sin
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.versions import Versions
from mycomesh.simulations.bounds import DURATION_S, LOSS, NODES, RATE_ALL, ROWS
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.faults import (
    Backup,
    Betray,
    ClockSet,
    Clone,
    Crash,
    Cut,
    Fault,
    Heal,
    Join,
    Keep,
    MailboxDoes,
    Move,
    PowerCut,
    Purge,
    Radio,
    Reset,
    Restart,
    Restore,
    Revoke,
    Split,
    Stop,
    Upgrade,
    Window,
)
from mycomesh.simulations.mailbox import WRONGS
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.scenario import Scenario
from mycomesh.simulations.scenario_file import load
from mycomesh.simulations.tracks import position
from mycomesh.simulations.traitor import LIES
from mycomesh.simulations.workload import Rates
from mycomesh.simulations.world import Clock, World

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["CATALOGUE", "Changes", "Entry", "Scenario", "build"]

CROWD = 16  # nodes above which a mesh keeps a partial view
CROWD_RATE = 0.5
CROWD_BEAT_MS = 5_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A scenario of the catalogue: its line in `--list`, its default size, and the function that expands it."""

    name: str
    text: str
    nodes: int
    nodes_min: int
    duration_s: float
    expand: Callable[[int, float, random.Random], Scenario]


@dataclass(frozen=True, slots=True)
class Changes:
    """The settings of a scenario that a request overrides; None keeps the scenario's own.

    rate: transactions a virtual second, of all nodes together. rows: size of the shared key space. loss: of one packet.
    """

    rate: float | None = None
    rows: int | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None:
            RATE_ALL.read(self.rate, "--rate")
        if self.rows is not None:
            ROWS.read(self.rows, "--rows")
        if self.loss is not None:
            LOSS.read(self.loss, "--loss")

    def applied(self, scenario: Scenario) -> Scenario:
        """Return the scenario with these changes."""
        rates, conditions = scenario.rates, scenario.conditions
        if self.rate is not None:
            rates = rates.scaled(self.rate / scenario.nodes)
        if self.rows is not None:
            rates = replace(rates, rows=self.rows)
        if self.loss is not None:
            conditions = replace(conditions, loss=self.loss)
        return replace(scenario, rates=rates, conditions=conditions)


def build(
    name: str,
    *,
    seed: int,
    nodes: int | None = None,
    duration_s: float | None = None,
    changes: Changes | None = None,
) -> Scenario:
    """Expand a scenario of the catalogue, or read one from a file whose name ends in `.toml`.

    Above `CROWD` nodes a scenario of the catalogue writes at `CROWD_RATE` transactions a second (all nodes together), its
    links send a heartbeat every `CROWD_BEAT_MS`, and one node creates the tables, so that one process can simulate it.

    Raises:
        ScenarioError: there is no such scenario, or it is impossible with these numbers; the message says what is allowed.
    """
    changes = changes or Changes()
    if name.endswith(".toml"):
        return changes.applied(load(Path(name), nodes=nodes, duration_s=duration_s))
    entry = CATALOGUE.get(name)
    if entry is None:
        raise ScenarioError(f"there is no scenario {name!r}; choose one of {', '.join(CATALOGUE)}")
    count = entry.nodes if nodes is None else nodes
    replace(NODES, least=entry.nodes_min).read(count, f"--nodes for {name}")
    length = entry.duration_s if duration_s is None else duration_s
    DURATION_S.read(length, "--duration")
    scenario = entry.expand(count, length, World(seed).stream(f"scenario/{name}"))
    if count > CROWD:
        rates = scenario.rates.scaled(CROWD_RATE / count)
        scenario = replace(scenario, rates=rates, heartbeat_ms=CROWD_BEAT_MS, tables_at=scenario.tables_at or 0)
    return changes.applied(scenario)


# ---- the catalogue


def _calm(nodes: int, duration_s: float, _rng: random.Random) -> Scenario:
    return Scenario("two-nodes", nodes, duration_s, rates=Rates(telemetry=2, edit=1, insert=0.3, delete=0.1))


def _split_brain(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Split the network into halves for a third of the time, then into thirds or single nodes; heal before the end."""
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
    """Switch radios off and on, cut paths in one direction, break streams."""
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
    """Let one node be away for most of the time, and another join late; all but node 0 start with an empty file."""
    late = rng.randrange(nodes - 1)
    newcomer = nodes - 1
    faults: tuple[Fault, ...] = (
        Radio(duration_s * 0.1, late, on=False),
        Join(duration_s * 0.5, newcomer),
        Radio(duration_s * 0.9, late, on=True),
    )
    return Scenario("late-returner", nodes, duration_s, faults=faults, absent=(newcomer,), tables_at=0)


def _retention(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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
        "retention", nodes, duration_s, rates, faults=_sorted(faults), absent=(newcomer,), tables_at=0, retain_s=age_s
    )


def _rolling_restart(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Kill (between two actions, or with its machine) or stop each node in turn, and restart it."""
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


def _rolling_upgrade(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Upgrade each node in turn to a program that also speaks the next version, then each to one without the old version."""
    old, both, new = Versions(1, 1), Versions(1, 2), Versions(2, 2)
    order = rng.sample(range(nodes), nodes)
    step = duration_s * 0.45 / nodes
    faults: list[Fault] = []
    for turn, node in enumerate(order):
        faults.append(Upgrade((turn + rng.random()) * step, node, both))
        faults.append(Upgrade(duration_s * 0.5 + (turn + rng.random()) * step, node, new))
    return Scenario("rolling-upgrade", nodes, duration_s, faults=_sorted(faults), versions=old)


def _clock_chaos(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Set clocks up to 50 s apart (the limit is 60 s); they drift and jump. One is in 1970 until GPS has a fix, one is ahead."""
    clocks = [Clock(rng.randint(-25_000, 25_000), rng.randint(-200, 200)) for _ in range(nodes)]
    boots, ahead = rng.sample(range(nodes), 2)
    clocks[boots] = Clock(skew_ms=-1_700_000_000_000)
    clocks[ahead] = Clock(skew_ms=rng.choice((90_000, 3_600_000, 300_000_000_000)))
    faults: list[Fault] = [ClockSet(duration_s * 0.5, node, Clock()) for node in (boots, ahead)]
    for _ in range(nodes):
        jump = Clock(rng.randint(-25_000, 25_000), rng.randint(-200, 200))
        faults.append(ClockSet(rng.uniform(0, duration_s), rng.randrange(nodes), jump))
    halves = (tuple(range(nodes // 2)), tuple(range(nodes // 2, nodes)))
    faults += [Split(duration_s * 0.3, halves), Heal(duration_s * 0.6)]
    return Scenario("clock-chaos", nodes, duration_s, faults=_sorted(faults), clocks=tuple(clocks))


def _copies(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Clone a file for another member, and restore an old backup of a node's own file."""
    source = rng.randrange(nodes - 1)
    restored = (source + 1) % (nodes - 1)
    clone = nodes - 1
    faults: tuple[Fault, ...] = (
        Backup(duration_s * 0.2, restored),
        Clone(duration_s * 0.4, source, clone),
        Restore(duration_s * 0.7, restored),
    )
    return Scenario("copies", nodes, duration_s, faults=faults, absent=(clone,))


def _captured_drone(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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


def _traitor(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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
    return Scenario("traitor", nodes, duration_s, rates, faults=_sorted(faults), signed=signed)


def _own_ids(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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
    return Scenario("own-ids", nodes, duration_s, rates, faults=_sorted(faults), absent=(clone,), tables_at=0)


def _mixed_load(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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
    return Scenario("mixed-load", nodes, duration_s, rates, faults=_sorted(faults))


def _readers(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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
        "readers", nodes, duration_s, rates, conditions, _sorted(faults), urgent=("alerts",), readers=2 * nodes
    )


def _fly_by(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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


def _convoy(nodes: int, duration_s: float, _rng: random.Random) -> Scenario:
    """Let quadcopters fly recorded sorties over vehicles that are 12 m apart, with radios that reach 25 m."""
    vehicles = max(1, nodes // 3)
    faults: list[Fault] = []
    for second in range(int(duration_s)):
        positions = [(node, 0.0, 12.0 * node) for node in range(vehicles)] if second == 0 else []
        positions += [(node, *position(node - vehicles, second + 7 * node)) for node in range(vehicles, nodes)]
        faults.append(Move(float(second), tuple(positions)))
    return Scenario("convoy", nodes, duration_s, faults=tuple(faults), conditions=Conditions(range_m=25, loss=0.01))


def _islands(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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


def _flash_crowd(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Let all other nodes join at once, with empty files, after a few have written for a while."""
    founders = max(2, nodes // 4)
    crowd = tuple(range(founders, nodes))
    faults: list[Fault] = [Join(duration_s * 0.5 + rng.uniform(0, 2), node) for node in crowd]
    rates = Rates(telemetry=2, edit=0.3, insert=0.1, delete=0.05)
    return Scenario("flash-crowd", nodes, duration_s, rates, faults=_sorted(faults), absent=crowd, tables_at=0)


def _slow_link(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
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


def _storm(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Mix splits, radios that are off, one-way cuts, broken streams, crashes, power cuts, restores and wrong clocks."""
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


def _bases(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Three bases meet over a mailbox that does wrong: one through windows of a satellite, one by two gateways."""
    groups = tuple(tuple(range(base, nodes, 3)) for base in range(3))
    gateways = [group[0] for group in groups] + ([groups[1][1]] if len(groups[1]) > 1 else [])
    faults: list[Fault] = [Window(0.0, 2, False)]
    at_s = duration_s * rng.uniform(0.1, 0.3)
    while at_s < duration_s:
        faults += [Window(at_s, 2, True), Window(min(at_s + duration_s * rng.uniform(0.02, 0.1), duration_s), 2, False)]
        at_s += duration_s * rng.uniform(0.2, 0.4)
    for _ in range(rng.randint(2, 5)):
        wrongs = tuple(sorted(rng.sample(WRONGS, rng.randint(0, 3))))
        faults.append(MailboxDoes(duration_s * rng.uniform(0.1, 0.95), wrongs))
    for node in gateways:
        if rng.random() < 0.6:
            at_s = duration_s * rng.uniform(0.2, 0.7)
            faults += [Crash(at_s, node, rng.randrange(200)), Restart(at_s + duration_s * 0.1, node)]
    if rng.random() < 0.3:
        node = rng.randrange(nodes)
        faults += [Backup(duration_s * 0.3, node), Restore(duration_s * 0.6, node)]
    rates = Rates(telemetry=0.3, edit=0.3, insert=0.2, delete=0.1, alert=0.05, rows=12)
    clocks = tuple(Clock(rng.randint(-3_000, 3_000), rng.randint(-100, 100)) for _ in range(nodes))
    return Scenario(
        "bases", nodes, duration_s, rates, Conditions(), _sorted(faults), clocks, tables_at=0, bases=groups,
        gateways=tuple(sorted(gateways)), settle_s=3_600,
    )  # fmt: skip


def _areas(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Cut the telemetry by drone: nodes keep some areas, write to all, change what they keep, and return late or restored."""
    every = tuple(str(node) for node in range(nodes))

    def some() -> tuple[str, ...]:
        return tuple(sorted(rng.sample(every, rng.randint(0, nodes - 1))))

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
    return Scenario("areas", nodes, duration_s, rates, faults=_sorted(faults), keeps=keeps, settle_s=600)


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
        Entry(
            "retention",
            "rows of a table go with time, over a split, crashes, a late returner, a newcomer and restored backups",
            5,
            3,
            90,
            _retention,
        ),
        Entry(
            "rolling-upgrade",
            "a newer version of the protocol comes node by node, then the old one goes",
            5,
            2,
            120,
            _rolling_upgrade,
        ),
        Entry("rolling-restart", "every node in turn is killed or stopped and comes back", 5, 2, 120, _rolling_restart),
        Entry(
            "clock-chaos",
            "wrong, drifting and jumping clocks, one in 1970, one ahead, during a split",
            5,
            2,
            120,
            _clock_chaos,
        ),
        Entry("copies", "a cloned file and a restored backup", 5, 3, 120, _copies),
        Entry(
            "convoy", "quadcopters fly real sorties over vehicles: links come and go with distance", 8, 2, 120, _convoy
        ),
        Entry("islands", "three groups that never met find each other, one after the other", 6, 3, 120, _islands),
        Entry("flash-crowd", "many nodes with empty files come at once", 8, 3, 60, _flash_crowd),
        Entry(
            "slow-link",
            "every stream carries 4 kB/s, bulk loads and a split ask for more, and alerts go first",
            4,
            2,
            120,
            _slow_link,
        ),
        Entry(
            "own-ids",
            "each node numbers rows from its own blocks, over splits, crashes, a restored backup and a clone",
            5,
            3,
            120,
            _own_ids,
        ),
        Entry(
            "mixed-load",
            "counters, REPLACE, bulk loads, new, renamed and dropped columns on both sides of a split",
            4,
            2,
            60,
            _mixed_load,
        ),
        Entry(
            "captured-drone",
            "a member's key is in other hands: it is revoked, writes on, and tries to come back",
            5,
            3,
            60,
            _captured_drone,
        ),
        Entry(
            "traitor",
            "a member lies in all that it says, and is the only bridge; in some runs its writes are purged",
            4,
            3,
            40,
            _traitor,
        ),
        Entry(
            "readers",
            "programs read the change feed over splits, crashes, power cuts and restored backups, and die at any time",
            4,
            2,
            60,
            _readers,
        ),
        Entry(
            "areas",
            "telemetry is cut by drone: nodes keep some areas, write to all, and change what they keep",
            5,
            3,
            120,
            _areas,
        ),
        Entry(
            "bases",
            "bases meet over a mailbox that loses, truncates, repeats, reorders and lies; one has satellite windows",
            6,
            3,
            120,
            _bases,
        ),
        Entry("storm", "splits, flapping, crashes, power cuts, restores and wrong clocks, at random", 5, 2, 60, _storm),
        Entry("fly-by", "drones circle a convoy: links come and go with distance", 6, 2, 120, _fly_by),
    )
}
