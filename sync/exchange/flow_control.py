"""What bounds the work for one peer: bytes under way, and how often it may ask.

Owns two small counters. What always holds: at most a window and one message are unacknowledged; an allowance is used no
faster than it comes back. It must not know what is sent or asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync.codec import require

__all__ = ["WINDOW_BYTES", "SendWindow", "TokenBucket"]

# Enough under way to fill a fast link while the peer applies, little enough to bound a slow peer's memory and ours.
WINDOW_BYTES = 1 << 20


@dataclass(slots=True)
class SendWindow:
    """Bytes of rows sent on one link and not yet acknowledged as applied."""

    unacked: int = 0

    @property
    def has_room(self) -> bool:
        """True if one more message may be sent: a message larger than the window goes alone."""
        return self.unacked < WINDOW_BYTES

    def record_sent(self, size: int) -> None:
        """That many bytes of rows are under way."""
        self.unacked += size

    def on_ack(self, size: int) -> None:
        """The peer has applied that many bytes; raises `DecodeError` if it never got them."""
        require(size <= self.unacked, "acknowledges more than was sent")
        self.unacked -= size


@dataclass(slots=True)
class TokenBucket:
    """So many requests at once, and one more each `period_ms`."""

    burst: int
    period_ms: int
    used: int = 0
    since_ms: int = 0

    def take(self, now_ms: int) -> bool:
        """Use one; false if there is none left."""
        returned = (now_ms - self.since_ms) // self.period_ms
        if returned >= self.used:
            self.used, self.since_ms = 0, now_ms
        else:
            self.used -= returned
            self.since_ms += returned * self.period_ms
        if self.used >= self.burst:
            return False
        self.used += 1
        return True
