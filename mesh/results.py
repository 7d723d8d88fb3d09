"""What the parts of a mesh core answer to it: things to say, links to end, news for the shell.

Owns only plain values. Must not know who makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.mesh.events import DeliverBatch, MembershipChanged, Notice
from mycomesh.mesh.messages import Message

__all__ = ["Drop", "Result", "Send"]


@dataclass(frozen=True, slots=True)
class Send:
    """GossipSend this message on that link."""

    link: int
    message: Message
    priority: int


@dataclass(frozen=True, slots=True)
class Drop:
    """End that link: its member is one no more."""

    link: int
    reason: str


Result = Send | Drop | DeliverBatch | MembershipChanged | Notice
