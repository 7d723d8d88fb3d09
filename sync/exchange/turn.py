"""One call of `Exchange.handle`: its times, and the actions that it collects in the order in which they must be performed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync.events import Action, DropLink, Notice, Publish, Send
from mycomesh.sync.replication.priority import PacedBatch, UrgentBatch
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.parts import cut

__all__ = ["Turn", "publish_actions"]

# Priorities: of live batches; the last is that of most messages of rounds too, and of batches that metered links leave to them.
URGENT, FRESH, ROUND = 0, 1, 2


def publish_actions(batches: list[bytes]) -> list[Action]:
    """Return the actions that publish committed local batches."""
    return [Publish(batch, _priority(batch)) for batch in batches]


def _priority(batch: bytes) -> int:
    return URGENT if isinstance(batch, UrgentBatch) else ROUND if isinstance(batch, PacedBatch) else FRESH


@dataclass(slots=True)
class Turn:
    """The state of one call. Times are in milliseconds: `now_ms` is monotonic, `wall_ms` is Unix time."""

    now_ms: int
    wall_ms: int
    actions: list[Action] = field(default_factory=list)
    changed: bool = False  # a change was stamped or merged: compare with the peers once changes have settled
    covered_more: bool = False  # a round has extended a vector: send digests to every peer at once

    def send(self, link: int, message: wire.Message, *, urgent: bool = False, deferrable: bool = False) -> int:
        """Send one message on one link, in parts if it is long; return its size in bytes.

        An `urgent` one may overtake others that were sent before it, and waits for no budget. A `deferrable` one may leave with
        the next message of the link, on an idle one with the next heartbeat.
        """
        size = 0
        for piece in cut(message):
            payload = wire.encode(piece)
            priority = URGENT if urgent else ROUND
            self.actions.append(Send(link, payload, priority, isinstance(piece, wire.Part), deferrable))
            size += len(payload)
        return size

    def publish(self, batches: list[bytes]) -> None:
        """Publish committed local batches to the whole mesh."""
        self.actions.extend(publish_actions(batches))
        self.changed = self.changed or bool(batches)

    def notify(self, event: str, text: str, detail: dict[str, Any] | None = None, level: str = "info") -> None:
        """Report an event to the operator."""
        self.actions.append(Notice(event, text, detail or {}, level))

    def drop(self, link: int, reason: str) -> None:
        """Close the link to a peer that broke the protocol."""
        self.actions.append(DropLink(link, reason))
