"""Events that go into an `Exchange` and actions that come out of it: the whole border of `sync`.

Owns only plain values. Every payload that crosses to the network is opaque bytes; a `link` is a small integer that
names one live, authenticated connection and is never used again after `LinkClosed`.
"""

from __future__ import annotations

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
    """A peer is authenticated; `peer` is its 16-byte node id."""

    link: int
    peer: bytes


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The link is gone; nothing may be sent on it again."""

    link: int


@dataclass(frozen=True, slots=True)
class LinkWritable:
    """The link's transport queue fell below its low-water mark: there is room for one more stream chunk."""

    link: int


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """An anti-entropy message of the peer on this link."""

    link: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class BatchReceived:
    """A live batch, spread by the mesh and signed by `origin` (16-byte node id); `link` is where it came from."""

    link: int
    origin: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class BatchesReceived:
    """Live batches that came one after another and have waited together: one transaction takes them in."""

    batches: tuple[BatchReceived, ...]


@dataclass(frozen=True, slots=True)
class CommitSeen:
    """Some connection may have committed to the local file: drain what its triggers logged.

    `writing`: a program is at it just now, and if it changes the schema, that can wait until it is done.
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
    """Compare with every linked peer at once, and have each answer: somebody wants to know whether all are equal."""


@dataclass(frozen=True, slots=True)
class CoverageRequested:
    """Ask every linked peer how much of what was written here it holds: somebody waits for copies of a write."""


@dataclass(frozen=True, slots=True)
class MembersKnown:
    """Who the other members are: (16-byte node id, milliseconds since something was heard of it, None for never)."""

    members: tuple[tuple[bytes, int | None], ...]


@dataclass(frozen=True, slots=True)
class RightsKnown:
    """Who may not do everything, `own` being this node: (16-byte node id, ((table pattern, rights), ...)).

    Rights hold `r` and `w`; the first pattern that matches decides, none means no right.
    """

    own: bytes
    grants: tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]


@dataclass(frozen=True, slots=True)
class TimeKnown:
    """What the clocks of the members say: this node's is to be corrected by so much; whether two at least agree on it.

    It was so while the wall clock showed `apart_ms` more than the monotonic one.
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
    """Spread one committed local batch to the whole mesh. `priority` 0 is the most urgent of 0..3."""

    payload: bytes
    priority: int = 1


@dataclass(frozen=True, slots=True)
class Send:
    """Send one anti-entropy message on one link."""

    link: int
    payload: bytes
    priority: int = 2


@dataclass(frozen=True, slots=True)
class DropLink:
    """The peer broke the protocol: close this link; `reason` is one line for the log."""

    link: int
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person may want to know: `event` is a stable dotted name, `detail` JSON-able values."""

    event: str
    text: str
    detail: dict[str, Any] = field(default_factory=dict)
    level: str = "info"


Action = Publish | Send | DropLink | Notice
