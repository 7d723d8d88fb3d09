"""A scenario as plain data: everything that decides a run except the seed and the code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mycomesh.mesh.versions import SUPPORTED, Versions
from mycomesh.simulations.bounds import DURATION_S, HEARTBEAT_MS, NODES, READERS, RETAIN_S
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.workload import Rates

if TYPE_CHECKING:
    from mycomesh.simulations.faults import Fault
    from mycomesh.simulations.world import Clock

__all__ = ["Scenario", "in_order"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run without its seed: nodes, writes, network, and which faults occur when.

    Construction raises `ScenarioError` for values out of range.
    """

    name: str
    nodes: int
    duration_s: float  # of the safety phase, with writes and faults
    rates: Rates = field(default_factory=Rates)
    conditions: Conditions = field(default_factory=Conditions)
    faults: tuple[Fault, ...] = ()
    clocks: tuple[Clock, ...] = ()  # one for each node; empty: all are right
    absent: tuple[int, ...] = ()  # nodes that do not start at the beginning
    tables_at: int | None = None  # the one node whose application creates the tables; None: each does
    versions: Versions = SUPPORTED  # protocol versions that every node speaks at first
    heartbeat_ms: int = 1_000  # of every node: silence after which a link sends a heartbeat
    urgent: tuple[str, ...] = ()  # urgent tables of every node
    budget: int = 0  # bytes a second of each link, both ways; 0: links have no budget
    paced: tuple[str, ...] = ()  # tables of which each link with a budget carries a fifth of it
    signed: tuple[str, ...] = ()  # tables that are signed from the start
    # The areas of `drones` that each node keeps at first, by drone id; None: all of them. Empty: the table is not cut.
    keeps: tuple[tuple[str, ...] | None, ...] = ()
    areas: int = 0  # by drone id, from 0; 0: as many as nodes
    # The areas of `drones` that each node may write; None: all, and all other tables. Empty: every node may do everything.
    writes: tuple[tuple[str, ...] | None, ...] = ()
    keyed: bool = False  # the table has a primary key, and is not cut before it has rows (`Divide`)
    homes: int = 0  # areas, of which each node writes to its own alone: its index modulo this; 0: to any
    lasting_range: bool = False  # the radio range stays when all faults end
    readers: int = (
        0  # programs that follow the change feed, on random nodes, every other one with its effect in the served file
    )
    bases: tuple[tuple[int, ...], ...] = ()  # nodes that reach each other alone; they meet over a mailbox
    gateways: tuple[int, ...] = ()  # the nodes that use the mailbox
    retain_s: int = 0  # after so many seconds rows of `drones` go; 0: they stay
    settle_s: float = 300.0  # limit of the liveness phase, in which all nodes run without faults and writes

    def __post_init__(self) -> None:
        NODES.read(self.nodes, "nodes")
        DURATION_S.read(self.duration_s, "duration")
        DURATION_S.read(self.settle_s, "settle")
        HEARTBEAT_MS.read(self.heartbeat_ms, "heartbeat_ms")
        READERS.read(self.readers, "readers")
        RETAIN_S.read(self.retain_s, "retain")
        if self.bases and sorted(node for base in self.bases for node in base) != list(range(self.nodes)):
            raise ScenarioError("bases: must name each node once")
        if self.keeps and (len(self.keeps) != self.nodes or self.keeps[0] is not None):
            raise ScenarioError("keeps: must be one for each node, and node 0 keeps the table whole")
        if self.writes and (not self.keeps or len(self.writes) != self.nodes or self.writes[0] is not None):
            raise ScenarioError("writes: must be one for each node with 'keeps', and node 0 may write everything")
        if self.clocks and len(self.clocks) != self.nodes:
            raise ScenarioError(f"clocks: must be one for each node ({self.nodes}), not {len(self.clocks)}")


def in_order(faults: list[Fault]) -> tuple[Fault, ...]:
    """Return faults in the order of their times."""
    return tuple(sorted(faults, key=lambda fault: fault.at_s))
