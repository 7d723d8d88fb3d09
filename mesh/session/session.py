"""One connection's protocol, without I/O: handshake, sealed frames, rekeying, the end.

Owns the framing (u16 big-endian length, then a Noise message), the phases of one connection and its ciphers. What
always holds: no byte of an application leaves or enters before the gate has admitted the other side; a stranger is
answered with nothing; before that no more than EARLY_BYTES_MAX are read; after any fault the session is closed for
good. Who may pass is decided by the `Gate`, because members and joining nodes show different papers. Must not know:
members, certificates, what messages mean, how long a handshake may take (its owner closes it at the deadline).

Noise Protocol Framework, revision 34: section 13 (framing, truncation), 11.3 (rekey), 7.8 (silence to strangers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from mycomesh.mesh.errors import HandshakeError, MeshError
from mycomesh.mesh.session.key_refresh import KeyRefresh
from mycomesh.mesh.session.noise import HANDSHAKE_BYTES_MAX, CipherState, Handshake, respond
from mycomesh.mesh.session.records import (
    CREDIT_EVERY,
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

WIRE_VERSION = 1  # of handshake, frames and records, below everything that mesh.versions agrees on
EARLY_BYTES_MAX = 4_096  # bytes of the other side before it is admitted: two handshake frames of at most 2 KiB
REKEY_FRAMES = 1 << 16  # frames under one key: about as often as WireGuard at a gigabit
REKEY_BYTES = 1 << 30  # bytes under one key: far below any bound of ChaCha20-Poly1305, far above the cost of a rekey
_LENGTH_BYTES = 2


class Phase(Enum):
    """Where a connection stands."""

    IDLE = auto()  # nothing said yet; we will begin
    CALLED = auto()  # our message 1 is out, we wait for message 2
    LISTENING = auto()  # we wait for message 1
    ANSWERED = auto()  # our message 2 is out, we wait for message 3
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
    """What a handshake needs: `psks` in the order in which they are tried; one who begins uses the first."""

    mesh_id: bytes
    psks: tuple[bytes, ...] = field(repr=False)
    static: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Introduction:
    """What the other side showed under encryption, and what the handshake proves about it.

    `transcript` is the handshake hash as it was before message 3 on both sides; `psk` is the index of the key in use.
    """

    payload: bytes
    remote_static: bytes
    transcript: bytes
    psk: int


class Gate(Protocol):
    """Decides who passes. Both methods are pure with respect to the session."""

    def answer(self, psk: int) -> bytes:
        """The payload of message 2, for a caller who used the pre-shared key of this index."""
        ...

    def admit(self, introduction: Introduction) -> bytes:
        """Judge the other side: a MeshError refuses it. The answer is the payload of message 3, if we began."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """The gate has admitted the other side and both ends have their ciphers; `psk` as in `Introduction`."""

    psk: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; `error` is what the other side did wrong, None when it said goodbye."""

    reason: str
    error: MeshError | None = None


Received = Whole
Step = Reply | Opened | Received | Closed


def prologue_of(mesh_id: bytes) -> bytes:
    """What both ends must agree on unseen: protocol, version, mesh (section 6)."""
    return b"mycomesh" + bytes((WIRE_VERSION,)) + mesh_id


class Session:
    """One connection. `outbox` is public for its figures; `send` and `flush` are the way in."""

    __slots__ = (
        "_buffer",
        "_early",
        "_entropy",
        "_fresh",
        "_gate",
        "_handshake",
        "_inbox",
        "_keys",
        "_psk",
        "_receive",
        "_send",
        "outbox",
        "phase",
    )

    def __init__(self, keys: Keys, gate: Gate, *, initiator: bool, entropy: Callable[[int], bytes]) -> None:
        self._keys = keys
        self._gate = gate
        self._entropy = entropy
        self._handshake: Handshake | None = None
        self._fresh = KeyRefresh(entropy)
        self._psk = 0
        self._send: _Cipher | None = None
        self._receive: _Cipher | None = None
        self._buffer = b""  # the beginning of a frame
        self._early = 0
        self._inbox = RecordReader()
        self.outbox = RecordWriter()
        self.phase = Phase.IDLE if initiator else Phase.LISTENING

    def start(self) -> bytes:
        """The first bytes of the side that dialled."""
        self._move(_Signal.START)
        keys = self._keys
        self._handshake = Handshake(
            True, prologue=prologue_of(keys.mesh_id), psk=keys.psks[0], static=keys.static, entropy=self._entropy
        )
        return _framed(self._handshake.write_message())

    def receive(self, data: bytes, now_ms: int) -> list[Step]:
        """Take bytes of the stream, cut anywhere; return what they mean, in order. Bytes after the end mean nothing."""
        steps: list[Step] = []
        if self.phase is Phase.CLOSED:
            return steps
        self._early += 0 if self.phase is Phase.OPEN else len(data)
        try:
            self._take(data, steps, now_ms)
            if self.phase not in (Phase.OPEN, Phase.CLOSED) and self._early > EARLY_BYTES_MAX:
                raise HandshakeError(f"{self._early} bytes came before the handshake was done")
        except MeshError as error:
            self._close()
            steps.append(Closed(str(error), error))
        if self._inbox.uncredited >= CREDIT_EVERY:
            self.outbox.push_credit(self._inbox.uncredited)
            self._inbox.uncredited = 0
        return steps

    def send(self, payload: bytes, priority: int, head: bytes = b"") -> None:
        """Queue the message `head + payload` for `flush`; LimitError if it is too long for any link."""
        assert self.phase is Phase.OPEN, "nothing is sent before the gate has opened"
        self.outbox.push(payload, priority, head)

    def flush(self) -> bytes:
        """Seal what may be sent now; empty when there is nothing, or the window is full."""
        return b"".join(self.frames())

    def frames(self) -> Iterator[bytes]:
        """The same frame by frame: a window of bulk put together once more would be memory that is not at hand."""
        if self.phase is not Phase.OPEN:
            return
        assert self._send is not None
        while records := self.outbox.pack():
            yield _framed(self._send.seal(records))

    def end(self, reason: str) -> bytes:
        """Close for good; the answer says goodbye to an admitted peer and nothing to anyone else (section 7.8)."""
        farewell = self.flush()
        if self.phase is Phase.OPEN:
            assert self._send is not None
            farewell += _framed(self._send.seal(end_record(reason)))
        self._close()
        return farewell

    def refresh(self) -> bytes:
        """Begin to agree on new keys, at the side that dialled; empty while that goes on."""
        if self.phase is not Phase.OPEN or self._fresh.busy:
            return b""
        assert self._send is not None
        return _framed(self._send.seal(refresh_record(self._fresh.ask())))

    # ---- frames

    def _take(self, data: bytes, steps: list[Step], now_ms: int) -> None:
        """First complete the frame that has begun: what follows it is parsed where it lies."""
        at = 0
        while self._buffer and at < len(data):
            held, self._buffer = self._buffer, b""
            want = _LENGTH_BYTES + (held[0] << 8 | held[1]) if len(held) >= _LENGTH_BYTES else _LENGTH_BYTES
            piece = data[at : at + want - len(held)]
            at += len(piece)
            self._parse(held + piece, 0, steps, now_ms)
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
                raise HandshakeError("bytes came before we had called")

    def _on_message_1(self, frame: bytes) -> bytes:
        keys = self._keys
        self._handshake, payload, self._psk = respond(
            frame, keys.psks, prologue=prologue_of(keys.mesh_id), static=keys.static, entropy=self._entropy
        )
        if payload:
            raise HandshakeError("message 1 carries a payload, which nobody could have checked")
        answer = self._handshake.write_message(self._gate.answer(self._psk))
        self._move(_Signal.MESSAGE_1)
        return _framed(answer)

    def _on_message_2(self, frame: bytes) -> bytes:
        assert self._handshake is not None
        payload = self._handshake.read_message(frame)
        transcript = self._handshake.handshake_hash
        papers = self._gate.admit(self._introduction(payload, transcript))
        answer = self._handshake.write_message(papers)
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
        """One step of new keys: share, share, and the caller's word that it has changed (mesh.freshness)."""
        assert self._send is not None
        assert self._receive is not None
        fresh = self._fresh
        if fresh.asked:
            self._receive.mix(fresh.agreed(public))
            steps.append(Reply(_framed(self._send.seal(refresh_record(b"")))))
            self._send.mix(fresh.taken())
        elif public:
            ours = fresh.answer(public, now_ms)
            steps.append(Reply(_framed(self._send.seal(refresh_record(ours)))))
            self._send.mix(fresh.shared)
        else:
            self._receive.mix(fresh.taken())

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
        assert step in _TRANSITIONS, f"no way from {self.phase.name} by {signal.name}"
        self.phase = _TRANSITIONS[step]


class _Cipher:
    """One direction: its cipher state, and the count after which both ends change the key unasked (section 11.3)."""

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
