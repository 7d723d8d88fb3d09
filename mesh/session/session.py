"""State machine of one encrypted connection, without I/O: Noise handshake, sealed frames, rekeying, close.

On the stream, each frame is a 16-bit big-endian length followed by a Noise message. The `Gate` authenticates the other side,
because members and joining nodes present different credentials. The owner limits the time of a handshake: it closes the
session at its deadline.

Invariants: no application byte is sent or delivered before the gate has admitted the other side. A peer without a valid
pre-shared key gets no reply. Before admission the session reads at most EARLY_BYTES_MAX. After any fault the session stays
closed.

Noise Protocol Framework, revision 34: sections 13 (framing, truncation), 11.3 (rekey), 7.8 (no reply to unauthenticated
peers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from mycomesh.mesh.errors import DecodeError, HandshakeError, MeshError
from mycomesh.mesh.session.key_refresh import KeyRefresh
from mycomesh.mesh.session.noise import HANDSHAKE_BYTES_MAX, CipherState, Handshake, respond
from mycomesh.mesh.session.records import (
    CREDIT_EVERY,
    UNCREDITED_BYTES_MAX,
    End,
    RecordReader,
    RecordWriter,
    Refresh,
    Whole,
    end_record,
    refresh_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "EARLY_BYTES_MAX",
    "REKEY_BYTES",
    "REKEY_FRAMES",
    "WIRE_VERSION",
    "Closed",
    "Gate",
    "Introduction",
    "Keys",
    "Opened",
    "Phase",
    "Received",
    "Reply",
    "Session",
    "Step",
    "prologue_of",
]

WIRE_VERSION = 1  # of handshake, frames and records; mesh.versions negotiates everything above them
EARLY_BYTES_MAX = 4_096  # bytes read from the other side before it is admitted: two handshake frames of at most 2 KiB
REKEY_FRAMES = 1 << 16  # frames under one key: about as often as WireGuard rekeys at 1 Gbit/s
REKEY_BYTES = 1 << 30  # bytes under one key: far below any bound of ChaCha20-Poly1305, and rekeying stays cheap
_LENGTH_BYTES = 2


class Phase(Enum):
    """The phase of a connection."""

    IDLE = auto()  # initiator: nothing sent yet
    CALLED = auto()  # initiator: message 1 sent, waiting for message 2
    LISTENING = auto()  # responder: waiting for message 1
    ANSWERED = auto()  # responder: message 2 sent, waiting for message 3
    OPEN = auto()
    CLOSED = auto()


class _Signal(Enum):
    START = auto()
    MESSAGE_1 = auto()
    MESSAGE_2 = auto()
    MESSAGE_3 = auto()
    END = auto()


_TRANSITIONS = {
    (Phase.IDLE, _Signal.START): Phase.CALLED,
    (Phase.CALLED, _Signal.MESSAGE_2): Phase.OPEN,
    (Phase.LISTENING, _Signal.MESSAGE_1): Phase.ANSWERED,
    (Phase.ANSWERED, _Signal.MESSAGE_3): Phase.OPEN,
    (Phase.IDLE, _Signal.END): Phase.CLOSED,
    (Phase.CALLED, _Signal.END): Phase.CLOSED,
    (Phase.LISTENING, _Signal.END): Phase.CLOSED,
    (Phase.ANSWERED, _Signal.END): Phase.CLOSED,
    (Phase.OPEN, _Signal.END): Phase.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Keys:
    """The inputs of a handshake. The responder tries `psks` in order; the initiator uses the first."""

    mesh_id: bytes
    psks: tuple[bytes, ...] = field(repr=False)
    static: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Introduction:
    """The encrypted payload of the other side, and the facts that the handshake proves about it.

    `transcript` is the handshake hash before message 3, equal on both sides; `psk` is the index of the key in use.
    """

    payload: bytes
    remote_static: bytes
    transcript: bytes
    psk: int


class Gate(Protocol):
    """Authenticates the other side of a session. Neither method changes the session."""

    def answer(self, psk: int) -> bytes:
        """Return the payload of message 2 for an initiator that used the pre-shared key of this index."""
        ...

    def admit(self, introduction: Introduction) -> bytes:
        """Authenticate the other side, or raise MeshError. An initiator sends the result as payload of message 3."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """The gate has admitted the other side, and the ciphers are ready; `psk` as in `Introduction`."""

    psk: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; `error` is the other side's fault, or None when it closed the link on purpose."""

    reason: str
    error: MeshError | None = None


Received = Whole
Step = Reply | Opened | Received | Closed


def prologue_of(mesh_id: bytes) -> bytes:
    """Return the data that both ends must agree on without sending it: protocol, version, mesh (section 6)."""
    return b"mycomesh" + bytes((WIRE_VERSION,)) + mesh_id


class Session:
    """One connection. Use `send` and `flush` to send; `outbox` is public for its counters."""

    __slots__ = (
        "_buffer",
        "_early",
        "_entropy",
        "_gate",
        "_handshake",
        "_inbox",
        "_key_refresh",
        "_keys",
        "_psk",
        "_receive",
        "_send",
        "outbox",
        "paced",
        "phase",
    )

    def __init__(self, keys: Keys, gate: Gate, *, initiator: bool, entropy: Callable[[int], bytes]) -> None:
        self._keys = keys
        self._gate = gate
        self._entropy = entropy
        self._handshake: Handshake | None = None
        self._key_refresh = KeyRefresh(entropy)
        self._psk = 0
        self._send: _Cipher | None = None
        self._receive: _Cipher | None = None
        self._buffer = b""  # the beginning of an incomplete frame
        self._early = 0  # bytes received before admission
        self._inbox = RecordReader()
        self.outbox = RecordWriter()
        self.paced = False  # the owner gives the credits
        self.phase = Phase.IDLE if initiator else Phase.LISTENING

    def start(self) -> bytes:
        """Return the first bytes of the side that dialled."""
        self._move(_Signal.START)
        keys = self._keys
        self._handshake = Handshake(
            True, prologue=prologue_of(keys.mesh_id), psk=keys.psks[0], static=keys.static, entropy=self._entropy
        )
        return _framed(self._handshake.write_message())

    def receive(self, data: bytes, now_ms: int) -> list[Step]:
        """Process bytes of the stream, split anywhere; return the steps they cause, in order.

        A closed session ignores all bytes.
        """
        steps: list[Step] = []
        if self.phase is Phase.CLOSED:
            return steps
        self._early += 0 if self.phase is Phase.OPEN else len(data)
        try:
            self._take(data, steps, now_ms)
            if self.phase not in (Phase.OPEN, Phase.CLOSED) and self._early > EARLY_BYTES_MAX:
                raise HandshakeError(f"{self._early} bytes arrived before the handshake was complete")
            if self._inbox.uncredited > UNCREDITED_BYTES_MAX and self.paced:
                raise DecodeError(f"the peer has sent {self._inbox.uncredited:,} bytes without credit")
        except MeshError as error:
            self._close()
            steps.append(Closed(str(error), error))
        if not self.paced:
            self.give_credit(bulk=True)
        return steps

    def give_credit(self, *, bulk: bool) -> None:
        """Acknowledge what was read, if it is enough; without `bulk` messages of priority 0 alone.

        The owner of a `paced` session calls this, with `bulk` when the peer may send on.
        """
        inbox = self._inbox
        size = inbox.uncredited if bulk else inbox.urgent
        if size >= CREDIT_EVERY:
            self.outbox.push_credit(size)
            inbox.uncredited -= size
            inbox.urgent = 0

    def send(self, payload: bytes, priority: int, head: bytes = b"") -> None:
        """Queue the message `head + payload` for `flush`; LimitError if it is too long for any link."""
        assert self.phase is Phase.OPEN, "nothing may be sent before the gate has admitted the peer"
        self.outbox.push(payload, priority, head)

    def flush(self) -> bytes:
        """Return sealed frames for everything that may be sent at this moment; empty if nothing waits or the window is full."""
        return b"".join(self.frames())

    def frames(self, room: Callable[[], int | None] = lambda: None) -> Iterator[bytes]:
        """Yield the frames of `flush` one by one, so that a window of bulk is never copied as a whole.

        `room` returns how many bytes of bulk the next frame may have (`RecordWriter.pack`).
        """
        if self.phase is not Phase.OPEN:
            return
        assert self._send is not None
        while records := self.outbox.pack(room()):
            yield _framed(self._send.seal(records))

    def end(self, reason: str) -> bytes:
        """Close the session; return the last frames for an admitted peer, and nothing for any other (section 7.8)."""
        frames = self.flush()
        if self.phase is Phase.OPEN:
            assert self._send is not None
            frames += _framed(self._send.seal(end_record(reason)))
        self._close()
        return frames

    def refresh_keys(self) -> bytes:
        """Begin a key refresh, at the side that dialled; return its first frame, or nothing while one is under way."""
        if self.phase is not Phase.OPEN or self._key_refresh.busy:
            return b""
        assert self._send is not None
        return _framed(self._send.seal(refresh_record(self._key_refresh.request())))

    # ---- frames

    def _take(self, data: bytes, steps: list[Step], now_ms: int) -> None:
        # Complete the buffered frame first. The frames that follow it are parsed in place, without a copy of `data`.
        at = 0
        while self._buffer and at < len(data):
            begun, self._buffer = self._buffer, b""
            want = _LENGTH_BYTES + (begun[0] << 8 | begun[1]) if len(begun) >= _LENGTH_BYTES else _LENGTH_BYTES
            piece = data[at : at + want - len(begun)]
            at += len(piece)
            self._parse(begun + piece, 0, steps, now_ms)
        if at < len(data):
            self._parse(data, at, steps, now_ms)

    def _parse(self, data: bytes, at: int, steps: list[Step], now_ms: int) -> None:
        while len(data) - at >= _LENGTH_BYTES and self.phase is not Phase.CLOSED:
            size = data[at] << 8 | data[at + 1]
            if self.phase is not Phase.OPEN and size > HANDSHAKE_BYTES_MAX:
                raise HandshakeError(f"handshake frame of {size} bytes, at most {HANDSHAKE_BYTES_MAX} are allowed")
            end = at + _LENGTH_BYTES + size
            if end > len(data):
                break
            frame = data[at + _LENGTH_BYTES : end]
            at = end
            self._on_frame(frame, steps, now_ms)
        if self.phase is not Phase.CLOSED:
            self._buffer = data[at:]

    def _on_frame(self, frame: bytes, steps: list[Step], now_ms: int) -> None:
        match self.phase:
            case Phase.OPEN:
                self._on_sealed(frame, steps, now_ms)
            case Phase.LISTENING:
                steps.append(Reply(self._on_message_1(frame)))
            case Phase.ANSWERED:
                self._on_message_3(frame)
                steps.append(Opened(self._psk))
            case Phase.CALLED:
                steps += (Reply(self._on_message_2(frame)), Opened(self._psk))
            case Phase.IDLE | Phase.CLOSED:
                raise HandshakeError("bytes arrived before this side had sent its first message")

    def _on_message_1(self, frame: bytes) -> bytes:
        keys = self._keys
        self._handshake, payload, self._psk = respond(
            frame, keys.psks, prologue=prologue_of(keys.mesh_id), static=keys.static, entropy=self._entropy
        )
        if payload:
            raise HandshakeError("message 1 carries a payload, which no static key authenticates")
        answer = self._handshake.write_message(self._gate.answer(self._psk))
        self._move(_Signal.MESSAGE_1)
        return _framed(answer)

    def _on_message_2(self, frame: bytes) -> bytes:
        assert self._handshake is not None
        payload = self._handshake.read_message(frame)
        transcript = self._handshake.handshake_hash
        credentials = self._gate.admit(self._introduction(payload, transcript))
        answer = self._handshake.write_message(credentials)
        self._open(_Signal.MESSAGE_2)
        return _framed(answer)

    def _on_message_3(self, frame: bytes) -> None:
        assert self._handshake is not None
        transcript = self._handshake.handshake_hash
        payload = self._handshake.read_message(frame)
        self._gate.admit(self._introduction(payload, transcript))
        self._open(_Signal.MESSAGE_3)

    def _introduction(self, payload: bytes, transcript: bytes) -> Introduction:
        assert self._handshake is not None
        assert self._handshake.remote_static is not None, "messages 2 and 3 carry the static key"
        return Introduction(payload, self._handshake.remote_static, transcript, self._psk)

    def _on_sealed(self, frame: bytes, steps: list[Step], now_ms: int) -> None:
        assert self._receive is not None
        for item in self._inbox.take(self._receive.open(frame)):
            match item:
                case Whole():
                    steps.append(item)
                case int():
                    self.outbox.acknowledge(item, now_ms)
                case Refresh(public):
                    self._on_refresh(public, steps, now_ms)
                case End(reason):
                    self._close()
                    steps.append(Closed(reason))
                    return

    def _on_refresh(self, public: bytes, steps: list[Step], now_ms: int) -> None:
        """Take one step of a key refresh: a share, the share in reply, or the final empty record (see key_refresh)."""
        assert self._send is not None
        assert self._receive is not None
        refresh = self._key_refresh
        if refresh.awaiting_reply:
            self._receive.mix(refresh.on_reply(public))
            steps.append(Reply(_framed(self._send.seal(refresh_record(b"")))))
            self._send.mix(refresh.take_shared())
        elif public:
            ours = refresh.on_request(public, now_ms)
            steps.append(Reply(_framed(self._send.seal(refresh_record(ours)))))
            self._send.mix(refresh.shared)
        else:
            self._receive.mix(refresh.take_shared())

    # ---- phases

    def _open(self, signal: _Signal) -> None:
        assert self._handshake is not None
        ciphers = self._handshake.split()
        self._send = _Cipher(ciphers.send)
        self._receive = _Cipher(ciphers.receive)
        self._handshake = None
        self._move(signal)

    def _close(self) -> None:
        if self.phase is not Phase.CLOSED:
            self._move(_Signal.END)
        self._handshake = self._send = self._receive = None
        self._inbox = RecordReader()
        self._buffer = b""

    def _move(self, signal: _Signal) -> None:
        step = (self.phase, signal)
        assert step in _TRANSITIONS, f"no transition from {self.phase.name} on {signal.name}"
        self.phase = _TRANSITIONS[step]


class _Cipher:
    """One direction: its cipher state, and the counts after which both ends rekey without a message (section 11.3)."""

    __slots__ = ("_bytes", "_frames", "_state")

    def __init__(self, state: CipherState) -> None:
        self._state = state
        self._frames = 0
        self._bytes = 0

    def seal(self, plaintext: bytes) -> bytes:
        sealed = self._state.encrypt(plaintext)
        self._count(len(plaintext))
        return sealed

    def open(self, sealed: bytes) -> bytes:
        plaintext = self._state.decrypt(sealed)
        self._count(len(plaintext))
        return plaintext

    def mix(self, shared: bytes) -> None:
        self._state.mix(shared)
        self._frames = self._bytes = 0

    def _count(self, size: int) -> None:
        self._frames += 1
        self._bytes += size
        if self._frames >= REKEY_FRAMES or self._bytes >= REKEY_BYTES:
            self._state.rekey()
            self._frames = self._bytes = 0


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message
