"""Phi accrual failure detector of one link, with its round-trip time and the peer's clock offset.

The detector does not use a fixed timeout. It declares a peer dead once the silence is too improbable under the gaps seen so far,
so a lossy radio gets more time than a cable. Any traffic counts as a sign of life. An idle link carries one Ping and one Pong in
some two heartbeats.

A suspected peer is probed several times a second before it is declared dead. Each probe, and each reply, is one more TCP segment
behind the lost one, so TCP repairs the loss at once (RFC 8985) and does not wait for its own timer.

Invariant: a peer that dies on an idle, regular link is noticed within 3 s at a heartbeat of 1 s.

Hayashibara, Defago, Yared, Katayama: The phi accrual failure detector (2004).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from mycomesh.mesh.messages import Ping, Pong

__all__ = ["FailureDetector", "LinkMetrics"]

PHI_DEAD = 8.0  # a living peer is declared dead once in 10^8 gaps, if gaps are normally distributed (section 4.4)
SAMPLES_MAX = 64  # gaps kept: a minute of an idle link
# Heartbeats without a message to the peer after which a ping goes. Pings are most bytes of an idle link.
IDLE_AFTER = 2.09
# And this much longer at the end that got the last Ping. So the same end goes on pinging, and the other end's TCP, which has a
# reply to send after each segment, learns to send no segment for the acknowledgement alone.
REPLY_LAG = 0.05
# Of a heartbeat; with IDLE_AFTER, REPLY_LAG and PHI_DEAD it makes 2.98 heartbeats on a perfect link.
DEVIATION_MIN = 0.15
DEAD_MAX = 10  # heartbeats of silence after which a peer is dead, however irregular the link
PROBE_AFTER = 2.2  # heartbeats of silence after which probing begins: an ordinary gap and its jitter
PROBE_EVERY = 0.18  # heartbeats between probes: five of them before a peer can be declared dead
MEASURE_EVERY = 30  # heartbeats between pings on a link that is never idle, so that round trip and offset stay current
PINGS_MAX = 16  # unanswered pings whose send times are kept
# If a peer's clock jumps by more than this between two samples, somebody has set it, and the old samples are worthless.
SET_MS = 5_000
OFFSETS_MAX = 8  # clock samples kept; the one with the shortest round trip is the best (RFC 5905, section 10)


@dataclass(frozen=True, slots=True)
class LinkMetrics:
    """Measurements of one link in milliseconds, None before the first Pong. `offset_ms` is the peer's clock minus ours."""

    rtt_ms: float | None
    offset_ms: float | None
    silent_ms: int


class FailureDetector:
    """The detector of one link. Its owner records traffic, and calls `is_ping_due` and `is_dead` at `deadline()`."""

    __slots__ = (
        "_apart_ms",
        "_clock_samples",
        "_dead_after_ms",
        "_gap_stats",
        "_gaps",
        "_heartbeat_ms",
        "_pinged_ms",
        "_pings",
        "_received_ms",
        "_replies",
        "_rtt_ms",
        "_sent_ms",
        "_token",
    )

    def __init__(self, now_ms: int, *, heartbeat_ms: int) -> None:
        self._heartbeat_ms: Final = heartbeat_ms
        self._received_ms = now_ms
        self._sent_ms = now_ms
        self._replies = False  # the last Ping came from the peer
        self._pinged_ms = now_ms
        self._token = 0
        self._pings: dict[int, int] = {}  # token -> when it was sent
        self._gaps: deque[int] = deque(maxlen=SAMPLES_MAX)
        self._fit_gaps()
        self._rtt_ms: float | None = None
        # (round trip, the peer's clock minus our monotonic clock). Samples stay valid when somebody sets our own clock.
        self._clock_samples: deque[tuple[int, float]] = deque(maxlen=OFFSETS_MAX)
        self._apart_ms = 0  # our wall clock minus our monotonic clock, at the last ping

    def record_received(self, now_ms: int) -> None:
        """Record that bytes arrived from the peer."""
        gap = now_ms - self._received_ms
        # Short gaps of a busy link say nothing about how long an idle link may be silent.
        if 2 * gap >= self._heartbeat_ms:
            self._gaps.append(gap)
            self._fit_gaps()
        self._received_ms = now_ms

    def record_sent(self, now_ms: int) -> None:
        """Record that bytes were written to the peer: they show it that this node is alive."""
        self._sent_ms = now_ms

    def on_ping(self) -> None:
        """Record that the peer sent a Ping."""
        self._replies = True

    def make_ping(self, now_ms: int, wall_ms: int) -> Ping:
        """Return a Ping, which the caller must send at once."""
        self._token = (self._token + 1) & 0xFFFF_FFFF
        self._pings[self._token] = now_ms
        self._apart_ms = wall_ms - now_ms
        if len(self._pings) > PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        self._pinged_ms = now_ms
        self._replies = False
        return Ping(self._token)

    def on_pong(self, pong: Pong, now_ms: int) -> None:
        """Update the measurements from a Pong. Ignore one that replies to no recent Ping."""
        sent_ms = self._pings.pop(pong.token, None)
        if sent_ms is None:
            return
        rtt_ms = max(0, now_ms - sent_ms)
        # RFC 6298, section 2: the smoothed round-trip time with alpha = 1/8.
        self._rtt_ms = float(rtt_ms) if self._rtt_ms is None else self._rtt_ms + (rtt_ms - self._rtt_ms) / 8
        # Cristian's estimate: the peer read its clock half a round trip after we sent.
        clock_ms = pong.wall_ms - (sent_ms + rtt_ms / 2)
        if self._clock_samples and abs(clock_ms - self._clock_samples[-1][1]) > SET_MS:
            self._clock_samples.clear()
        self._clock_samples.append((rtt_ms, clock_ms))

    def is_ping_due(self, now_ms: int) -> bool:
        """Return True if a Ping is due: this node sent nothing for `IDLE_AFTER`, or the peer is suspiciously silent."""
        return now_ms >= self._ping_ms()

    def is_dead(self, now_ms: int) -> bool:
        """Return True if the peer has been silent for too long to be alive."""
        return now_ms - self._received_ms >= self._dead_after_ms

    def deadline(self) -> int:
        """Return when to call `is_ping_due` and `is_dead` again."""
        return min(self._ping_ms(), self._received_ms + self._dead_after_ms)

    def phi(self, now_ms: int) -> float:
        """Return the suspicion level: -log10 of the probability that a living peer is silent for so long."""
        mean, deviation = self._gap_stats
        later = 0.5 * math.erfc((now_ms - self._received_ms - mean) / deviation / math.sqrt(2))
        return -math.log10(later) if later > 0 else math.inf

    def metrics(self, now_ms: int) -> LinkMetrics:
        """Return the measurements for the status and for link-state records."""
        return LinkMetrics(self._rtt_ms, self.offset_ms(self._apart_ms), now_ms - self._received_ms)

    def offset_ms(self, apart_ms: int) -> float | None:
        """Return the peer's clock minus ours, None before the first Pong.

        `apart_ms` is our wall clock minus our monotonic clock.
        """
        best = min(self._clock_samples, default=None)
        return None if best is None else best[1] - apart_ms

    def _ping_ms(self) -> int:
        beat = self._heartbeat_ms
        idle = max(self._sent_ms, self._pinged_ms) + int((IDLE_AFTER + REPLY_LAG * self._replies) * beat)
        probe = max(self._received_ms + int(PROBE_AFTER * beat), self._pinged_ms + int(PROBE_EVERY * beat))
        return min(idle, probe, self._pinged_ms + MEASURE_EVERY * beat)

    def _fit_gaps(self) -> None:
        """Take mean and deviation of the gaps. An idle one counts as the first, so the values are defined from the start.

        A shorter gap counts as an idle one: traffic says nothing of how late a ping may come, and a mixture of both would
        look like a lossy link.
        """
        idle = IDLE_AFTER * self._heartbeat_ms
        gaps = [max(gap, idle) for gap in self._gaps]
        count = len(gaps) + 1  # the prior counts as one sample
        mean = (sum(gaps) + idle) / count
        variance = (sum((gap - mean) ** 2 for gap in gaps) + (idle - mean) ** 2) / count
        deviation = max(math.sqrt(variance), DEVIATION_MIN * self._heartbeat_ms)
        self._gap_stats = mean, deviation
        self._dead_after_ms = min(int(mean + _QUANTILE_DEAD * deviation), DEAD_MAX * self._heartbeat_ms)


def _quantile(phi: float) -> float:
    """Return how many deviations above the mean a normal gap is exceeded with probability 10^-phi, by bisection."""
    low, high = 0.0, 40.0
    for _ in range(64):
        middle = (low + high) / 2
        if 0.5 * math.erfc(middle / math.sqrt(2)) > 10**-phi:
            low = middle
        else:
            high = middle
    return high


_QUANTILE_DEAD = _quantile(PHI_DEAD)
