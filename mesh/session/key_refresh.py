"""Key refresh for an open connection: one more Diffie-Hellman exchange while traffic continues.

Rekeying by count (Noise section 11.3) is a one-way function of the key. It protects earlier traffic, but anyone who learns a
key can compute every later one. After a refresh, each direction's next key depends on its previous key and on a fresh shared
secret, and the handshake's keys are long dropped: a key that leaked to an eavesdropper opens nothing that is sent after the
next refresh. The shares travel in sealed frames, so no unauthenticated peer takes part.

    dialling side                             other side
    share ->                                             under the old keys
             <- share                                    its last frame under its old key
    empty record ->                                      the dialling side's last frame under its old key

Invariant: one exchange runs at a time. The dialling side begins it, and the other side refuses a second one within
REFRESH_EVERY_MS_MIN. A share's private key is dropped with its exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.errors import HandshakeError
from mycomesh.mesh.primitives import KEY_BYTES, agree, draw, static_public

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REFRESH_EVERY_MS_MIN", "REFRESH_MS", "KeyRefresh"]

REFRESH_MS = 3_600_000  # a stolen key is useful for at most this long; two X25519 operations an hour cost nothing
REFRESH_EVERY_MS_MIN = 60_000  # a peer that asks more often only makes this node compute


class KeyRefresh:
    """The state of one connection's exchange. `shared` is the agreed secret until both directions use it."""

    __slots__ = ("_entropy", "_last_request_ms", "_private", "shared")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._private = b""
        self._last_request_ms: int | None = None
        self.shared = b""

    @property
    def awaiting_reply(self) -> bool:
        """Whether this side has sent its share and waits for the peer's."""
        return bool(self._private)

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        return bool(self._private or self.shared)

    def request(self) -> bytes:
        """Begin an exchange and return this side's share, an X25519 public key."""
        assert not self.busy
        self._private = draw(self._entropy, KEY_BYTES)
        return static_public(self._private)

    def on_request(self, public: bytes, now_ms: int) -> bytes:
        """Return this side's share in reply to the peer's; HandshakeError for an early request or a low-order point."""
        early = self._last_request_ms is not None and now_ms - self._last_request_ms < REFRESH_EVERY_MS_MIN
        if early or self.busy:
            raise HandshakeError("the peer requests new keys too often")
        self._last_request_ms = now_ms
        private = draw(self._entropy, KEY_BYTES)
        self.shared = agree(private, public)
        return static_public(private)

    def on_reply(self, public: bytes) -> bytes:
        """Return the secret agreed with the peer's share; HandshakeError if the share is not a valid public key."""
        self.shared = agree(self._private, public)
        self._private = b""
        return self.shared

    def take_shared(self) -> bytes:
        """Return the secret for the second direction and forget it; HandshakeError if nothing was agreed."""
        if not self.shared:
            raise HandshakeError("the peer switches to keys that were never agreed")
        shared, self.shared = self.shared, b""
        return shared
