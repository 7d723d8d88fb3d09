"""Flow control for one link: a send window of unacknowledged bytes, and a token bucket for the peer's requests.

Invariant: at most one window and one message are unacknowledged, and requests pass no faster than the bucket refills.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync.codec import require

__all__ = ["WINDOW_BYTES", "SendWindow", "TokenBucket"]

# Large enough that a fast link stays full while the peer applies rows. Small enough to bound the memory that a slow peer
# costs on both sides.
WINDOW_BYTES = 1 << 20


@dataclass(slots=True)
class SendWindow:
    """Bytes of rows that were sent on one link and that the peer has not acknowledged as applied."""

    unacked: int = 0

    @property
    def has_room(self) -> bool:
        """True if one more message may be sent, even one that is larger than the rest of the window."""
        return self.unacked < WINDOW_BYTES

    def record_sent(self, size: int) -> None:
        """Count `size` bytes of rows as sent."""
        self.unacked += size

    def on_ack(self, size: int) -> None:
        """Release `size` bytes that the peer has applied; raise `DecodeError` if so many were not sent."""
        require(size <= self.unacked, "acknowledges more than was sent")
        self.unacked -= size


@dataclass(slots=True)
class TokenBucket:
    """A rate limit: `burst` requests at once, and one more every `period_ms`."""

    burst: int
    period_ms: int
    used: int = 0
    since_ms: int = 0

    def take(self, now_ms: int) -> bool:
        """Use one token; return False if the bucket is empty."""
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
