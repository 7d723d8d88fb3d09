"""Runs one scenario with one seed, in two phases after TigerBeetle's VOPR.

Safety: applications write and faults occur. Liveness: without writes and faults, and with all nodes up, the cluster must
converge within a bounded virtual time.

Invariant: every field of the result except `real_s` and `cpu_s` depends on the scenario, the seed and the code alone.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.link_budget import Budget
from mycomesh.simulations.checkers import checks_causality, content_hash, contents_of, converged, violations
from mycomesh.simulations.cluster import Cluster
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.fault_injector import inject
from mycomesh.simulations.faults import Fault, Heal, Revoke, Split
from mycomesh.simulations.members import grants_of, member
from mycomesh.simulations.network import Network
from mycomesh.simulations.shared import computed_once
from mycomesh.simulations.wording import in_words
from mycomesh.simulations.world import SECOND, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.simulations.recorder import Recorder
    from mycomesh.simulations.scenario import Scenario

__all__ = ["Result", "run"]

START_WITHIN_US = 2 * SECOND  # nodes start at random times in this span
CHECK_US = SECOND // 4  # how often the liveness phase checks convergence
QUIET_US = 3 * SECOND  # convergence must last this long: messages on their way may still end it
MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  (the files are temporary; memory spares the disk)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run. Times are virtual seconds, except `real_s` (by the clock) and `cpu_s` (of the run's thread)."""

    scenario: str
    seed: int
    nodes: int
    converged: bool
    trace: str
    violations: tuple[str, ...]
    virtual_s: float
    events: int
    bytes: int
    healed_s: float | None  # from the end of the faults to convergence; None: never
    commits: int
    content: str  # hash of node 0's user tables
    received: dict[str, int] = field(
        default_factory=dict
    )  # bytes by kind of message, of all nodes since their last start
    faults: dict[str, int] = field(default_factory=dict)
    notices: dict[str, int] = field(default_factory=dict)
    real_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def ok(self) -> bool:
        """True if the run converged without violations."""
        return self.converged and not self.violations

    def as_json(self) -> dict[str, object]:
        """Return the result as one JSON object."""
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
        scenario: the scenario.
        seed: the seed of all random choices.
        mesh: `real`, or `plain` without cryptography.
        progress: called with the virtual time in seconds.
        inspect: called with the cluster at the end, before its files are removed.
        record: records events over time; changes nothing.
    """
    if mesh != "real" and any(isinstance(fault, Revoke) for fault in scenario.faults):
        raise ScenarioError(f"--mesh: a {mesh} mesh has no members to revoke; {scenario.name} needs the real mesh")
    if mesh != "real" and scenario.gateways:
        raise ScenarioError(
            f"--mesh: a {mesh} mesh has no keys to seal what goes into a mailbox; {scenario.name} needs the real mesh"
        )
    if mesh != "real" and scenario.writes:
        raise ScenarioError(
            f"--mesh: members of a {mesh} mesh have no certificates; {scenario.name} needs the real mesh"
        )
    started, cpu_started = time.perf_counter(), time.thread_time()
    base = MEMORY_DIRECTORY if MEMORY_DIRECTORY.is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="mycomesh-simulation-", dir=base))
    world = World(seed)
    network = Network(world, scenario.conditions)
    budget = Budget(scenario.budget, tables=bool(scenario.paced)) if scenario.budget else None
    rights = [grants_of(scenario, index) for index in range(scenario.nodes)]
    members = tuple(member(index, mesh, scenario.heartbeat_ms, budget, grants) for index, grants in enumerate(rights))
    cluster = Cluster(world, network, members, scenario, directory, record)
    watch = _Watcher(world, progress, record, cluster)
    if record is not None:
        header = {"scenario": scenario.name, "seed": seed, "nodes": scenario.nodes, "mesh": mesh}
        record.begin(header | {"duration_s": scenario.duration_s}, world, network, cluster)
    try:
        with computed_once():
            _safety(scenario, world, cluster, watch)
            healed_us = _liveness(scenario, world, cluster, watch)
        found = violations(cluster)
        if healed_us is None:
            found.insert(0, f"not converged within {scenario.settle_s:g} s after the faults ended")
        if inspect is not None:
            inspect(cluster)
        if record is not None:
            record.snapshot("at the end")
        content = content_hash(contents_of(cluster.hosts[0].application.db))
        received = cluster.received()
    finally:
        cluster.close()
        shutil.rmtree(directory)
    notices = sum((host.notices for host in cluster.hosts), start=type(network.faults)())
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
        commits=sum(host.application.commits for host in cluster.hosts),
        content=content,
        received=received,
        faults=dict(sorted(network.faults.items())),
        notices=dict(sorted(notices.items())),
        real_s=round(time.perf_counter() - started, 3),
        cpu_s=round(time.thread_time() - cpu_started, 3),
    )
    if record is not None:
        record.end(result.as_json())
    return result


@dataclass(frozen=True, slots=True)
class _Watcher:
    """Reports progress, takes samples, and looks at the logs of all nodes while virtual time passes."""

    world: World
    progress: Callable[[float], None] | None
    record: Recorder | None
    cluster: Cluster

    def __call__(self) -> None:
        if checks_causality(self.cluster):
            nodes = (
                (host.index, host.path, host.shell.replica) for host in self.cluster.up() if host.shell is not None
            )
            self.cluster.causality.look(nodes, self.world.now_us / SECOND)
        if self.record is not None:
            self.record.sample()
        if self.progress is not None:
            self.progress(self.world.now_us / SECOND)


def _safety(scenario: Scenario, world: World, cluster: Cluster, watch: _Watcher) -> None:
    """Run the phase of writes and faults."""
    rng = world.stream("starts")
    within_us = max(1, min(START_WITHIN_US, int(scenario.duration_s * SECOND / 10)))
    for index in range(scenario.nodes):
        if index not in scenario.absent:
            world.at(rng.randrange(within_us), cluster.start, index)
    for fault in scenario.faults:
        world.at(int(fault.at_s * SECOND), _inject, world, cluster, fault, watch.record)
    end = int(scenario.duration_s * SECOND)
    while world.now_us < end:
        world.run_until(min(end, world.now_us + SECOND))
        watch()


def _inject(world: World, cluster: Cluster, fault: Fault, record: Recorder | None) -> None:
    if record is not None:
        record.before(type(fault).__name__, in_words(fault), whole=isinstance(fault, Split | Heal))
    world.trace.record(world.now_us, -1, repr(fault))
    inject(cluster, fault)


def _liveness(scenario: Scenario, world: World, cluster: Cluster, watch: _Watcher) -> int | None:
    """Run the phase without writes and faults; return the microseconds until convergence, None if it did not come in time."""
    if watch.record is not None:
        watch.record.calm()
    cluster.calm()
    begun = world.now_us
    converged_at: int | None = None
    while world.now_us < begun + int(scenario.settle_s * SECOND):
        world.run_until(world.now_us + CHECK_US)
        if not converged(cluster):
            converged_at = None
        elif converged_at is None:
            converged_at = world.now_us
        elif world.now_us >= converged_at + QUIET_US:
            return converged_at - begun
        watch()
    return None
