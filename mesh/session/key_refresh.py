"""New keys for a connection that stands: one more Diffie-Hellman, while traffic goes on.

Owns the shares of one exchange. Rekeying by count (Noise section 11.3) is a one-way function of the key: it protects what was
sent before, but whoever once has a key has every later one. Here each direction's next key needs the one before
and a secret that both ends have just drawn, so a key that leaked is worth nothing afterwards, and the handshake's keys are
gone. The frames are sealed, so no stranger takes part. What always holds: one exchange at a time, begun by the side that
dialled, not more often than REFRESH_EVERY_MS_MIN; a share is dropped with its exchange. Must not know: frames, links.

    dialled side                              other side
    share ->                                             under the old keys
             <- share                                    its last frame under its old key
    nothing ->                                           this side's last frame under its old key
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.errors import HandshakeError
from mycomesh.mesh.primitives import KEY_BYTES, agree, draw, static_public

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REFRESH_EVERY_MS_MIN", "REFRESH_MS", "KeyRefresh"]

REFRESH_MS = 3_600_000  # what a stolen key is good for, at most; two X25519 an hour cost nothing
REFRESH_EVERY_MS_MIN = 60_000  # a peer that asks more often makes us work


class KeyRefresh:
    """The state of one connection's exchange. `shared` is what was agreed and is not used in both directions yet."""

    __slots__ = ("_answered_ms", "_entropy", "_private", "shared")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._private = b""
        self._answered_ms: int | None = None
        self.shared = b""

    @property
    def asked(self) -> bool:
        """Whether our share is out and the other one is not here."""
        return bool(self._private)

    @property
    def busy(self) -> bool:
        """Whether an exchange goes on."""
        return bool(self._private or self.shared)

    def ask(self) -> bytes:
        """Our share, to begin with."""
        assert not self.busy
        self._private = draw(self._entropy, KEY_BYTES)
        return static_public(self._private)

    def answer(self, public: bytes, now_ms: int) -> bytes:
        """Our share for theirs; HandshakeError if they ask too early, or with a point of low order."""
        early = self._answered_ms is not None and now_ms - self._answered_ms < REFRESH_EVERY_MS_MIN
        if early or self.busy:
            raise HandshakeError("the peer asks for new keys again and again")
        self._answered_ms = now_ms
        private = draw(self._entropy, KEY_BYTES)
        self.shared = agree(private, public)
        return static_public(private)

    def agreed(self, public: bytes) -> bytes:
        """The secret, once their share is here; HandshakeError if it is none."""
        self.shared = agree(self._private, public)
        self._private = b""
        return self.shared

    def taken(self) -> bytes:
        """The secret for the second direction; it is forgotten. HandshakeError if nothing was agreed."""
        if not self.shared:
            raise HandshakeError("the peer changes to keys that nobody has agreed on")
        shared, self.shared = self.shared, b""
        return shared
