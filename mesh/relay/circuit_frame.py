"""Circuit frames: bytes of a connection between two members that travels through relays.

Owns the layout of one frame and the addresses by which a core knows such a connection. What always holds: a frame that
decodes encodes to the same bytes; a route names each node once, two ends and at least one relay between them, and the
lower node id stands first: it is the one who opens. Must not know: links, who is a relay, what the bytes mean (they are
the two ends' own Noise session, sealed against every relay).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.primitives import ID_BYTES

__all__ = ["RELAYS_MAX", "CircuitFrame", "FrameKind"]

RELAYS_MAX = 4  # between two members: what a chain of masts needs; each hop costs its link the whole traffic
NUMBER_MAX = 0xFFFF_FFFF  # of the circuits that one node opens in its life
DATA_BYTES_MAX = 1 << 17  # two sealed frames of a session; senders hand over one at a time

_VERSION = 1
_HEAD_BYTES = 8  # version, kind, nodes of the route, place in it, number
_AT = 3


class FrameKind(IntEnum):
    """What a frame means to the end that it reaches."""

    OPEN = 1  # by the lower node id alone
    DATA = 2
    CLOSE = 3


@dataclass(frozen=True, slots=True)
class CircuitFrame:
    """One frame on its way along `route` (node ids, sender first); `at` is the place of the node that it comes to next.

    `number` was chosen by the lower node id: frames of an older circuit of the same two ends mean nothing.
    """

    kind: FrameKind
    number: int
    route: tuple[bytes, ...]
    at: int
    data: bytes = b""

    def encode(self) -> bytes:
        """Version, kind, length of the route, place, number (4 bytes, big-endian), route, data."""
        head = bytes((_VERSION, self.kind, len(self.route), self.at)) + self.number.to_bytes(4, "big")
        return b"".join((head, *self.route, self.data))

    @classmethod
    def decode(cls, raw: bytes) -> CircuitFrame:
        """The frame in `raw`; DecodeError for anything that `encode` would not write."""
        if len(raw) < _HEAD_BYTES or raw[0] != _VERSION:
            raise DecodeError("circuit frame is too short, or of another version")
        count, at, end = raw[2], raw[_AT], _HEAD_BYTES + ID_BYTES * raw[2]
        if raw[1] not in _KINDS:
            raise DecodeError(f"circuit frame is of unknown kind {raw[1]}")
        if not 3 <= count <= RELAYS_MAX + 2 or not 0 < at < count or len(raw) < end:
            raise DecodeError(f"circuit frame has a route of {count} nodes, at place {at}")
        route = tuple(raw[start : start + ID_BYTES] for start in range(_HEAD_BYTES, end, ID_BYTES))
        if len(frozenset(route)) != count:
            raise DecodeError("circuit frame has a route that passes a node twice")
        kind = FrameKind(raw[1])
        if len(raw) - end > (DATA_BYTES_MAX if kind is FrameKind.DATA else 0):
            raise DecodeError(f"circuit frame carries {len(raw) - end} bytes")
        if kind is FrameKind.OPEN and route[0] > route[-1]:
            raise DecodeError("circuit is opened by the higher node id")
        return cls(kind, int.from_bytes(raw[4:_HEAD_BYTES], "big"), route, at, raw[end:])

    def onward(self) -> CircuitFrame:
        """The same for the next node of the route."""
        return replace(self, at=self.at + 1)

    def refusal(self) -> CircuitFrame:
        """What whoever this frame has come to answers its sender when it leads nowhere."""
        back = self.route[::-1]
        return CircuitFrame(FrameKind.CLOSE, self.number, back, len(back) - self.at)


_KINDS = frozenset(FrameKind)
