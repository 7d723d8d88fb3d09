"""The faults that a scenario can schedule, as plain values with a time each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.simulations.mailbox import WRONGS
from mycomesh.simulations.traitor import LIES

if TYPE_CHECKING:
    from mycomesh.mesh.versions import Versions
    from mycomesh.simulations.world import Clock

__all__ = [
    "Backup",
    "Betray",
    "ClockSet",
    "Clone",
    "Crash",
    "Cut",
    "Divide",
    "Fault",
    "Heal",
    "Join",
    "MailboxDoes",
    "Move",
    "PowerCut",
    "Purge",
    "Radio",
    "Reset",
    "Restart",
    "Restore",
    "Revoke",
    "Split",
    "Stop",
    "Upgrade",
    "Window",
]


@dataclass(frozen=True, slots=True)
class Split:
    """The network splits into these groups of nodes."""

    at_s: float
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Heal:
    """All splits, cuts and switched-off radios end."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Cut:
    """No packet from `source` reaches `target`, nor in the other direction unless `one_way`."""

    at_s: float
    source: int
    target: int
    one_way: bool = True


@dataclass(frozen=True, slots=True)
class Radio:
    """One node's radio goes off or on. When it comes on, the node's interface reports it."""

    at_s: float
    node: int
    on: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """One random stream breaks."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Move:
    """Nodes move to these positions (node, x, y in metres)."""

    at_s: float
    places: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True)
class Crash:
    """A node gets kill -9 after `actions` more actions; its application keeps writing, unless `silent` stops the machine."""

    at_s: float
    node: int
    actions: int = 0
    silent: bool = False


@dataclass(frozen=True, slots=True)
class PowerCut:
    """The machine loses power. Of the commits of the last `unsynced_s`, a random prefix is on its disk."""

    at_s: float
    node: int
    unsynced_s: float = 5.0  # the commit interval of an ext4 journal


@dataclass(frozen=True, slots=True)
class Stop:
    """A node and its application end cleanly."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Restart:
    """A node that is down starts on its file."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A running node ends cleanly and restarts as a program that speaks these protocol versions."""

    at_s: float
    node: int
    versions: Versions


@dataclass(frozen=True, slots=True)
class Join:
    """A member that has never run starts with an empty file."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup of a node's file is made."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Restore:
    """A node loses its file and restarts on its backup."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Clone:
    """A member that has never run starts on a copy of another node's file."""

    at_s: float
    source: int
    node: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """A member's key is stolen. Node 0, which has the mesh's root key, revokes the member, whose machine keeps writing."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Purge:
    """Node 0 revokes a member, and has all nodes drop what it has written since `since_s`."""

    at_s: float
    node: int
    since_s: float


@dataclass(frozen=True, slots=True)
class Betray:
    """A member begins to lie in what it tells others (`traitor.LIES`), and does not stop when the faults end."""

    at_s: float
    node: int
    lies: tuple[str, ...] = LIES


@dataclass(frozen=True, slots=True)
class MailboxDoes:
    """The mailbox between the bases begins to do wrong (`mailbox.WRONGS`), and stops whatever it did wrong before."""

    at_s: float
    wrongs: tuple[str, ...] = WRONGS


@dataclass(frozen=True, slots=True)
class Window:
    """The way of a base to the mailbox opens or closes."""

    at_s: float
    base: int
    opens: bool


@dataclass(frozen=True, slots=True)
class Keep:
    """A node begins to keep other areas of the table that is cut."""

    at_s: float
    node: int
    areas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Divide:
    """A node decides that the table which has areas is cut, if nobody it knows of has: it has rows by then."""

    at_s: float
    node: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A node keeps the rows that go with time for this long only; 0 ends that."""

    at_s: float
    node: int
    age_s: int


@dataclass(frozen=True, slots=True)
class ClockSet:
    """A node's wall clock jumps."""

    at_s: float
    node: int
    clock: Clock


Fault = (
    Split
    | Keep
    | Divide
    | Pin
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
    | Purge
    | Betray
    | MailboxDoes
    | Window
    | ClockSet
)
