"""The catalogue of scenarios: each expands a node count, a duration and a seed into a schedule of faults.

Invariant: the same arguments give the same scenario.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.versions import Versions
from mycomesh.simulations import area_scenarios, member_scenarios, table_scenarios, vehicle_scenarios
from mycomesh.simulations.bounds import AREAS, DURATION_S, LOSS, NODES, RATE_ALL, ROWS
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.faults import (
    Backup,
    ClockSet,
    Clone,
    Crash,
    Cut,
    Fault,
    Heal,
    Join,
    MailboxDoes,
    PowerCut,
    Radio,
    Reset,
    Restart,
    Restore,
    Split,
    Stop,
    Upgrade,
    Window,
)
from mycomesh.simulations.mailbox import WRONGS
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.scenario import Scenario, in_order
from mycomesh.simulations.scenario_file import load
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
    crowd_rate: float = CROWD_RATE  # transactions a second of all nodes together, where there are more than `CROWD`


@dataclass(frozen=True, slots=True)
class Changes:
    """The settings of a scenario that a request overrides; None keeps the scenario's own.

    rate: transactions a virtual second, of all nodes together. rows: size of the shared key space. loss: of one packet.
    areas: of the telemetry of a fleet.
    """

    rate: float | None = None
    rows: int | None = None
    loss: float | None = None
    areas: int | None = None

    def __post_init__(self) -> None:
        if self.areas is not None:
            AREAS.read(self.areas, "--areas")
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
        changed = replace(scenario, rates=rates, conditions=conditions)
        return changed if self.areas is None else area_scenarios.in_areas(changed, self.areas)


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
        rates = scenario.rates.scaled(entry.crowd_rate / count)
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
    return Scenario("flapping", nodes, duration_s, faults=in_order(faults), conditions=conditions)


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
    return Scenario("rolling-restart", nodes, duration_s, faults=in_order(faults))


def _rolling_upgrade(nodes: int, duration_s: float, rng: random.Random) -> Scenario:
    """Upgrade each node in turn to a program that also speaks the next version, then each to one without the old version."""
    old, both, new = Versions(1, 1), Versions(1, 2), Versions(2, 2)
    order = rng.sample(range(nodes), nodes)
    step = duration_s * 0.45 / nodes
    faults: list[Fault] = []
    for turn, node in enumerate(order):
        faults.append(Upgrade((turn + rng.random()) * step, node, both))
        faults.append(Upgrade(duration_s * 0.5 + (turn + rng.random()) * step, node, new))
    return Scenario("rolling-upgrade", nodes, duration_s, faults=in_order(faults), versions=old)


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
    return Scenario("clock-chaos", nodes, duration_s, faults=in_order(faults), clocks=tuple(clocks))


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
    return Scenario("storm", nodes, duration_s, rates, conditions, in_order(faults), clocks)


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
        "bases", nodes, duration_s, rates, Conditions(), in_order(faults), clocks, tables_at=0, bases=groups,
        gateways=tuple(sorted(gateways)), settle_s=3_600,
    )  # fmt: skip


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
            table_scenarios.retention,
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
            "convoy",
            "quadcopters fly real sorties over vehicles: links come and go with distance",
            8,
            2,
            120,
            vehicle_scenarios.convoy,
        ),
        Entry(
            "islands",
            "three groups that never met find each other, one after the other",
            6,
            3,
            120,
            vehicle_scenarios.islands,
        ),
        Entry("flash-crowd", "many nodes with empty files come at once", 8, 3, 60, vehicle_scenarios.flash_crowd),
        Entry(
            "slow-link",
            "every stream carries 4 kB/s, bulk loads and a split ask for more, and alerts go first",
            4,
            2,
            120,
            vehicle_scenarios.slow_link,
        ),
        Entry(
            "metered",
            "each link has a budget below what is written, links die and come back, alerts are urgent",
            3,
            2,
            60,
            vehicle_scenarios.metered,
        ),
        Entry(
            "own-ids",
            "each node numbers rows from its own blocks, over splits, crashes, a restored backup and a clone",
            5,
            3,
            120,
            table_scenarios.own_ids,
        ),
        Entry(
            "mixed-load",
            "counters, REPLACE, bulk loads, new, renamed and dropped columns on both sides of a split",
            4,
            2,
            60,
            table_scenarios.mixed_load,
        ),
        Entry(
            "captured-drone",
            "a member's key is in other hands: it is revoked, writes on, and tries to come back",
            5,
            3,
            60,
            member_scenarios.captured_drone,
        ),
        Entry(
            "traitor",
            "a member lies in all that it says, and is the only bridge; in some runs its writes are purged",
            4,
            3,
            40,
            member_scenarios.traitor,
        ),
        Entry(
            "readers",
            "programs read the change feed over splits, crashes, power cuts and restored backups, and die at any time",
            4,
            2,
            60,
            table_scenarios.readers,
        ),
        Entry(
            "areas",
            "telemetry is cut by drone: nodes keep some areas, write to all, and change what they keep",
            5,
            3,
            120,
            area_scenarios.areas,
        ),
        Entry(
            "aged-areas",
            "as areas, and rows go with time: a node returns late, some keep less for a while, a clock may be wrong",
            5,
            3,
            120,
            area_scenarios.aged_areas,
        ),
        Entry(
            "late-areas",
            "as areas, of a table with a primary key that is cut when it has rows: nodes are away, split and killed meanwhile",
            5,
            3,
            120,
            area_scenarios.late_areas,
        ),
        Entry(
            "area-moves",
            "as late-areas, while rows go with time, a member's writes are purged, or bases meet over a mailbox",
            5,
            4,
            120,
            area_scenarios.area_moves,
        ),
        Entry(
            "area-rights",
            "as areas, of which some nodes may write a few: others refuse the rest, also where a liar hides it",
            5,
            3,
            120,
            area_scenarios.area_rights,
        ),
        Entry(
            "area-fleet",
            "each node keeps and writes one area of the telemetry, the first all; ten times the writes of a large split-brain",
            8,
            4,
            60,
            area_scenarios.area_fleet,
            10 * CROWD_RATE,
        ),
        Entry(
            "area-chain",
            "a chain of nodes that each keep their own telemetry: others between keep none of it",
            5,
            3,
            60,
            area_scenarios.area_chain,
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
        Entry("fly-by", "drones circle a convoy: links come and go with distance", 6, 2, 120, vehicle_scenarios.fly_by),
    )
}
