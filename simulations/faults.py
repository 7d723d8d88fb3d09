"""What may go wrong, and when: the schedule of a scenario as plain values.

Owns the vocabulary of trouble. What always holds: a schedule is data, printed as it is run, and applying it needs
nothing but the cluster. Must not know what a scenario wants to show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mycomesh.mesh.versions import Versions
    from mycomesh.simulations.world import Clock

__all__ = [
    "Backup",
    "ClockSet",
    "Clone",
    "Crash",
    "Cut",
    "Fault",
    "Heal",
    "Join",
    "Move",
    "PowerCut",
    "Radio",
    "Reset",
    "Restart",
    "Restore",
    "Revoke",
    "Split",
    "Stop",
    "Upgrade",
]


@dataclass(frozen=True, slots=True)
class Split:
    """The network falls into these groups of nodes."""

    at_s: float
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Heal:
    """Every split, cut and dead radio ends."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing of `source` reaches `target`, nor back unless `one_way`."""

    at_s: float
    source: int
    target: int
    one_way: bool = True


@dataclass(frozen=True, slots=True)
class Radio:
    """One node's radio goes off or on; coming on, the node's own interface tells it so."""

    at_s: float
    node: int
    on: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """One stream breaks, any."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Move:
    """Nodes stand at these places (node, x, y in metres)."""

    at_s: float
    places: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True)
class Crash:
    """kill -9 of a node after `actions` more actions; its application writes on. `silent`: the machine is off too."""

    at_s: float
    node: int
    actions: int = 0
    silent: bool = False


@dataclass(frozen=True, slots=True)
class PowerCut:
    """The machine loses power: of what was committed in the last `unsynced_s`, any prefix is on its disk."""

    at_s: float
    node: int
    unsynced_s: float = 5.0  # what an ext4 journal commits at the latest (its commit interval)


@dataclass(frozen=True, slots=True)
class Stop:
    """An orderly end of a node and its application."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Restart:
    """A node that is down comes up on its file."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A node that is up ends in order and comes back as a program that speaks these versions of the protocol."""

    at_s: float
    node: int
    versions: Versions


@dataclass(frozen=True, slots=True)
class Join:
    """A member that was never up starts with an empty file."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Backup:
    """The file of a node is copied aside."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Restore:
    """A node loses its file, gets the backup back, and restarts."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Clone:
    """A member that was never up starts on a copy of another node's file."""

    at_s: float
    source: int
    node: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """A member's key is in other hands: node 0, which has the mesh's root key, revokes it; its machine writes on."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class ClockSet:
    """A node's wall clock jumps."""

    at_s: float
    node: int
    clock: Clock


Fault = (
    Split
    | Heal
    | Cut
    | Radio
    | Reset
    | Move
    | Crash
    | PowerCut
    | Stop
    | Restart
    | Upgrade
    | Join
    | Backup
    | Restore
    | Clone
    | Revoke
    | ClockSet
)
