"""Events that a shell passes to a `MeshCore`, and actions that the core returns.

A shell does the I/O: asyncio and TCP in the daemon, virtual pipes in simulations. It numbers each transport connection with a
small integer, `conn`, that it never uses again. Once the peer has authenticated, the same integer names the `link`. All times
are integer milliseconds of a monotonic clock unless a name says `wall`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Action",
    "Address",
    "AddressFound",
    "CertificatesFound",
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
    "PurgeWrites",
    "RevokeMembers",
    "SendMessage",
    "StateInterests",
    "TimerFired",
    "Wishes",
    "Write",
]


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A numeric IPv4 or IPv6 host (link-local with its `%scope`) and a TCP port at which a node may listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# The live batches that a member wants: of each group of topics that it names these topics, and all of other groups.
Wishes = Mapping[str, frozenset[str]]


# ---- events (shell -> core)


@dataclass(frozen=True, slots=True)
class AddressFound:
    """A hint that a member may listen here. It comes from mDNS, a static `--peer` or another peer, and may be wrong."""

    address: Address
    static: bool = False
    instance: str = ""


@dataclass(frozen=True, slots=True)
class ConnOpened:
    """A transport connection is open. `dialled` is true if a `Dial` action led to it; `interface` is "" where not known."""

    conn: int
    address: Address
    dialled: bool
    interface: str = ""


@dataclass(frozen=True, slots=True)
class ConnReceived:
    """Bytes arrived on the stream, cut at any point."""

    conn: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ConnClosed:
    """The transport connection has ended."""

    conn: int


@dataclass(frozen=True, slots=True)
class ConnDrained:
    """The transport's send queue fell below its low-water mark."""

    conn: int


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A `Dial` has failed."""

    address: Address


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """A network interface appeared, disappeared or changed its address: the core retries all known addresses at once."""


@dataclass(frozen=True, slots=True)
class CertificatesFound:
    """Certificates came by another way than a link, such as a mailbox. Those that the root has not signed are an error."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PublishBatch:
    """Sign one local batch and broadcast it to the mesh. `priority` 0 is the most urgent of 0..3."""

    payload: bytes
    priority: int


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send one opaque application message on one link; the core discards it if that link has ended.

    A peer whose version does not know of `optional` messages ignores it. A `deferrable` one leaves with the next message of the
    link: on an idle one with the next Ping or Pong, as a segment of its own would be most of its bytes.
    """

    link: int
    payload: bytes
    priority: int
    optional: bool = False
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class StateInterests:
    """Take what this node wants of live batches, and what other members want, by the first 8 bytes of their node ids.

    With `own` None, this node has stated nothing and gets everything. Of the topics (group, topic) in `held` it has batches that
    it does not want: it hands them on to members that do.
    """

    own: Wishes | None
    members: Mapping[bytes, Wishes]
    held: tuple[tuple[str, str], ...] = ()
    copies: int = 2


@dataclass(frozen=True, slots=True)
class RevokeMembers:
    """Remove members for good and rotate the mesh secret once. Check `Membership.revocable` of each first."""

    node_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PurgeWrites:
    """Drop on every node what a revoked node has written since a time. Check `Membership.purgeable` first."""

    node_id: bytes
    since_ms: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """`next_deadline()` has passed."""


Event = (
    AddressFound
    | CertificatesFound
    | ConnOpened
    | ConnReceived
    | ConnClosed
    | ConnDrained
    | DialFailed
    | NetworkChanged
    | PublishBatch
    | PurgeWrites
    | RevokeMembers
    | SendMessage
    | StateInterests
    | TimerFired
)


# ---- actions (core -> shell), to be done in the order in which the core returns them


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """An authenticated member: 16-byte node id, name and roles from its certificate, and the link's remote address.

    `metered` if the link has a budget.
    """

    node_id: bytes
    name: str
    roles: tuple[str, ...]
    address: Address
    dialled: bool
    metered: bool = False


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a transport connection. The shell reports `ConnOpened(dialled=True)` or `DialFailed` within the dial limit."""

    address: Address


@dataclass(frozen=True, slots=True)
class Write:
    """Append bytes to the connection's send queue."""

    conn: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Flush the send queue and close. `reason` is for the log: an unauthenticated peer must not learn it."""

    conn: int
    reason: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The handshake is done and the certificate is valid. This connection is the only link to that member."""

    link: int
    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link has ended: closed, dead, superseded or refused."""

    link: int
    peer: PeerInfo
    reason: str


@dataclass(frozen=True, slots=True)
class LinkReady:
    """The link has room for one more bulk message."""

    link: int


@dataclass(frozen=True, slots=True)
class DeliverMessage:
    """The peer on this link has sent an opaque application message."""

    link: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeliverBatch:
    """A batch arrived for the first time, and its origin's signature is valid. `origin` is a 16-byte node id."""

    link: int
    origin: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Joining is complete. `identity` is the encoded identity to store (see `mesh.membership.identity`)."""

    identity: bytes


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    """Store both values before doing any later action: the encoded identity, and the mesh's decrees and certificates."""

    identity: bytes = field(repr=False)
    membership: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for a person or a log. `event` is a stable dotted name, `detail` holds JSON-able values."""

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
