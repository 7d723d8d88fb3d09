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

__all__ = ["FailureDetector", "Pulse"]

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
class Pulse:
    """The figures of one link. Milliseconds; None before the first Pong. `offset_ms` is peer's clock minus ours."""

    rtt_ms: float | None
    offset_ms: float | None
    silent_ms: int


class FailureDetector:
    """One link's heart. Its owner tells it what was heard and sent, and asks it at `deadline()` what to do."""

    __slots__ = (
        "_apart_ms",
        "_beat_ms",
        "_gaps",
        "_heard_ms",
        "_law",
        "_pinged_ms",
        "_pings",
        "_rtt_ms",
        "_sent_ms",
        "_token",
        "_told",
    )

    def __init__(self, now_ms: int, *, heartbeat_ms: int) -> None:
        self._beat_ms: Final = heartbeat_ms
        self._heard_ms = now_ms
        self._sent_ms = now_ms
        self._pinged_ms = now_ms
        self._token = 0
        self._pings: dict[int, int] = {}  # token -> when it was sent
        self._gaps: deque[int] = deque(maxlen=SAMPLES_MAX)
        self._law = self._gap_law()
        self._rtt_ms: float | None = None
        # (round trip, the peer's clock less our monotonic one: what is told of a peer outlives our own clock's being set)
        self._told: deque[tuple[int, float]] = deque(maxlen=OFFSETS_MAX)
        self._apart_ms = 0  # our wall clock less our monotonic one, when it was read last

    def heard(self, now_ms: int) -> None:
        """Bytes of the peer arrived."""
        gap = now_ms - self._heard_ms
        # Gaps within busy spells say nothing about how long an idle link may be silent.
        if 2 * gap >= self._beat_ms:
            self._gaps.append(gap)
            self._law = self._gap_law()
        self._heard_ms = now_ms

    def sent(self, now_ms: int) -> None:
        """Something was written to the peer, which is its sign of life from us."""
        self._sent_ms = now_ms

    def ping(self, now_ms: int, wall_ms: int) -> Ping:
        """A Ping to send at once."""
        self._token = (self._token + 1) & 0xFFFF_FFFF
        self._pings[self._token] = now_ms
        self._apart_ms = wall_ms - now_ms
        if len(self._pings) > PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        self._pinged_ms = now_ms
        return Ping(self._token)

    def answered(self, pong: Pong, now_ms: int) -> None:
        """A Pong arrived; one that answers nothing of ours is ignored."""
        sent_ms = self._pings.pop(pong.token, None)
        if sent_ms is None:
            return
        rtt_ms = max(0, now_ms - sent_ms)
        # RFC 6298, section 2: the smoothed round-trip time with alpha = 1/8.
        self._rtt_ms = float(rtt_ms) if self._rtt_ms is None else self._rtt_ms + (rtt_ms - self._rtt_ms) / 8
        # Cristian's estimate: the peer read its clock half a round trip after we sent.
        told = pong.wall_ms - (sent_ms + rtt_ms / 2)
        if self._told and abs(told - self._told[-1][1]) > SET_MS:
            self._told.clear()
        self._told.append((rtt_ms, told))

    def due(self, now_ms: int) -> bool:
        """Whether a Ping should be sent: nothing was said for a heartbeat, or the peer is suspiciously silent."""
        return now_ms >= self._ping_ms()

    def dead(self, now_ms: int) -> bool:
        """Whether the peer's silence can no longer be explained."""
        return now_ms - self._heard_ms >= self._dead_after_ms()

    def deadline(self) -> int:
        """When to ask `due` and `dead` again."""
        return min(self._ping_ms(), self._heard_ms + self._dead_after_ms())

    def phi(self, now_ms: int) -> float:
        """The suspicion: -log10 of the probability that a living peer is silent for so long."""
        mean, deviation = self._law
        later = 0.5 * math.erfc((now_ms - self._heard_ms - mean) / deviation / math.sqrt(2))
        return -math.log10(later) if later > 0 else math.inf

    def pulse(self, now_ms: int) -> Pulse:
        """What people and link-state records see."""
        return Pulse(self._rtt_ms, self.offset_ms(self._apart_ms), now_ms - self._heard_ms)

    def offset_ms(self, apart_ms: int) -> float | None:
        """The peer's clock less ours, which shows so much more than our monotonic one; None before the first Pong."""
        best = min(self._told, default=None)
        return None if best is None else best[1] - apart_ms

    def _ping_ms(self) -> int:
        beat = self._beat_ms
        idle = max(self._sent_ms, self._pinged_ms) + beat
        probe = max(self._heard_ms + int(PROBE_AFTER * beat), self._pinged_ms + int(PROBE_EVERY * beat))
        return min(idle, probe, self._pinged_ms + MEASURE_EVERY * beat)

    def _dead_after_ms(self) -> int:
        mean, deviation = self._law
        return min(int(mean + _QUANTILE_DEAD * deviation), DEAD_MAX * self._beat_ms)

    def _gap_law(self) -> tuple[float, float]:
        """Mean and deviation of the gaps; before there are any, one heartbeat is the mean."""
        beat = float(self._beat_ms)
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
