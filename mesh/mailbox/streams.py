"""Writing the streams of a mailbox, and reading one envelope of them, without I/O.

A gateway has two streams: one of parcels, each with everything that it has, and one of the changes since. The messages in both
are those of a round, signed by the gateway. Each signature names the envelope, the message's number in it and how many there
are, so that nobody who can open an envelope can leave messages out, or seal them again in another order.

Each envelope names, inside its seal, the position of the one before. A reader finds out by that what the storage keeps back.

docs/PROTOCOL.md, "Parcels" and "Live streams", is the specification.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.mailbox.envelope import BATCHES_MAX, POSITION_MAX, Contents, EnvelopeKeys, open_envelope, seal
from mycomesh.mesh.membership.identity import verify
from mycomesh.mesh.messages import Batch, signed_part

if TYPE_CHECKING:
    from mycomesh.mesh.mailbox.mailbox import Listed
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.identity import Identity

__all__ = ["GATHER_BYTES", "POSITION_SHIFT", "Kind", "Opened", "StreamWriter", "open_signed"]

GATHER_BYTES = 512 * 1024  # of messages in one envelope; a larger one travels alone. NATS takes messages of up to 1 MiB
POSITION_SHIFT = (
    8  # a position is a Unix millisecond and 8 bits, so that a writer without memory does not use one twice
)

_PLACE = struct.Struct(">QQHH")  # position, position before it, number of the message, how many there are


class Kind(Enum):
    """The kind of an envelope: the domain of its signatures, and the priority in its frames."""

    PARCEL = (b"parcel", 2)
    LIVE = (b"live", 2)
    STATEMENT = (b"statement", 3)

    @property
    def domain(self) -> bytes:
        """The domain of the signatures, so that no message passes for one of another kind."""
        return self.value[0]

    @property
    def priority(self) -> int:
        """The priority in the frames."""
        return self.value[1]

    def stream(self, keys: EnvelopeKeys, node_id: bytes) -> bytes:
        """Return the stream of a member that takes such envelopes."""
        return keys.stream_of(node_id) if self is Kind.PARCEL else keys.live_stream_of(node_id)


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope whose messages its author has signed for this place."""

    author: Certificate
    kind: Kind
    position: int
    previous: int
    payloads: tuple[bytes, ...]


class StreamWriter:
    """Gathers messages of one kind into envelopes. `previous` is the position that the next one names, 0 for none."""

    def __init__(self, identity: Identity, kind: Kind, previous: int) -> None:
        self.previous = previous
        self._identity = identity
        self._kind = kind
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._sealed = 0  # messages at the head of the queue that the envelope under way holds

    @property
    def queued(self) -> int:
        """Messages that wait."""
        return len(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Their bytes."""
        return self._queue_bytes

    @property
    def is_full(self) -> bool:
        """True if a whole envelope waits."""
        return self._queue_bytes > GATHER_BYTES or len(self._queue) >= BATCHES_MAX

    def put(self, payload: bytes) -> None:
        """Queue a message. The caller takes an envelope when the queue is full."""
        self._queue.append(payload)
        self._queue_bytes += len(payload)

    def next_envelope(self, keys: EnvelopeKeys, floor: int) -> tuple[int, bytes] | None:
        """Return position and bytes of the next envelope, at `floor` or beyond; None if nothing waits.

        Call `on_appended` once it is stored. Without that, the next call returns the same messages again.
        """
        if not self._queue:
            return None
        payloads = self._taken()
        self._sealed = len(payloads)
        position = min(max(self.previous + 1, floor), POSITION_MAX)
        batches = tuple(
            self._signed(position, number, len(payloads), payload) for number, payload in enumerate(payloads)
        )
        contents = Contents(self.previous, (self._identity.certificate.raw,), batches)
        return position, seal(keys, self._kind.stream(keys, self._identity.node_id), position, contents)

    def on_appended(self, position: int) -> None:
        """Record that the last envelope is stored at this position."""
        self._queue_bytes -= sum(map(len, self._queue[: self._sealed]))
        del self._queue[: self._sealed]
        self._sealed = 0
        self.previous = position

    def _signed(self, position: int, number: int, count: int, payload: bytes) -> Batch:
        kind, identity = self._kind, self._identity
        place = _PLACE.pack(position, self.previous, number, count)
        signature = identity.sign(kind.domain, place + signed_part(kind.priority, payload, direct=False))
        return Batch(identity.node_id, kind.priority, False, signature, payload)

    def _taken(self) -> list[bytes]:
        """Return the messages at the head of the queue that fit one envelope, at least one."""
        taken: list[bytes] = []
        size = 0
        for payload in self._queue[:BATCHES_MAX]:
            size += len(payload)
            if taken and size > GATHER_BYTES:
                break
            taken.append(payload)
        return taken


def open_signed(
    keys: EnvelopeKeys, certificate_of: Callable[[bytes], Certificate], listed: Listed, data: bytes
) -> Opened:
    """Return what an envelope holds, once its place, its author and every signature have been checked.

    `certificate_of` verifies a raw certificate; its errors pass.

    Raises:
        DecodeError: no member has signed this for this place.
    """
    contents = open_envelope(keys, listed.stream, listed.position, data)
    if not contents.certificates:
        raise DecodeError("an envelope has no certificate")
    author = certificate_of(contents.certificates[0])
    kind = _kind(keys, author.node_id, listed.stream, contents.batches[0].priority)
    count = len(contents.batches)
    for number, batch in enumerate(contents.batches):
        place = _PLACE.pack(listed.position, contents.previous, number, count)
        if batch.origin != author.node_id or not verify(
            author.node_key, kind.domain, place + batch.signed, batch.signature
        ):
            raise DecodeError(f"a message in an envelope is not signed by {author.name} for its place")
    payloads = tuple(batch.payload for batch in contents.batches)
    return Opened(author, kind, listed.position, contents.previous, payloads)


def _kind(keys: EnvelopeKeys, node_id: bytes, stream: bytes, priority: int) -> Kind:
    for kind in Kind:
        if kind.stream(keys, node_id) == stream and kind.priority == priority:
            return kind
    raise DecodeError("an envelope lies in the stream of another member")
