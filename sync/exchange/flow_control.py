"""Flow control for one link: a send window of unacknowledged bytes, and a token bucket for the peer's requests.

The window follows the link's speed, as far as acknowledgements show it: what waits in the queues of a slow link is a second or
two old. Rows that are superseded meanwhile are then read after that, and never sent.

Invariant: at most one window and one message are unacknowledged, and requests pass no faster than the bucket refills.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from mycomesh.sync.codec import require

__all__ = ["WINDOW_BYTES", "WINDOW_FIRST", "WINDOW_MIN", "SendWindow", "TokenBucket"]

# Large enough that a fast link stays full while the peer applies rows. Small enough to bound the memory that a slow peer
# costs on both sides.
WINDOW_BYTES = 1 << 20
WINDOW_MIN = 16 << 10  # it takes 16 s on a radio with 1 kB/s; smaller chunks compress worse
# At first, where no budget says that the link is slow. Twice as much would put a minute of rows into the queue of a radio.
WINDOW_FIRST = 32 << 10
# A message is acknowledged after the way there and back, which the fastest one shows, and what it waits for others. A shorter
# wait doubles the window, a longer one halves it.
FAST_MS = 1_000
SLOW_MS = 2_000


@dataclass(slots=True)
class SendWindow:
    """Bytes of rows that were sent on one link and that the peer has not acknowledged as applied."""

    unacked: int = 0
    size: int = WINDOW_MIN
    _least_ms: int = 1 << 31  # the shortest time that a message took
    _adapted_ms: int = 0
    _sent: deque[tuple[int, int]] = field(
        default_factory=deque
    )  # (bytes that are not acknowledged, when sent), in order

    @property
    def has_room(self) -> bool:
        """True if one more message may be sent, even one that is larger than the rest of the window."""
        return self.unacked < min(self.size, WINDOW_BYTES)

    @property
    def waiting_since(self) -> int | None:
        """When the first message that is not acknowledged was sent; None if all are."""
        return self._sent[0][1] if self._sent else None

    def record_sent(self, size: int, now_ms: int) -> None:
        """Count `size` bytes of rows as sent."""
        self.unacked += size
        self._sent.append((size, now_ms))

    def on_ack(self, size: int, now_ms: int) -> None:
        """Release `size` bytes that the peer has applied; raise `DecodeError` if so many were not sent."""
        require(size <= self.unacked, "acknowledges more than was sent")
        self.unacked -= size
        while size:
            first, at_ms = self._sent.popleft()
            if first > size:
                self._sent.appendleft((first - size, at_ms))
                break
            size -= first
            self._adapt(at_ms, now_ms)

    def _adapt(self, sent_ms: int, now_ms: int) -> None:
        took_ms = now_ms - sent_ms
        self._least_ms = min(self._least_ms, took_ms)
        if sent_ms < self._adapted_ms:
            return  # it says nothing about the window as it is
        if took_ms > self._least_ms + SLOW_MS:
            self.size = max(WINDOW_MIN, self.size // 2)
        elif took_ms < self._least_ms + FAST_MS:
            self.size = min(WINDOW_BYTES, self.size * 2)
        self._adapted_ms = now_ms


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
