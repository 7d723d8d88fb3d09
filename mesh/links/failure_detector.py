"""Is the peer of one link alive, how far is it away, and what does its clock say?

Owns the figures of one link: silence, round-trip time, clock offset. Phi accrual (Hayashibara et al. 2004): the
threshold is not a fixed time but an improbability under the gaps seen so far, so a lossy radio gets more patience than
a cable. What always holds: any traffic counts as a sign of life; an idle link carries one Ping and one Pong a
heartbeat; a peer that dies on a quiet, regular link is noticed within 3 s at a heartbeat of 1 s. Must not know:
sessions, members.

Before a peer is given up it is probed several times a second: each probe and its answer are one more segment behind the
lost one, so TCP repairs the loss at once (RFC 8985) instead of waiting for its own timer.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from mycomesh.mesh.messages import Ping, Pong

__all__ = ["FailureDetector", "LinkMetrics"]

PHI_DEAD = 8.0  # one false death in 10^8 gaps, if gaps were normal (section 4.4 of the paper)
SAMPLES_MAX = 64  # gaps remembered: a minute of an idle link
DEVIATION_MIN = 0.28  # of a heartbeat; with PHI_DEAD it makes 2.6 heartbeats on a perfect link
DEAD_MAX = 10  # heartbeats after which even the most irregular link is given up
PROBE_AFTER = 1.3  # heartbeats of silence after which probing begins: an ordinary gap and its jitter
PROBE_EVERY = 0.25  # heartbeats between probes: five of them before the earliest death
MEASURE_EVERY = 30  # heartbeats between pings on a link that is never idle: round trip and offset stay fresh
PINGS_MAX = 16  # unanswered pings remembered, for their times
# A peer's clock that goes apart from ours by so much between two samples was set: the old samples say nothing.
SET_MS = 5_000
OFFSETS_MAX = 8  # clock samples; the one of the shortest round trip is the best (RFC 5905, section 10)


@dataclass(frozen=True, slots=True)
class LinkMetrics:
    """The figures of one link. Milliseconds; None before the first Pong. `offset_ms` is peer's clock minus ours."""

    rtt_ms: float | None
    offset_ms: float | None
    silent_ms: int


class FailureDetector:
    """One link's heart. Its owner tells it what was heard and sent, and asks it at `deadline()` what to do."""

    __slots__ = (
        "_apart_ms",
        "_clock_samples",
        "_gap_law",
        "_gaps",
        "_heartbeat_ms",
        "_pinged_ms",
        "_pings",
        "_received_ms",
        "_rtt_ms",
        "_sent_ms",
        "_token",
    )

    def __init__(self, now_ms: int, *, heartbeat_ms: int) -> None:
        self._heartbeat_ms: Final = heartbeat_ms
        self._received_ms = now_ms
        self._sent_ms = now_ms
        self._pinged_ms = now_ms
        self._token = 0
        self._pings: dict[int, int] = {}  # token -> when it was sent
        self._gaps: deque[int] = deque(maxlen=SAMPLES_MAX)
        self._gap_law = self._fit_gaps()
        self._rtt_ms: float | None = None
        # (round trip, the peer's clock less our monotonic one: what is clock_ms of a peer outlives our own clock's being set)
        self._clock_samples: deque[tuple[int, float]] = deque(maxlen=OFFSETS_MAX)
        self._apart_ms = 0  # our wall clock less our monotonic one, when it was read last

    def record_received(self, now_ms: int) -> None:
        """Bytes of the peer arrived."""
        gap = now_ms - self._received_ms
        # Gaps within busy spells say nothing about how long an idle link may be silent.
        if 2 * gap >= self._heartbeat_ms:
            self._gaps.append(gap)
            self._gap_law = self._fit_gaps()
        self._received_ms = now_ms

    def record_sent(self, now_ms: int) -> None:
        """Something was written to the peer, which is its sign of life from us."""
        self._sent_ms = now_ms

    def make_ping(self, now_ms: int, wall_ms: int) -> Ping:
        """A Ping to send at once."""
        self._token = (self._token + 1) & 0xFFFF_FFFF
        self._pings[self._token] = now_ms
        self._apart_ms = wall_ms - now_ms
        if len(self._pings) > PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        self._pinged_ms = now_ms
        return Ping(self._token)

    def on_pong(self, pong: Pong, now_ms: int) -> None:
        """A Pong arrived; one that answers nothing of ours is ignored."""
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
        """Whether a Ping should be sent: nothing was said for a heartbeat, or the peer is suspiciously silent."""
        return now_ms >= self._ping_ms()

    def is_dead(self, now_ms: int) -> bool:
        """Whether the peer's silence can no longer be explained."""
        return now_ms - self._received_ms >= self._dead_after_ms()

    def deadline(self) -> int:
        """When to ask `due` and `dead` again."""
        return min(self._ping_ms(), self._received_ms + self._dead_after_ms())

    def phi(self, now_ms: int) -> float:
        """The suspicion: -log10 of the probability that a living peer is silent for so long."""
        mean, deviation = self._gap_law
        later = 0.5 * math.erfc((now_ms - self._received_ms - mean) / deviation / math.sqrt(2))
        return -math.log10(later) if later > 0 else math.inf

    def metrics(self, now_ms: int) -> LinkMetrics:
        """What people and link-state records see."""
        return LinkMetrics(self._rtt_ms, self.offset_ms(self._apart_ms), now_ms - self._received_ms)

    def offset_ms(self, apart_ms: int) -> float | None:
        """The peer's clock less ours, which shows so much more than our monotonic one; None before the first Pong."""
        best = min(self._clock_samples, default=None)
        return None if best is None else best[1] - apart_ms

    def _ping_ms(self) -> int:
        beat = self._heartbeat_ms
        idle = max(self._sent_ms, self._pinged_ms) + beat
        probe = max(self._received_ms + int(PROBE_AFTER * beat), self._pinged_ms + int(PROBE_EVERY * beat))
        return min(idle, probe, self._pinged_ms + MEASURE_EVERY * beat)

    def _dead_after_ms(self) -> int:
        mean, deviation = self._gap_law
        return min(int(mean + _QUANTILE_DEAD * deviation), DEAD_MAX * self._heartbeat_ms)

    def _fit_gaps(self) -> tuple[float, float]:
        """Mean and deviation of the gaps; before there are any, one heartbeat is the mean."""
        beat = float(self._heartbeat_ms)
        count = len(self._gaps) + 1  # the prior counts as one sample
        mean = (sum(self._gaps) + beat) / count
        variance = (sum((gap - mean) ** 2 for gap in self._gaps) + (beat - mean) ** 2) / count
        # A mean above the heartbeat is what loss makes of it; a mean below it is no reason to be less patient.
        return max(mean, beat), max(math.sqrt(variance), DEVIATION_MIN * beat)


def _quantile(phi: float) -> float:
    """How many deviations above the mean a normal gap exceeds with probability 10^-phi (by bisection)."""
    low, high = 0.0, 40.0
    for _ in range(64):
        middle = (low + high) / 2
        if 0.5 * math.erfc(middle / math.sqrt(2)) > 10**-phi:
            low = middle
        else:
            high = middle
    return high


_QUANTILE_DEAD = _quantile(PHI_DEAD)
