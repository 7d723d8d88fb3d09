"""Events that go into an `Exchange`, and actions that come out of it: the whole interface between `sync` and the network.

All are plain values. A payload for the network is opaque bytes. A `link` is a small integer that names one live,
authenticated connection; it is never used again after `LinkClosed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Action",
    "BatchReceived",
    "BatchesReceived",
    "CommitSeen",
    "CompareRequested",
    "CoverageRequested",
    "DropLink",
    "Event",
    "InterestsStated",
    "LinkClosed",
    "LinkOpened",
    "LinkWritable",
    "MembersKnown",
    "MessageReceived",
    "Notice",
    "Publish",
    "RightsKnown",
    "ScrubRequested",
    "Send",
    "TimeKnown",
    "TimerFired",
]


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """A peer is authenticated; `peer` is its 16-byte node id. On a `metered` link the budgets of tables hold."""

    link: int
    peer: bytes
    metered: bool = False


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The link has closed; nothing may be sent on it again."""

    link: int


@dataclass(frozen=True, slots=True)
class LinkWritable:
    """The transport queue of the link has room for one more chunk, because it fell below its low-water mark."""

    link: int


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An anti-entropy message from the peer on this link."""

    link: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class BatchReceived:
    """A live batch that the mesh spreads, signed by `origin` (16-byte node id); it arrived on `link`."""

    link: int
    origin: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class BatchesReceived:
    """Live batches that arrived one after another and waited together; one transaction applies them."""

    batches: tuple[BatchReceived, ...]


@dataclass(frozen=True, slots=True)
class CommitSeen:
    """Another connection may have committed to the local file: drain what the triggers have logged.

    With `writing`, a program is writing at this moment; if it has changed the schema, the drain may wait until it pauses.
    """

    writing: bool = False


@dataclass(frozen=True, slots=True)
class TimerFired:
    """`next_deadline()` has passed."""


@dataclass(frozen=True, slots=True)
class ScrubRequested:
    """Compare every row with the change log, and capture what bypassed the triggers."""


@dataclass(frozen=True, slots=True)
class CompareRequested:
    """Compare with every linked peer at once, for a report whether all are equal; each peer replies with its digests."""


@dataclass(frozen=True, slots=True)
class CoverageRequested:
    """Ask every linked peer how far it covers this replica's writes, for a caller that waits until a write is replicated."""


@dataclass(frozen=True, slots=True)
class MembersKnown:
    """The other members: (16-byte node id, milliseconds since the mesh last heard of the node, None for never)."""

    members: tuple[tuple[bytes, int | None], ...]


@dataclass(frozen=True, slots=True)
class RightsKnown:
    """The members with limited rights: (16-byte node id, ((table pattern, rights), ...)). `own` is this node's id.

    Rights contain `r` and `w`. The first pattern that matches decides; a table that matches no pattern has no rights.
    `certificates` are those of members that are new since the last event, as the root has signed them. `purges` are revoked
    nodes, and since which Unix millisecond their writes are dropped everywhere.
    """

    own: bytes
    grants: tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]
    certificates: tuple[bytes, ...] = ()
    purges: tuple[tuple[bytes, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TimeKnown:
    """The correction of this node's clock, from the clocks of the members.

    offset_ms: milliseconds to add to the wall clock.
    confirmed: whether at least two clocks agree on the time.
    apart_ms: wall time minus monotonic time at the comparison. If the difference has changed, the correction is obsolete.
    """

    offset_ms: int
    confirmed: bool
    apart_ms: int


Event = (
    CompareRequested
    | CoverageRequested
    | MembersKnown
    | RightsKnown
    | TimeKnown
    | ScrubRequested
    | LinkOpened
    | LinkClosed
    | LinkWritable
    | MessageReceived
    | BatchReceived
    | BatchesReceived
    | CommitSeen
    | TimerFired
)


@dataclass(frozen=True, slots=True)
class Publish:
    """Spread one committed local batch to the whole mesh. Priority 0 is the most urgent of 0..3."""

    payload: bytes
    priority: int = 1


@dataclass(frozen=True, slots=True)
class Send:
    """Send one anti-entropy message on one link; a peer of an older version ignores an `optional` one.

    A `deferrable` one may leave with the next message of the link, on an idle one with the next heartbeat.
    """

    link: int
    payload: bytes
    priority: int = 2
    optional: bool = False
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class InterestsStated:
    """Which areas of tables this node keeps, and other members by the first 8 bytes of their node ids.

    Without a table that is cut, `own` has no value. Tables that an interest does not name are kept whole. `held` are areas,
    (table, area), of which this node has rows that it does not keep, and hands on to `copies` members that do.
    """

    own: Mapping[str, frozenset[str]] | None
    members: Mapping[bytes, Mapping[str, frozenset[str]]]
    held: tuple[tuple[str, str], ...] = ()
    copies: int = 2


@dataclass(frozen=True, slots=True)
class DropLink:
    """Close this link, because the peer broke the protocol; `reason` is one line for the log."""

    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A report to the operator: `event` is a stable dotted name, `detail` has values that JSON can encode."""

    event: str
    text: str
    detail: dict[str, Any] = field(default_factory=dict)
    level: str = "info"


Action = Publish | Send | InterestsStated | DropLink | Notice
