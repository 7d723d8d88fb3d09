"""Record layer of a link: priorities, fragmentation and interleaving of messages, frames, and flow control.

`RecordWriter` is the send queue of one link; `RecordReader` reassembles received messages. A sealed frame holds records:
head (1 byte), length (2 bytes, big-endian), body.

    head    body
    0..3    a piece of the message of that priority; more follows
    4..7    the last piece of the message of priority head - 4
    8       credit: 4 bytes, how many more bytes the receiver has read
    9       end of the link: a reason
    10      key refresh: a public key; or nothing, if the sender uses the new keys from its next frame on

A frame can be decrypted only when its last byte has arrived, so the size of a frame delays every message in it. Urgent
messages leave in small frames, and a slow link gets smaller frames than a fast one.

Invariants: messages of one priority arrive whole and in order. A more urgent message overtakes everything that is not yet
packed, so an alert never waits behind a blob. The unacknowledged bytes stay below a window that follows the link's speed,
so that little waits in the kernel's queues; urgent messages may exceed it by URGENT_BYTES.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mycomesh.mesh.errors import DecodeError, LimitError
from mycomesh.mesh.messages import APP_BYTES_MAX, PRIORITY_MAX
from mycomesh.mesh.primitives import KEY_BYTES
from mycomesh.mesh.session.noise import PLAINTEXT_BYTES_MAX

__all__ = ["MESSAGE_BYTES_MAX", "End", "RecordReader", "RecordWriter", "Whole", "end_record"]

MESSAGE_BYTES_MAX = APP_BYTES_MAX + 256  # the largest payload and the head of its message
STARTED_BYTES_MAX = 2 * MESSAGE_BYTES_MAX  # of messages sent in part; a sender starts no further one above it
# A receiver keeps at most this much of half-received messages. A message that fits into one frame always starts at once.
PARTIAL_BYTES_MAX = STARTED_BYTES_MAX + (1 << 20)
WINDOW_START = 128 << 10  # unacknowledged bytes at first: 20 ms of a 50 Mbit/s radio
WINDOW_MIN = 32 << 10  # two credits: on a slower link, waiting for smaller credits would lose more than it gains
WINDOW_MAX = 2 << 20  # 10 Gbit/s at 1.6 ms: more only fills buffers
WINDOW_MS = 250  # how much may wait in queues below us: an alert waits no longer behind bulk on a slow radio
FRAMES_A_WINDOW = (
    4  # a frame can be opened when its last byte arrives: slow links get small frames, fast ones full ones
)
FRAME_BYTES_MIN = 8 << 10  # 64 ms at the speed to which the smallest window corresponds; below, heads cost too much
# One Ethernet packet's capacity after IPv6, TCP with its time stamps, and the frame's length and tag: 1,500 - 72 - 18.
# Urgent messages leave in a frame of their own; other messages fill it up only as far as that costs no further packet.
PACKET_BYTES = 1_410
URGENT_BYTES = 32 << 10  # messages of priority 0 may exceed the window by this: an alert does not wait for credit
# A receiver that withholds credit for its budget reads so much without, twice what any sender may send.
UNCREDITED_BYTES_MAX = 2 * (WINDOW_MAX + URGENT_BYTES)
CREDIT_EVERY = 16 << 10  # a receiver gives credit after reading this many bytes: half of the smallest window
REASON_BYTES_MAX = 64  # of the reason in a closing record: one line of a log

_HEAD_BYTES = 3
_LAST = 4  # flag of a message's last piece, above the two bits of its priority
_CREDIT = 8
_END = 9
_REFRESH = 10
_STREAMS = PRIORITY_MAX + 1


@dataclass(frozen=True, slots=True)
class Whole:
    """A message that has arrived in full. `pieces` are its bytes; the caller knows the layout and joins them once."""

    pieces: tuple[bytes | memoryview, ...] = field(repr=False)
    priority: int

    @property
    def payload(self) -> bytes:
        """The whole message as one value."""
        return b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Refresh:
    """The peer's share of new keys; empty if the peer uses them from its next frame on."""

    public: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The peer closes the link on purpose."""

    reason: str


class RecordWriter:
    """The send queue of one link, one queue a priority."""

    __slots__ = (
        "_credit_ms",
        "_credited",
        "_offsets",
        "_queues",
        "_records",
        "queued",
        "unacknowledged",
        "urgent",
        "window",
    )

    def __init__(self) -> None:
        # (head, payload) of each message: a large payload is never copied to join it to its head
        self._queues: tuple[deque[tuple[bytes, bytes]], ...] = tuple(deque() for _ in range(_STREAMS))
        self._offsets = [0] * _STREAMS  # how many bytes of each queue's first message are packed
        self._records: list[bytes] = []  # credits, which no window limits
        self._credit_ms = 0
        self._credited = 0  # bytes acknowledged since _credit_ms
        self.queued = 0  # bytes of messages not yet packed
        self.urgent = 0  # the part of `queued` that has priority 0
        self.unacknowledged = 0
        self.window = WINDOW_START

    def push(self, payload: bytes, priority: int, head: bytes = b"") -> None:
        """Queue the message `head + payload`; LimitError above MESSAGE_BYTES_MAX.

        The caller limits the queue as a whole.
        """
        assert 0 <= priority <= PRIORITY_MAX, f"priority {priority}"
        size = len(head) + len(payload)
        if size > MESSAGE_BYTES_MAX:
            raise LimitError(f"message has {size} bytes, a link carries at most {MESSAGE_BYTES_MAX}: split it")
        self._queues[priority].append((head, payload))
        self.queued += size
        self.urgent += 0 if priority else size

    def queued_messages(self, priority: int) -> int:
        """Return how many messages of this priority are not packed in full."""
        return len(self._queues[priority])

    def push_credit(self, count: int) -> None:
        """Queue a credit: this side has read `count` more bytes of the peer's messages."""
        self._records.append(_record(_CREDIT, count.to_bytes(4, "big")))

    def acknowledge(self, count: int, now_ms: int) -> None:
        """Record that the peer has read `count` bytes, and adapt the window to the speed at which they arrived."""
        if count > self.unacknowledged:
            raise DecodeError(f"peer acknowledges {count} bytes of {self.unacknowledged} sent")
        full = self.unacknowledged * 2 > self.window
        self.unacknowledged -= count
        self._credited += count
        elapsed = now_ms - self._credit_ms
        if elapsed * 4 < WINDOW_MS:
            return
        if full or self.queued:  # only a busy link shows its speed
            aim = self._credited * WINDOW_MS // elapsed
            # A long gap between two samples is idle time and not slowness, so the window at most halves, or doubles.
            self.window = max(WINDOW_MIN, self.window // 2, min(WINDOW_MAX, self.window * 2, aim))
        self._credit_ms = now_ms
        self._credited = 0

    def pack(self, bulk_max: int | None = None) -> bytes:
        """Return the records of the next frame, most urgent first; empty when nothing may be sent.

        At most `bulk_max` bytes of it are messages of another priority than 0; None for any number.
        """
        if not (self._records or any(self._queues)):
            return b""
        parts: list[bytes | memoryview] = [*self._records]
        self._records = []
        frame = max(FRAME_BYTES_MIN, min(PLAINTEXT_BYTES_MAX, self.window // FRAMES_A_WINDOW))
        room = before = frame - sum(len(part) for part in parts)
        for stream, queue in enumerate(self._queues):
            if queue:
                room = self._pack_stream(stream, room, parts)
            if stream == 0 and room < before:
                # A frame with urgent messages ends at a packet: other messages fill it up, but never delay it.
                room = max(0, min(room, PACKET_BYTES - (frame - room)))
            if stream == 0 and bulk_max is not None:
                room = min(room, bulk_max)
        return b"".join(parts)

    def _pack_stream(self, stream: int, room: int, parts: list[bytes | memoryview]) -> int:
        queue = self._queues[stream]
        overdraft = 0 if stream else URGENT_BYTES
        while queue and room > _HEAD_BYTES:
            head, payload = queue[0]
            size = len(head) + len(payload)
            offset = self._offsets[stream]
            rest = size - offset
            if offset == 0 and not self._may_start(rest, room):
                break
            take = min(rest, room - _HEAD_BYTES, self.window + overdraft - self.unacknowledged)
            if take < min(rest, CREDIT_EVERY, room - _HEAD_BYTES):
                break  # do not send tiny pieces: the next credit brings at least CREDIT_EVERY
            last = take == rest
            parts.append(bytes((stream | _LAST if last else stream, take >> 8, take & 0xFF)))
            if take == size:
                parts += (head, payload)
            else:
                at = offset - len(head)
                parts.append(head[offset : offset + take])
                parts.append(memoryview(payload)[max(at, 0) : max(at + take, 0)])
            room -= take + _HEAD_BYTES
            self.queued -= take
            self.urgent -= 0 if stream else take
            self.unacknowledged += take
            if last:
                queue.popleft()
                self._offsets[stream] = 0
            else:
                self._offsets[stream] = offset + take
        return room

    def _may_start(self, size: int, room: int) -> bool:
        """Return whether the peer has room for one more half-received message of this size."""
        if size + _HEAD_BYTES <= room:
            return True
        started = sum(
            sum(map(len, queue[0])) for queue, offset in zip(self._queues, self._offsets, strict=True) if offset
        )
        return started + size <= STARTED_BYTES_MAX


class RecordReader:
    """Reassembles received messages, and keeps the pieces of those that are not complete."""

    __slots__ = ("_partial_bytes", "_pieces", "_sizes", "uncredited", "urgent")

    def __init__(self) -> None:
        self._pieces: tuple[list[bytes | memoryview], ...] = tuple([] for _ in range(_STREAMS))
        self._sizes = [0] * _STREAMS
        self._partial_bytes = 0
        self.uncredited = 0  # bytes read for which no credit was given
        self.urgent = 0  # the part of them that has priority 0

    def take(self, frame: bytes) -> list[Whole | int | Refresh | End]:
        """Return the messages that this frame completes, its credits (as int), key refreshes and the end, in order.

        Raises:
            DecodeError: a record is cut short or unknown, or the pieces exceed a limit.
        """
        found: list[Whole | int | Refresh | End] = []
        at = 0
        size = len(frame)
        while at < size:
            body_at = at + _HEAD_BYTES
            if body_at > size:
                raise DecodeError("frame ends inside a record's head")
            head = frame[at]
            at = body_at + (frame[at + 1] << 8 | frame[at + 2])
            if at > size:
                raise DecodeError("frame ends inside a record")
            if head < 2 * _STREAMS:
                # A view keeps the whole frame in memory. That is cheaper than a copy for a piece that is most of its
                # frame; a small piece is copied, because it would keep much more memory than its own size.
                most = 2 * (at - body_at) > size
                self._take_piece(head, memoryview(frame)[body_at:at] if most else frame[body_at:at], found)
                continue
            body = frame[body_at:at]
            if head == _CREDIT and len(body) == 4:
                found.append(int.from_bytes(body, "big"))
            elif head == _REFRESH and len(body) in {0, KEY_BYTES}:
                found.append(Refresh(body))
            elif head == _END and len(body) <= REASON_BYTES_MAX:
                found.append(End(_printable(body)))
            else:
                raise DecodeError(f"unknown record {head} of {len(body)} bytes")
        return found

    def _take_piece(self, head: int, body: bytes | memoryview, found: list[Whole | int | Refresh | End]) -> None:
        stream = head & PRIORITY_MAX
        self.uncredited += len(body)
        self.urgent += 0 if stream else len(body)
        pieces = self._pieces[stream]
        if head & _LAST and not pieces:
            found.append(Whole((body,), stream))
            return
        if not body and not head & _LAST:
            raise DecodeError("empty piece of a message")
        pieces.append(body)
        self._sizes[stream] += len(body)
        self._partial_bytes += len(body)
        if self._sizes[stream] > MESSAGE_BYTES_MAX or self._partial_bytes > PARTIAL_BYTES_MAX:
            raise DecodeError(f"message exceeds {MESSAGE_BYTES_MAX} bytes")
        if head & _LAST:
            found.append(Whole(tuple(pieces), stream))
            self._partial_bytes -= self._sizes[stream]
            self._sizes[stream] = 0
            pieces.clear()


def refresh_record(public: bytes) -> bytes:
    """Return the record that carries this side's share of new keys.

    An empty `public` says that this side uses the new keys from its next frame on.
    """
    return bytes((_REFRESH, 0, len(public))) + public


def end_record(reason: str) -> bytes:
    """Return the record that ends the link and gives the reason."""
    return _record(_END, reason.encode("ascii", "replace")[:REASON_BYTES_MAX])


def _record(head: int, body: bytes) -> bytes:
    return bytes((head, len(body) >> 8, len(body) & 0xFF)) + body


def _printable(reason: bytes) -> str:
    """Return a peer's text as printable ASCII, safe for a log."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in reason)
