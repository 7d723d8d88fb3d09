"""One scenario as plain data: what a run is, but for its seed.

Owns the value and what can be said about it without running it. What always holds: it is frozen, and possible. Must not
know where scenarios come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mycomesh.mesh.versions import SUPPORTED, Versions
from mycomesh.simulations.bounds import DURATION_S, HEARTBEAT_MS, NODES
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.workload import Rates

if TYPE_CHECKING:
    from mycomesh.simulations.faults import Fault
    from mycomesh.simulations.world import Clock

__all__ = ["Scenario"]


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
    versions: Versions = SUPPORTED  # of the protocol that every node speaks at first
    heartbeat_ms: int = 1_000  # of every node: silence after which a link says something
    urgent: tuple[str, ...] = ()  # tables of every node that go first
    settle_s: float = 300.0  # bound of the liveness phase: no faults, no writes, everybody up

    def __post_init__(self) -> None:
        NODES.read(self.nodes, "nodes")
        DURATION_S.read(self.duration_s, "duration")
        DURATION_S.read(self.settle_s, "settle")
        HEARTBEAT_MS.read(self.heartbeat_ms, "heartbeat_ms")
        if self.clocks and len(self.clocks) != self.nodes:
            raise ScenarioError(f"clocks: one a node ({self.nodes}), not {len(self.clocks)}")
