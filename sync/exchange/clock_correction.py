"""What time it is for the stamps of one replica: its machine's clock as the mesh corrects it, and stamps of a wrong time.

Owns the correction, and the decision to stamp again what lies ahead of the mesh (design.md section 4, "HLC"): others refuse it,
and all that this clock would stamp until then. What always holds: a stamp is taken back only when two clocks at least agree on
the time, and only one that no peer is known to cover. It must not know how clocks are compared.
"""

from __future__ import annotations

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import hlc_from_ms, ms_from_hlc
from mycomesh.sync.errors import DatabaseBusyError, DecodeError
from mycomesh.sync.events import TimeKnown
from mycomesh.sync.exchange.acknowledgements import REPLY_MS_MAX, Acknowledgements
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica

__all__ = ["ClockCorrection"]

# A wall clock that has moved so much against the monotonic one was set, or the machine has slept: what was told of it is old.
STEP_MS = 5_000
# After a site is given up for its stamps the next one is kept for so long, whatever the clocks say, and each time twice as long.
SITE_MS = 60_000
# How far peers cover this site is written down at most this often.
RECORD_MS = 60_000
_FACT = "taken"


class ClockCorrection:
    """The time of one replica."""

    def __init__(self, replica: Replica, acknowledgements: Acknowledgements, config: ExchangeConfig) -> None:
        self._replica = replica
        self._acknowledgements = acknowledgements
        self._config = config
        self._time = TimeKnown(0, confirmed=False, apart_ms=0)
        self._apart_ms = 0  # wall time less monotonic time
        self._set_back_at: int | None = None
        self._next_site_at = 0
        self._site_ms = SITE_MS
        self._covered = _decode_covered(replica.recall(_FACT), replica.site)
        self._recorded = self._covered
        self._recorded_at = 0

    def wall_ms(self, now_ms: int, wall_ms: int) -> int:
        """Return the wall time to stamp with and to judge stamps by."""
        self._apart_ms = wall_ms - now_ms
        return wall_ms + (self._time.offset_ms if self._is_current() else 0)

    def _is_current(self) -> bool:
        """Whether the clock goes on as it did when it was judged."""
        return abs(self._apart_ms - self._time.apart_ms) <= STEP_MS

    def record_covered(self, clock: int) -> None:
        """A peer covers this replica's site up to a clock in some table."""
        self._covered = max(self._covered, clock)

    def on_time(self, time: TimeKnown, turn: Turn) -> None:
        """Take what the mesh says of this machine's clock; the rest of the turn goes by it."""
        self._time = time
        turn.wall_ms = self.wall_ms(turn.now_ms, turn.now_ms + self._apart_ms)
        self.check(turn)

    def next_deadline(self) -> int | None:
        """When `check` is due."""
        return self._set_back_at

    def check(self, turn: Turn) -> None:
        """Where this replica's stamps lie ahead of the mesh: asks how far peers cover them, then stamps the rest again."""
        if self._covered > self._recorded and turn.now_ms >= self._recorded_at:
            self._record(turn)
        if not (self._time.confirmed and self._is_current()) or not self._replica.ahead(turn.wall_ms):
            self._set_back_at = None
        elif self._set_back_at is None:
            self._acknowledgements.request_coverage(turn)
            self._set_back_at = max(turn.now_ms + REPLY_MS_MAX, self._next_site_at)
        elif turn.now_ms >= self._set_back_at:
            self._set_back(turn)

    def _set_back(self, turn: Turn) -> None:
        self._set_back_at = None
        ahead_s = (ms_from_hlc(self._replica.noted[1]) - turn.wall_ms) // 1000
        after = max(hlc_from_ms(turn.wall_ms), self._acknowledgements.highest_covered, self._covered)
        try:
            self._replica.set_back(after, turn.wall_ms)
        except DatabaseBusyError:
            self._set_back_at = turn.now_ms + self._config.busy_ms
            return
        self._next_site_at, self._site_ms = turn.now_ms + self._site_ms, 2 * self._site_ms
        self._covered = self._recorded = 0  # of the new site
        site = self._replica.site.hex()
        text = (
            f"this node's clock was {ahead_s:,} s ahead of the mesh: what it wrote meanwhile, and nobody took,"
            f" is stamped again under the new site {site}"
        )
        turn.notify("site.set_back", text, {"site": site, "ahead_s": ahead_s}, "warning")
        turn.changed = True

    def _record(self, turn: Turn) -> None:
        self._recorded_at = turn.now_ms + RECORD_MS
        try:
            self._replica.remember(_FACT, codec.encode([self._replica.site, self._covered]))
        except DatabaseBusyError:
            return
        self._recorded = self._covered


def _decode_covered(stored: object, own: bytes) -> int:
    """Return how far peers were known to cover the site; 0 of another one, or where another hand has been at it."""
    if not isinstance(stored, bytes):
        return 0
    try:
        value = codec.decode(stored, bytes_max=len(stored))
    except DecodeError:
        return 0
    return value[1] if codec.is_array(value, 2) and value[0] == own and codec.is_int(value[1]) else 0
