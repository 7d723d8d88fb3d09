"""Messages of a link cut into records, and put together again: priorities, interleaving, frames, flow control.

Owns the send queue of one link (`RecordWriter`) and the half-received messages (`RecordReader`). A sealed frame holds records
`head (1 byte), length (2, big-endian), body`; head 0..3 is more of the message of that priority, 4..7 its last piece,
8 gives credit (4 bytes), 9 ends the link (a reason), 10 changes
the keys (a public key, or nothing: from the next frame on). What always holds: messages of one priority arrive in order and
whole; a more urgent one overtakes everything that is not yet packed, so an alert never waits behind a blob, nor for the
rest of a frame that could not be opened without it; what is unacknowledged stays below a window that follows the
link's speed, so that little waits in the kernel's queues.
Must not know: encryption, what messages mean.
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
STARTED_BYTES_MAX = 2 * MESSAGE_BYTES_MAX  # messages under way at once: a sender starts no further one above it
PARTIAL_BYTES_MAX = STARTED_BYTES_MAX + (1 << 20)  # what a receiver holds of them; small ones need no leave to start
WINDOW_START = 128 << 10  # bytes unacknowledged at first: 20 ms of a 50 Mbit/s radio
WINDOW_MIN = 32 << 10  # two credits: a slower link idles less than it would gain by waiting for smaller ones
WINDOW_MAX = 2 << 20  # 10 gigabit at 1.6 ms: more only fills buffers
WINDOW_MS = 250  # what may lie in queues below us: an alert waits no longer than this behind bulk on a slow radio
FRAMES_A_WINDOW = 4  # a frame opens when its last byte is there: a slow link gets small ones, a fast one full ones
FRAME_BYTES_MIN = 8 << 10  # 64 ms at the speed that the smallest window stands for; below, heads would cost too much
# What one packet of Ethernet carries besides IPv6, TCP with its time stamps, and this frame's length and tag: 1,500 - 72
# - 18. Urgent messages leave in a frame of their own, filled up with others only as far as that costs no packet.
PACKET_BYTES = 1_410
URGENT_BYTES = 32 << 10  # that messages of priority 0 may go beyond the window: an alert waits for nobody's credit
CREDIT_EVERY = 16 << 10  # bytes after which a receiver tells that it has read them: half of the smallest window
REASON_BYTES_MAX = 64  # of the reason in a closing record: one line of a log

_HEAD_BYTES = 3
_LAST = 4  # flag of a message's last piece, above the two bits of its priority
_CREDIT = 8
_END = 9
_REFRESH = 10
_STREAMS = PRIORITY_MAX + 1


@dataclass(frozen=True, slots=True)
class Whole:
    """A message has arrived in full. `pieces` are its bytes, for whoever knows its layout to join them once."""

    pieces: tuple[bytes | memoryview, ...] = field(repr=False)
    priority: int

    @property
    def payload(self) -> bytes:
        """The message as one."""
        return b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Refresh:
    """The peer's share of new keys; empty: it uses them from its next frame on."""

    public: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The peer closes the link on purpose."""

    reason: str


class RecordWriter:
    """What waits to be sent on one link."""

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
        # (head, payload) of each message: a large payload is never copied to be put behind its head
        self._queues: tuple[deque[tuple[bytes, bytes]], ...] = tuple(deque() for _ in range(_STREAMS))
        self._offsets = [0] * _STREAMS  # how much of each queue's first message is packed
        self._records: list[bytes] = []  # that no window holds back: credits
        self._credit_ms = 0
        self._credited = 0  # bytes acknowledged since _credit_ms
        self.queued = 0  # bytes of messages not yet packed
        self.urgent = 0  # and of these, of priority 0
        self.unacknowledged = 0
        self.window = WINDOW_START

    def push(self, payload: bytes, priority: int, head: bytes = b"") -> None:
        """Queue the message `head + payload`; LimitError above MESSAGE_BYTES_MAX. The whole queue is the caller's."""
        assert 0 <= priority <= PRIORITY_MAX, f"priority {priority}"
        size = len(head) + len(payload)
        if size > MESSAGE_BYTES_MAX:
            raise LimitError(f"message has {size} bytes, a link takes {MESSAGE_BYTES_MAX}: split it")
        self._queues[priority].append((head, payload))
        self.queued += size
        self.urgent += 0 if priority else size

    def waiting(self, priority: int) -> int:
        """How many messages of this priority are not sent in full."""
        return len(self._queues[priority])

    def push_credit(self, count: int) -> None:
        """Tell the peer that so many of its bytes have been read."""
        self._records.append(_record(_CREDIT, count.to_bytes(4, "big")))

    def acknowledge(self, count: int, now_ms: int) -> None:
        """The peer has read so many bytes: the window moves on, and follows the speed at which they went."""
        if count > self.unacknowledged:
            raise DecodeError(f"peer acknowledges {count} bytes of {self.unacknowledged} sent")
        full = self.unacknowledged * 2 > self.window
        self.unacknowledged -= count
        self._credited += count
        elapsed = now_ms - self._credit_ms
        if elapsed * 4 < WINDOW_MS:
            return
        if full or self.queued:  # only a link that is kept busy shows its speed
            aim = self._credited * WINDOW_MS // elapsed
            # A long gap between two samples was idle time, not slowness: halve at most, double at most.
            self.window = max(WINDOW_MIN, self.window // 2, min(WINDOW_MAX, self.window * 2, aim))
        self._credit_ms = now_ms
        self._credited = 0

    def pack(self) -> bytes:
        """The records of the next frame, most urgent first; empty when nothing may be sent."""
        if not (self._records or any(self._queues)):
            return b""
        parts: list[bytes | memoryview] = [*self._records]
        self._records = []
        frame = max(FRAME_BYTES_MIN, min(PLAINTEXT_BYTES_MAX, self.window // FRAMES_A_WINDOW))
        room = before = frame - sum(len(part) for part in parts)
        for stream in range(_STREAMS):
            room = self._pack_stream(stream, room, parts)
            if stream == 0 and room < before:
                room = max(0, min(room, PACKET_BYTES - (frame - room)))
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
                break  # no crumbs: the next credit brings at least CREDIT_EVERY
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
        """Whether the peer could hold one more half-received message of this size."""
        if size + _HEAD_BYTES <= room:
            return True
        started = sum(
            sum(map(len, queue[0])) for queue, offset in zip(self._queues, self._offsets, strict=True) if offset
        )
        return started + size <= STARTED_BYTES_MAX


class RecordReader:
    """What has arrived of messages that are not complete."""

    __slots__ = ("_begun", "_held", "_sizes", "uncredited")

    def __init__(self) -> None:
        self._begun: tuple[list[bytes | memoryview], ...] = tuple([] for _ in range(_STREAMS))
        self._sizes = [0] * _STREAMS
        self._held = 0
        self.uncredited = 0  # bytes read that the peer has not been told of

    def take(self, frame: bytes) -> list[Whole | int | Refresh | End]:
        """The whole messages, credits (as int) and the end that this frame completes, in order.

        Raises:
            DecodeError: a record is cut short, unknown, or exceeds what may be held.
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
                # A piece that is most of its frame is kept within it; a small one would hold much more than itself.
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
        begun = self._begun[stream]
        if head & _LAST and not begun:
            found.append(Whole((body,), stream))
            return
        if not body and not head & _LAST:
            raise DecodeError("empty piece of a message")
        begun.append(body)
        self._sizes[stream] += len(body)
        self._held += len(body)
        if self._sizes[stream] > MESSAGE_BYTES_MAX or self._held > PARTIAL_BYTES_MAX:
            raise DecodeError(f"message exceeds {MESSAGE_BYTES_MAX} bytes")
        if head & _LAST:
            found.append(Whole(tuple(begun), stream))
            self._held -= self._sizes[stream]
            self._sizes[stream] = 0
            begun.clear()


def refresh_record(public: bytes) -> bytes:
    """The record with our share of new keys, or, empty, that we use them from the next frame on."""
    return bytes((_REFRESH, 0, len(public))) + public


def end_record(reason: str) -> bytes:
    """The record that tells the peer that this is the end, and why."""
    return _record(_END, reason.encode("ascii", "replace")[:REASON_BYTES_MAX])


def _record(head: int, body: bytes) -> bytes:
    return bytes((head, len(body) >> 8, len(body) & 0xFF)) + body


def _printable(reason: bytes) -> str:
    """A peer's words for our log: printable ASCII alone."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "?" for byte in reason)
