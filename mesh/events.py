"""Events that go into a `MeshCore` and actions that come out of it: the border between mesh and its shells.

Owns only plain values. A `conn` is a small integer that the shell gives to one transport connection (TCP in the daemon,
a virtual pipe in simulations) and never uses again; once authenticated the same integer is the `link`.
All times are integer milliseconds of a monotonic clock unless a name says `wall`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Action",
    "Address",
    "AddressFound",
    "Close",
    "ConnClosed",
    "ConnDrained",
    "ConnOpened",
    "ConnReceived",
    "DeliverBatch",
    "DeliverMessage",
    "Dial",
    "DialFailed",
    "Enrolled",
    "Event",
    "LinkDown",
    "LinkReady",
    "LinkUp",
    "MembershipChanged",
    "NetworkChanged",
    "Notice",
    "PeerInfo",
    "PublishBatch",
    "RevokeMember",
    "SendMessage",
    "TimerFired",
    "Write",
]


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a node may be reached: a numeric IPv4 or IPv6 host (with `%scope` for link-local) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# ---- events (shell -> core)


@dataclass(frozen=True, slots=True)
class AddressFound:
    """A hint that a member may listen here: from mDNS, a static `--peer`, or another peer. Never a fact."""

    address: Address
    static: bool = False
    instance: str = ""


@dataclass(frozen=True, slots=True)
class ConnOpened:
    """A transport connection stands. `dialled` is true when a `Dial` action of ours led to it."""

    conn: int
    address: Address
    dialled: bool


@dataclass(frozen=True, slots=True)
class ConnReceived:
    """Raw bytes of the stream, cut anywhere."""

    conn: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ConnClosed:
    """The transport connection is gone."""

    conn: int


@dataclass(frozen=True, slots=True)
class ConnDrained:
    """The transport's send queue fell below its low-water mark."""

    conn: int


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A `Dial` did not lead to a connection."""

    address: Address


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """An interface came, went or changed its address: retry known addresses at once."""


@dataclass(frozen=True, slots=True)
class PublishBatch:
    """Sign and spread one local batch. `priority` 0 is the most urgent of 0..3."""

    payload: bytes
    priority: int


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send one opaque application message on one link (dropped if the link is gone)."""

    link: int
    payload: bytes
    priority: int


@dataclass(frozen=True, slots=True)
class RevokeMember:
    """Make this node a stranger to the mesh, and give the mesh another secret. Only where `MeshCore.revocable` says so."""

    node_id: bytes


@dataclass(frozen=True, slots=True)
class TimerFired:
    """`next_deadline()` has passed."""


Event = (
    AddressFound
    | ConnOpened
    | ConnReceived
    | ConnClosed
    | ConnDrained
    | DialFailed
    | NetworkChanged
    | PublishBatch
    | RevokeMember
    | SendMessage
    | TimerFired
)


# ---- actions (core -> shell), to be done in the order they are returned


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """An authenticated member: 16-byte node id, certificate name, roles, and where this link leads."""

    node_id: bytes
    name: str
    roles: tuple[str, ...]
    address: Address
    dialled: bool


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a transport connection; answer with `ConnOpened(dialled=True)` or `DialFailed` within the dial limit."""

    address: Address


@dataclass(frozen=True, slots=True)
class Write:
    """Append bytes to the connection's send queue."""

    conn: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Flush what is queued and close; `reason` is for the log alone, nothing is told to a stranger."""

    conn: int
    reason: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The handshake is done, the certificate holds, and this is the one link to that member."""

    link: int
    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link is gone (closed, dead, superseded or refused)."""

    link: int
    peer: PeerInfo
    reason: str


@dataclass(frozen=True, slots=True)
class LinkReady:
    """The link has room for one more bulk message."""

    link: int


@dataclass(frozen=True, slots=True)
class DeliverMessage:
    """An opaque application message of the peer on this link."""

    link: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeliverBatch:
    """A batch seen for the first time, its origin's signature checked. `origin` is a 16-byte node id."""

    link: int
    origin: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Joining is complete: `identity` is the encoded identity to store (see mesh.identity)."""

    identity: bytes


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """Store both before anything that follows is done: the encoded identity, and the mesh's decrees and members."""

    identity: bytes = field(repr=False)
    standing: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person may want to know: `event` is a stable dotted name, `detail` JSON-able values."""

    event: str
    text: str
    detail: dict[str, Any] = field(default_factory=dict)
    level: str = "info"


Action = (
    Dial
    | Write
    | Close
    | LinkUp
    | LinkDown
    | LinkReady
    | DeliverMessage
    | DeliverBatch
    | Enrolled
    | MembershipChanged
    | Notice
)
