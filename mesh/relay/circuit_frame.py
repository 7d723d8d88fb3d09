"""Circuit frames: the wire format of a connection between two members that passes through relays.

The bytes in a frame belong to the Noise session between the two ends, so no relay can read or change them.

Invariants: a frame that decodes encodes to the same bytes. A route names each node once: two ends, and at least one relay
between them. Only the end with the lower node id opens a circuit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.primitives import ID_BYTES

__all__ = ["RELAYS_MAX", "CircuitFrame", "FrameKind"]

RELAYS_MAX = 4  # between two members: enough for a chain of masts; each hop's link carries the whole traffic
NUMBER_MAX = 0xFFFF_FFFF  # of the circuits that one process opens
DATA_BYTES_MAX = 1 << 17  # two sealed frames of a session; senders pass on one at a time

_VERSION = 1
_HEAD_BYTES = 8  # version, kind, length of the route, position in it, number (4 bytes)
_AT = 3


class FrameKind(IntEnum):
    """The kind of a frame, for the end that receives it."""

    OPEN = 1  # only the lower node id sends it
    DATA = 2
    CLOSE = 3
    ASK = 4  # the higher node id asks the lower one to open a circuit; members that know topics send it, and no relay needs to


@dataclass(frozen=True, slots=True)
class CircuitFrame:
    """One frame on its way along `route` (node ids, sender first); `at` is the index of the next node in the route.

    The lower node id has chosen `number`, so that frames of an older circuit between the same ends can be ignored.
    """

    kind: FrameKind
    number: int
    route: tuple[bytes, ...]
    at: int
    data: bytes = b""

    def encode(self) -> bytes:
        """Return version, kind, length of the route, position, number (4 bytes, big-endian), route and data."""
        head = bytes((_VERSION, self.kind, len(self.route), self.at)) + self.number.to_bytes(4, "big")
        return b"".join((head, *self.route, self.data))

    @classmethod
    def decode(cls, raw: bytes) -> CircuitFrame:
        """Return the frame in `raw`; DecodeError for anything that `encode` would not write."""
        if len(raw) < _HEAD_BYTES or raw[0] != _VERSION:
            raise DecodeError("circuit frame is too short, or has an unknown version")
        count, at, end = raw[2], raw[_AT], _HEAD_BYTES + ID_BYTES * raw[2]
        if raw[1] not in _KINDS:
            raise DecodeError(f"circuit frame has unknown kind {raw[1]}")
        if not 3 <= count <= RELAYS_MAX + 2 or not 0 < at < count or len(raw) < end:
            raise DecodeError(f"circuit frame has a bad route: {count} nodes, position {at}, {len(raw)} bytes in all")
        route = tuple(raw[start : start + ID_BYTES] for start in range(_HEAD_BYTES, end, ID_BYTES))
        if len(frozenset(route)) != count:
            raise DecodeError("circuit frame has a route that passes a node twice")
        kind = FrameKind(raw[1])
        if len(raw) - end > (DATA_BYTES_MAX if kind is FrameKind.DATA else 0):
            raise DecodeError(f"circuit frame of kind {kind.name} carries {len(raw) - end} bytes, which is too many")
        if kind is FrameKind.OPEN and route[0] > route[-1]:
            raise DecodeError("the higher node id opens a circuit, but only the lower one may")
        return cls(kind, int.from_bytes(raw[4:_HEAD_BYTES], "big"), route, at, raw[end:])

    def onward(self) -> CircuitFrame:
        """Return the same frame for the next node of the route."""
        return replace(self, at=self.at + 1)

    def refusal(self) -> CircuitFrame:
        """Return the CLOSE frame with which the node at `at` tells the sender that the circuit leads nowhere."""
        back = self.route[::-1]
        return CircuitFrame(FrameKind.CLOSE, self.number, back, len(back) - self.at)


_KINDS = frozenset(FrameKind)
