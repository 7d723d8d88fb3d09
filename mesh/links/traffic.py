"""Traffic of a node by kind of message, since it started: what its links carry, and what circuits carry inside of them.

A message counts with its size before encryption. Handshakes, frames and credits are the rest of what a connection carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.messages import CIRCUIT_FRAME, App

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mycomesh.mesh.messages import Message

__all__ = ["KindTraffic", "Traffic"]

UNKNOWN = "unknown"  # messages of later versions
REST = "rest"  # bytes of connections that are no message


@dataclass(slots=True)
class KindTraffic:
    """Messages of one kind, and their bytes."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0


class Traffic:
    """The traffic of a set of connections. The kinds are those that the mesh and the application name, so they are few."""

    __slots__ = ("_kind_of", "_kinds", "_wire")

    def __init__(self, kind_of: Callable[[bytes], str]) -> None:
        """Take a function that returns the kind of a payload of the application."""
        self._kind_of = kind_of
        self._kinds: dict[str, KindTraffic] = {}
        self._wire = KindTraffic()

    def record_sent(self, message: Message, size: int) -> None:
        """Count a message that was queued."""
        kind = self._of(message)
        kind.sent += 1
        kind.sent_bytes += size

    def record_received(self, message: Message | None, size: int) -> None:
        """Count a message that arrived; None is one of an unknown kind."""
        kind = self._of(message)
        kind.received += 1
        kind.received_bytes += size

    def record_written(self, size: int) -> None:
        """Count bytes that were written to a connection."""
        self._wire.sent_bytes += size

    def record_read(self, size: int) -> None:
        """Count bytes that were read from a connection."""
        self._wire.received_bytes += size

    def _of(self, message: Message | None) -> KindTraffic:
        if isinstance(message, App):
            name = "circuit" if message.payload[:1] == CIRCUIT_FRAME else self._kind_of(message.payload)
        else:
            name = UNKNOWN if message is None else type(message).__name__
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = KindTraffic()
        return kind

    def kinds(self) -> Iterator[tuple[str, KindTraffic]]:
        """Yield the traffic of each kind by name, the rest last."""
        yield from sorted(self._kinds.items())
        sent = sum(kind.sent_bytes for kind in self._kinds.values())
        received = sum(kind.received_bytes for kind in self._kinds.values())
        # A queued message counts as sent before it is written.
        yield (
            REST,
            KindTraffic(0, max(0, self._wire.sent_bytes - sent), 0, max(0, self._wire.received_bytes - received)),
        )
