"""One call of `Exchange.handle`: both times, what is to be done, and whether the tables moved.

Owns the list of actions of one event. What always holds: actions stand in the order in which they must be done. It must not
know what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync.events import Action, DropLink, Notice, Publish, Send
from mycomesh.sync.replication.priority import UrgentBatch
from mycomesh.sync.wire import messages as wire

__all__ = ["Turn", "publish_actions"]

URGENT, FRESH = 0, 1  # priorities of live batches; rounds have `Send`'s, behind both


def publish_actions(batches: list[bytes]) -> list[Action]:
    """Return what publishes committed local batches."""
    return [Publish(batch, URGENT if isinstance(batch, UrgentBatch) else FRESH) for batch in batches]


@dataclass(slots=True)
class Turn:
    """Times in milliseconds: `now_ms` is monotonic, `wall_ms` Unix time."""

    now_ms: int
    wall_ms: int
    actions: list[Action] = field(default_factory=list)
    changed: bool = False  # something was stamped or merged: compare with peers once it has settled
    covered_more: bool = False  # a round has covered something: tell every peer at once

    def send(self, link: int, message: wire.Message) -> int:
        """One message of anti-entropy on one link; returns its size in bytes."""
        payload = wire.encode(message)
        self.actions.append(Send(link, payload))
        return len(payload)

    def publish(self, batches: list[bytes]) -> None:
        """Committed local batches for the whole mesh."""
        self.actions.extend(publish_actions(batches))
        self.changed = self.changed or bool(batches)

    def notify(self, event: str, text: str, detail: dict[str, Any] | None = None, level: str = "info") -> None:
        """Something a person may want to know."""
        self.actions.append(Notice(event, text, detail or {}, level))

    def drop(self, link: int, reason: str) -> None:
        """The peer broke the protocol."""
        self.actions.append(DropLink(link, reason))
