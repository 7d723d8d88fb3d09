"""Results that the overlay and the membership return to the mesh core: messages to send, links to end, news for the shell."""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.mesh.events import DeliverBatch, MembershipChanged, Notice
from mycomesh.mesh.messages import Message

__all__ = ["Drop", "Result", "Send"]


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message on that link. `priority` 0 is the most urgent of 0..3."""

    link: int
    message: Message
    priority: int


@dataclass(frozen=True, slots=True)
class Drop:
    """End that link; `reason` goes to the peer and to the log."""

    link: int
    reason: str


Result = Send | Drop | DeliverBatch | MembershipChanged | Notice
