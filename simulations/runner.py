"""One run: a scenario and a seed in, a result out.

Owns the two phases. Safety: the application writes, the faults strike. Liveness: no faults, no writes, everybody
up; the cluster must converge within a bounded virtual time (after TigerBeetle's VOPR). What always holds: the
result depends on the scenario and the seed alone; the machine's speed shows in no field of it but `real_s`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.simulations.checkers import agreed, content_hash, contents_of, violations
from mycomesh.simulations.cluster import Cluster
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.fault_injector import strike
from mycomesh.simulations.faults import Fault, Heal, Revoke, Split
from mycomesh.simulations.members import member
from mycomesh.simulations.network import Network
from mycomesh.simulations.shared import computed_once
from mycomesh.simulations.wording import in_words
from mycomesh.simulations.world import SECOND, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.simulations.recorder import Recorder
    from mycomesh.simulations.scenario import Scenario

__all__ = ["Result", "run"]

STARTS_US = 2 * SECOND  # nodes start within this of each other
LOOK_US = SECOND // 4  # how often the liveness phase looks whether all agree
QUIET_US = 3 * SECOND  # agreement must last this long: what is on its way may still disturb it
MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  files of a simulation are thrown away; memory spares the disk


@dataclass(frozen=True, slots=True)
class Result:
    """What a run showed. Times in virtual seconds, except `real_s`."""

    scenario: str
    seed: int
    nodes: int
    converged: bool
    trace: str
    violations: tuple[str, ...]
    virtual_s: float
    events: int
    bytes: int
    healed_s: float | None  # from the end of the faults to agreement of all; None: never
    commits: int
    content: str  # hash of node 0's user tables
    faults: dict[str, int] = field(default_factory=dict)
    notices: dict[str, int] = field(default_factory=dict)
    real_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return self.converged and not self.violations

    def as_json(self) -> dict[str, object]:
        """The result as one JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def run(
    scenario: Scenario,
    seed: int,
    *,
    mesh: str = "real",
    progress: Callable[[float], None] | None = None,
    inspect: Callable[[Cluster], None] | None = None,
    record: Recorder | None = None,
) -> Result:
    """Run one scenario with one seed.

    Args:
        scenario: what happens.
        seed: of every random choice.
        mesh: `real`, or `plain` without cryptography.
        progress: hears the virtual time in seconds.
        inspect: sees the cluster at the end, before its files are gone.
        record: takes down what happens over time; changes nothing.
    """
    if mesh != "real" and any(isinstance(fault, Revoke) for fault in scenario.faults):
        raise ScenarioError(f"--mesh: a {mesh} mesh has no members to revoke; {scenario.name} needs the real one")
    started = time.perf_counter()
    base = MEMORY_DIRECTORY if MEMORY_DIRECTORY.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="mycomesh-simulation-", dir=base))
    world = World(seed)
    network = Network(world, scenario.conditions)
    members = tuple(member(index, mesh, scenario.heartbeat_ms) for index in range(scenario.nodes))
    cluster = Cluster(world, network, members, scenario, directory)
    look = _Look(world, progress, record)
    if record is not None:
        cluster.watch = record
        header = {"scenario": scenario.name, "seed": seed, "nodes": scenario.nodes, "mesh": mesh}
        record.begin(header | {"duration_s": scenario.duration_s}, world, network, cluster)
    try:
        with computed_once():
            _safety(scenario, world, cluster, look)
            healed_us = _liveness(scenario, world, cluster, look)
        found = violations(cluster)
        if healed_us is None:
            found.insert(0, f"not converged within {scenario.settle_s:g} s after the faults ended")
        if inspect is not None:
            inspect(cluster)
        if record is not None:
            record.snapshot("at the end")
        content = content_hash(contents_of(cluster.places[0].application.db))
    finally:
        cluster.close()
        shutil.rmtree(directory)
    notices = sum((place.notices for place in cluster.places), start=type(network.faults)())
    result = Result(
        scenario=scenario.name,
        seed=seed,
        nodes=scenario.nodes,
        converged=healed_us is not None,
        trace=world.trace.hexdigest(),
        violations=tuple(found),
        virtual_s=world.now_us / SECOND,
        events=world.trace.events,
        bytes=network.bytes_sent,
        healed_s=None if healed_us is None else healed_us / SECOND,
        commits=sum(place.application.commits for place in cluster.places),
        content=content,
        faults=dict(sorted(network.faults.items())),
        notices=dict(sorted(notices.items())),
        real_s=round(time.perf_counter() - started, 3),
    )
    if record is not None:
        record.end(result.as_json())
    return result


@dataclass(frozen=True, slots=True)
class _Look:
    """Who looks on while virtual time goes by."""

    world: World
    progress: Callable[[float], None] | None
    record: Recorder | None

    def __call__(self) -> None:
        if self.record is not None:
            self.record.sample()
        if self.progress is not None:
            self.progress(self.world.now_us / SECOND)


def _safety(scenario: Scenario, world: World, cluster: Cluster, look: _Look) -> None:
    """Write and faults."""
    rng = world.stream("starts")
    within_us = max(1, min(STARTS_US, int(scenario.duration_s * SECOND / 10)))
    for index in range(scenario.nodes):
        if index not in scenario.absent:
            world.at(rng.randrange(within_us), cluster.start, index)
    for fault in scenario.faults:
        world.at(int(fault.at_s * SECOND), _strike, world, cluster, fault, look.record)
    end = int(scenario.duration_s * SECOND)
    while world.now_us < end:
        world.run_until(min(end, world.now_us + SECOND))
        look()


def _strike(world: World, cluster: Cluster, fault: Fault, record: Recorder | None) -> None:
    if record is not None:
        record.before(type(fault).__name__, in_words(fault), whole=isinstance(fault, Split | Heal))
    world.trace.record(world.now_us, -1, repr(fault))
    strike(cluster, fault)


def _liveness(scenario: Scenario, world: World, cluster: Cluster, look: _Look) -> int | None:
    """No faults, no writes; return the microseconds until all agreed for good, None if they did not in time."""
    if look.record is not None:
        look.record.calm()
    cluster.calm()
    begun = world.now_us
    agreed_at: int | None = None
    while world.now_us < begun + int(scenario.settle_s * SECOND):
        world.run_until(world.now_us + LOOK_US)
        if not agreed(cluster):
            agreed_at = None
        elif agreed_at is None:
            agreed_at = world.now_us
        elif world.now_us >= agreed_at + QUIET_US:
            return agreed_at - begun
        look()
    return None
