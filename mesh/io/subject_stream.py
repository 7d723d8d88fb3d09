"""A byte stream over messages that may get lost: frames, a window in each direction, and no I/O.

Both ends count the bytes of each direction. A sender has at most `WINDOW` bytes on the way that the other end has not
acknowledged. A receiver takes data only at the offset that follows what it has, so a lost, repeated or reordered
message ends the stream: nothing is sent again here, because the link above starts over and resumes by itself.

docs/PROTOCOL.md, "Links over NATS", is the specification; tests/vectors/nats_links.json pins the bytes.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "CHUNK_BYTES_MAX",
    "FRAME_BYTES_MAX",
    "ID_BYTES",
    "WINDOW_BYTES_MAX",
    "Frame",
    "Kind",
    "StreamError",
    "SubjectStream",
]

ID_BYTES = 8  # of an instance (one run of a node) and of a stream
CHUNK_BYTES_MAX = 64 << 10  # of data in one frame; a server with a smaller payload limit gets less
WINDOW_BYTES_MAX = 1 << 20  # in flight in one direction: 1.7 MB/s over a satellite with 600 ms
_ACK_EVERY = WINDOW_BYTES_MAX // 4
_VERSION = 1
_HEAD = struct.Struct(">BB8s8sQ")  # version, kind, sender's instance, stream, offset
FRAME_BYTES_MAX = _HEAD.size + CHUNK_BYTES_MAX


class StreamError(Exception):
    """The other end broke the rules, or a message was lost: close this stream."""


class Kind(IntEnum):
    """Kinds of frames. `offset` counts bytes of the stream in DATA (before this one) and ACK (taken in); else it is 0."""

    HERE = 0  # this instance listens
    OPEN = 1
    ACCEPT = 2
    DATA = 3
    ACK = 4
    CLOSE = 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: its kind, the instance that sends it, the stream, and the offset and bytes of DATA."""

    kind: Kind
    sender: bytes
    stream: bytes = bytes(ID_BYTES)
    offset: int = 0
    data: bytes = b""

    def encode(self) -> bytes:
        """Return the message."""
        return _HEAD.pack(_VERSION, self.kind, self.sender, self.stream, self.offset) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Frame:
        """Return the frame in a message.

        Raises:
            StreamError: it has another form, or a later version.
        """
        if not _HEAD.size <= len(payload) <= FRAME_BYTES_MAX:
            raise StreamError(f"a frame of {len(payload)} bytes")
        version, kind, sender, stream, offset = _HEAD.unpack_from(payload)
        data = payload[_HEAD.size :]
        if version != _VERSION or kind not in iter(Kind):
            raise StreamError(f"a frame of version {version} and kind {kind}")
        if bool(data) != (kind == Kind.DATA) or (offset and kind not in (Kind.DATA, Kind.ACK)):
            raise StreamError(f"a frame of kind {kind} with {len(data)} bytes at {offset}")
        return cls(Kind(kind), sender, stream, offset, data)


class SubjectStream:
    """Both directions of one stream at one end. `sender` is this end's instance."""

    __slots__ = ("_acked", "_chunk", "_queue", "_received", "_reported", "_sender", "_sent", "_stream", "queued")

    def __init__(self, sender: bytes, stream: bytes, chunk: int) -> None:
        self._sender = sender
        self._stream = stream
        self._chunk = min(chunk, CHUNK_BYTES_MAX)
        self._queue: deque[bytes] = deque()
        self._sent = self._acked = self._received = self._reported = 0
        self.queued = 0  # bytes that wait for the window

    def write(self, data: bytes) -> None:
        """Queue bytes; `frames` returns them as the window allows."""
        if data:
            self._queue.append(data)
            self.queued += len(data)

    def on_frame(self, frame: Frame) -> bytes:
        """Take in DATA or ACK; return the bytes that arrived.

        Raises:
            StreamError: the offset is not the one that must come next, or beyond what was sent.
        """
        if frame.kind == Kind.ACK:
            if not self._acked <= frame.offset <= self._sent:
                raise StreamError(f"acknowledges {frame.offset} bytes, {self._sent} were sent")
            self._acked = frame.offset
            return b""
        if frame.offset != self._received:
            raise StreamError(f"data at {frame.offset}, expected at {self._received}: a message was lost or repeated")
        self._received += len(frame.data)
        if self._received - self._reported > WINDOW_BYTES_MAX:
            raise StreamError("more data than the window allows")
        return frame.data

    def frames(self) -> list[bytes]:
        """Return what may be sent now: an acknowledgement if one is due, then data up to the window."""
        found: list[bytes] = []
        if self._received - self._reported >= _ACK_EVERY:
            self._reported = self._received
            found.append(Frame(Kind.ACK, self._sender, self._stream, self._received).encode())
        while self._queue and (room := WINDOW_BYTES_MAX - (self._sent - self._acked)) > 0:
            piece = self._queue.popleft()
            size = min(self._chunk, room)
            if len(piece) > size:
                self._queue.appendleft(piece[size:])
                piece = piece[:size]
            found.append(Frame(Kind.DATA, self._sender, self._stream, self._sent, piece).encode())
            self._sent += len(piece)
            self.queued -= len(piece)
        return found
