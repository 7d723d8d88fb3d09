"""Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s: the handshake of two nodes and the ciphers of their link, without I/O.

The caller splits the stream into messages and supplies the entropy. It must also send an explicit end of the stream, because
a truncated stream looks like silence.

Invariants: an invalid message raises HandshakeError. A failed handshake has dropped its keys and raises HandshakeError on
every later call. A failed `decrypt` leaves the cipher unchanged. No nonce is used twice with one key.

Section numbers are those of the Noise Protocol Framework, revision 34.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.errors import HandshakeError, LimitError
from mycomesh.mesh.primitives import KEY_BYTES, TAG_BYTES, aead_open, aead_seal, agree, derive, draw, static_public

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "HANDSHAKE_BYTES_MAX",
    "MESSAGE_BYTES_MAX",
    "NONCE_MAX",
    "PLAINTEXT_BYTES_MAX",
    "PSKS_MAX",
    "XXPSK0",
    "CipherState",
    "Handshake",
    "Suite",
    "Transport",
    "respond",
]

MESSAGE_BYTES_MAX = 65_535  # section 3: the limit of every Noise message, so that a 16-bit length can frame it
PLAINTEXT_BYTES_MAX = MESSAGE_BYTES_MAX - TAG_BYTES
# Fits a certificate of 1 KiB, a root key and 96 bytes of handshake; an unauthenticated peer can send no more.
HANDSHAKE_BYTES_MAX = 2_048
NONCE_MAX = 2**48  # far below 2^64 - 1, which is reserved (5.1); 2^48 frames take centuries on a gigabit link
PSKS_MAX = 32  # pre-shared keys tried on one first message, 0.04 ms each: junk costs about 1 ms at most

_REFRESH_PURPOSE = b"mycomesh refresh"
_REKEY_NONCE = 2**64 - 1  # section 4.2, REKEY(k)


@dataclass(frozen=True, slots=True)
class Suite:
    """A protocol name (section 8), its hash, and the tokens of each message of its pattern (sections 7 and 9)."""

    name: bytes
    hash: Any  # a constructor of hashlib: their common type has no public name
    messages: tuple[tuple[str, ...], ...]

    @property
    def has_psk(self) -> bool:
        """Whether the pattern has a pre-shared key, so that ephemeral keys are also mixed into the key (section 9.2)."""
        return any("psk" in tokens for tokens in self.messages)


XXPSK0 = Suite(
    name=b"Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s",
    hash=hashlib.blake2s,
    messages=(("psk", "e"), ("e", "ee", "s", "es"), ("s", "se")),
)


class CipherState:
    """One direction of a link (section 5.1): a key and the nonce of the next message."""

    __slots__ = ("_key", "nonce")

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._key = key
        self.nonce = 0

    def encrypt(self, plaintext: bytes, ad: bytes = b"") -> bytes:
        """Return the sealed message, TAG_BYTES longer than the plaintext.

        Above PLAINTEXT_BYTES_MAX or at NONCE_MAX, raise LimitError and leave the cipher unchanged.
        """
        if len(plaintext) > PLAINTEXT_BYTES_MAX:
            raise LimitError(
                f"plaintext has {len(plaintext)} bytes, a message holds at most {PLAINTEXT_BYTES_MAX}: split it"
            )
        if self.nonce >= NONCE_MAX:
            raise LimitError(f"this key has sealed {NONCE_MAX} messages: open another link")
        sealed = aead_seal(self._key, self.nonce, ad, plaintext)
        self.nonce += 1
        return sealed

    def decrypt(self, ciphertext: bytes, ad: bytes = b"") -> bytes:
        """Return the plaintext of the next message in order, or raise HandshakeError and leave the cipher unchanged."""
        if len(ciphertext) > MESSAGE_BYTES_MAX:
            raise HandshakeError(f"message has {len(ciphertext)} bytes, at most {MESSAGE_BYTES_MAX} are allowed")
        if self.nonce >= NONCE_MAX:
            raise HandshakeError(f"this key has opened {NONCE_MAX} messages: open another link")
        plaintext = aead_open(self._key, self.nonce, ad, ciphertext)
        self.nonce += 1
        return plaintext

    def rekey(self) -> None:
        """Replace the key by a one-way function of itself (sections 4.2 and 11.3).

        Both ends count frames to know when, so nothing is sent. The nonce continues.
        """
        self._key = aead_seal(self._key, _REKEY_NONCE, b"", bytes(KEY_BYTES))[:KEY_BYTES]

    def mix(self, shared: bytes) -> None:
        """Replace the key by one derived from it and from a fresh shared secret, and restart the nonce at zero."""
        self._key = derive(shared, _REFRESH_PURPOSE, self._key)
        self.nonce = 0


@dataclass(frozen=True, slots=True)
class Transport:
    """The two ciphers of a finished handshake, seen from this end."""

    send: CipherState
    receive: CipherState


class Handshake:
    """One end of a handshake: call `write_message` and `read_message` in turn until `finished`, then `split()` once.

    `static` is a 32-byte private key. `psk` is 32 bytes, for suites that use one. `prologue` is data that both ends must
    agree on and that is never sent (section 6).
    """

    __slots__ = (
        "_entropy",
        "_ephemeral",
        "_initiator",
        "_position",
        "_psk",
        "_remote_ephemeral",
        "_static",
        "_suite",
        "_symmetric",
        "remote_static",
    )

    def __init__(
        self,
        initiator: bool,
        *,
        prologue: bytes,
        psk: bytes,
        static: bytes,
        entropy: Callable[[int], bytes],
        suite: Suite = XXPSK0,
    ) -> None:
        assert len(static) == KEY_BYTES
        assert len(psk) == KEY_BYTES or not suite.has_psk
        self._initiator = initiator
        self._psk = psk
        self._static = static
        self._entropy = entropy
        self._suite = suite
        self._symmetric = _Symmetric(suite, prologue)
        self._ephemeral = b""
        self._remote_ephemeral = b""
        self._position = 0  # index of the next message in the pattern; negative once the handshake has failed
        self.remote_static: bytes | None = None

    @property
    def finished(self) -> bool:
        """Whether every message was written or read, so that `split` may be called."""
        return self._position == len(self._suite.messages)

    @property
    def handshake_hash(self) -> bytes:
        """The hash of the transcript so far. Once `finished`, it is final and unique to this session (section 11.2)."""
        return self._symmetric.hash

    def write_message(self, payload: bytes = b"") -> bytes:
        """Return the next message; HandshakeError if the peer's keys are invalid, LimitError above HANDSHAKE_BYTES_MAX."""
        tokens = self._take_turn(writing=True)
        try:
            message = self._write(tokens, payload)
        except (HandshakeError, LimitError):
            self._abandon()
            raise
        self._position += 1
        return message

    def read_message(self, message: bytes) -> bytes:
        """Return the payload of the peer's next message, or raise HandshakeError and end this handshake."""
        tokens = self._take_turn(writing=False)
        try:
            payload = self._read(tokens, message)
        except HandshakeError:
            self._abandon()
            raise
        self._position += 1
        return payload

    def split(self) -> Transport:
        """Return the link's ciphers and drop the handshake's keys; `handshake_hash` and `remote_static` remain."""
        assert self.finished, "split() before the last message"
        assert self._ephemeral, "split() a second time: it would hand out the same keys and nonces again"
        first, second = self._symmetric.split()
        self._drop_keys()
        return Transport(first, second) if self._initiator else Transport(second, first)

    def _take_turn(self, *, writing: bool) -> tuple[str, ...]:
        if self._position < 0:
            raise HandshakeError("this handshake has already failed")
        assert not self.finished, "the handshake is finished: call split()"
        assert writing == (self._initiator == (self._position % 2 == 0)), "the other end writes the next message"
        return self._suite.messages[self._position]

    def _write(self, tokens: tuple[str, ...], payload: bytes) -> bytes:
        parts = [self._write_token(token) for token in tokens]
        parts.append(self._symmetric.encrypt_and_hash(payload))
        message = b"".join(parts)
        if len(message) > HANDSHAKE_BYTES_MAX:
            raise LimitError(f"handshake message has {len(message)} bytes, at most {HANDSHAKE_BYTES_MAX} are allowed")
        return message

    def _read(self, tokens: tuple[str, ...], message: bytes) -> bytes:
        if len(message) > HANDSHAKE_BYTES_MAX:
            raise HandshakeError(
                f"handshake message has {len(message)} bytes, at most {HANDSHAKE_BYTES_MAX} are allowed"
            )
        rest = message
        for token in tokens:
            rest = self._read_token(token, rest)
        return self._symmetric.decrypt_and_hash(rest)

    def _write_token(self, token: str) -> bytes:
        match token:
            case "e":
                self._ephemeral = draw(self._entropy, KEY_BYTES)
                public = static_public(self._ephemeral)
                self._symmetric.mix_ephemeral(public)
                return public
            case "s":
                return self._symmetric.encrypt_and_hash(static_public(self._static))
            case _:
                self._mix_token(token)
                return b""

    def _read_token(self, token: str, message: bytes) -> bytes:
        match token:
            case "e":
                self._remote_ephemeral, rest = _cut(message, KEY_BYTES)
                self._symmetric.mix_ephemeral(self._remote_ephemeral)
                return rest
            case "s":
                sealed, rest = _cut(message, KEY_BYTES + (TAG_BYTES if self._symmetric.has_key else 0))
                self.remote_static = self._symmetric.decrypt_and_hash(sealed)
                return rest
            case _:
                self._mix_token(token)
                return message

    def _mix_token(self, token: str) -> None:
        """Mix a token that sends nothing: `psk`, or a Diffie-Hellman of the initiator's and the responder's key."""
        if token == "psk":  # noqa: S105, a token of the pattern language
            self._symmetric.mix_key_and_hash(self._psk)
            return
        ours = token[0] if self._initiator else token[1]
        theirs = token[1] if self._initiator else token[0]
        private = self._ephemeral if ours == "e" else self._static
        public = self._remote_ephemeral if theirs == "e" else self.remote_static
        assert private, f"pattern of {self._suite.name!r} uses a key before it was sent"
        assert public is not None, f"pattern of {self._suite.name!r} uses a key before it was received"
        self._symmetric.mix_key(agree(private, public))

    def _abandon(self) -> None:
        self._position = -1
        self._drop_keys()
        self._symmetric.drop_keys()

    def _drop_keys(self) -> None:
        self._psk = self._static = self._ephemeral = self._remote_ephemeral = b""


def respond(
    message1: bytes, psks: Sequence[bytes], *, prologue: bytes, static: bytes, entropy: Callable[[int], bytes]
) -> tuple[Handshake, bytes, int]:
    """Read a first message with the pre-shared key it was made with; return the handshake, the payload, the key's index.

    If no key of `psks` fits, raise HandshakeError and keep no state, so an unauthenticated peer gets no reply. No
    Diffie-Hellman is computed here.
    """
    assert len(psks) <= PSKS_MAX, f"{len(psks)} pre-shared keys; at most {PSKS_MAX} may be tried on one message"
    for index, psk in enumerate(psks):
        handshake = Handshake(False, prologue=prologue, psk=psk, static=static, entropy=entropy)
        try:
            return handshake, handshake.read_message(message1), index
        except HandshakeError:
            continue
    raise HandshakeError("the first message was not made with a key of this mesh")


class _Symmetric:
    """Chaining key, running hash and cipher of a handshake (section 5.2)."""

    __slots__ = ("_chaining_key", "_cipher", "_hash", "_mixes_ephemeral", "hash")

    def __init__(self, suite: Suite, prologue: bytes) -> None:
        self._hash = suite.hash
        size = suite.hash().digest_size
        self.hash = suite.name.ljust(size, b"\0") if len(suite.name) <= size else suite.hash(suite.name).digest()
        self._chaining_key = self.hash
        self._cipher: CipherState | None = None
        self._mixes_ephemeral = suite.has_psk
        self._mix_hash(prologue)

    @property
    def has_key(self) -> bool:
        return self._cipher is not None

    def mix_ephemeral(self, public: bytes) -> None:
        self._mix_hash(public)
        if self._mixes_ephemeral:
            self.mix_key(public)

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = self._hkdf(material, 2)
        self._cipher = CipherState(key[:KEY_BYTES])

    def mix_key_and_hash(self, material: bytes) -> None:
        self._chaining_key, noise, key = self._hkdf(material, 3)
        self._mix_hash(noise)
        self._cipher = CipherState(key[:KEY_BYTES])

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = self._cipher.encrypt(plaintext, self.hash) if self._cipher else plaintext
        self._mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        plaintext = self._cipher.decrypt(sealed, self.hash) if self._cipher else sealed
        self._mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = self._hkdf(b"", 2)
        self.drop_keys()
        return CipherState(first[:KEY_BYTES]), CipherState(second[:KEY_BYTES])

    def drop_keys(self) -> None:
        self._chaining_key = b""
        self._cipher = None

    def _mix_hash(self, data: bytes) -> None:
        self.hash = self._hash(self.hash + data).digest()

    def _hkdf(self, material: bytes, count: int) -> list[bytes]:
        """Return `count` outputs of HKDF with the chaining key as salt and empty info (section 4.3)."""
        secret = hmac.digest(self._chaining_key, material, self._hash)
        outputs: list[bytes] = []
        block = b""
        for number in range(1, count + 1):
            block = hmac.digest(secret, block + bytes([number]), self._hash)
            outputs.append(block)
        return outputs


def _cut(message: bytes, count: int) -> tuple[bytes, bytes]:
    if len(message) < count:
        raise HandshakeError(f"handshake message ends {count - len(message)} bytes early")
    return message[:count], message[count:]
