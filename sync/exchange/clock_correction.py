"""Clock correction: stamps use the mesh's time, and stamps from a clock that was ahead are replaced (design.md section 4, "HLC").

If the mesh agrees that this machine's clock was ahead, peers refuse the stamps that lie in the future, and every later stamp
with them. The replica then continues under a new site and stamps those writes again (ADR 0022).

Invariant: a stamp is replaced only if at least two clocks agree on the time, and only if no peer is known to cover it.
"""

from __future__ import annotations

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import hlc_from_ms, ms_from_hlc
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.events import TimeKnown
from mycomesh.sync.exchange.acknowledgements import REPLY_MS_MAX, Acknowledgements
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica

__all__ = ["ClockCorrection"]

# If the wall clock moved this far against the monotonic clock, somebody has set it or the machine has slept. A correction
# from before that is obsolete.
STEP_MS = 5_000
# A site that replaced another one is kept at least this long, whatever the clocks say. The time doubles with each site.
SITE_MS = 60_000
# How often the highest covered clock is stored, at most.
RECORD_MS = 60_000
_META_KEY = "taken"


class ClockCorrection:
    """The time that one replica stamps with."""

    def __init__(self, replica: Replica, acknowledgements: Acknowledgements, config: ExchangeConfig) -> None:
        self._replica = replica
        self._acknowledgements = acknowledgements
        self._config = config
        self._time = TimeKnown(0, confirmed=False, apart_ms=0)
        self._apart_ms = 0  # wall time minus monotonic time
        self._set_back_at: int | None = None
        self._next_site_at = 0
        self._site_ms = SITE_MS
        self._covered = _decode_covered(replica.store.meta(_META_KEY), replica.site)
        self._recorded = self._covered
        self._recorded_at = 0

    def wall_ms(self, now_ms: int, wall_ms: int) -> int:
        """Return the corrected wall time, with which this replica stamps and judges stamps."""
        self._apart_ms = wall_ms - now_ms
        return wall_ms + self.offset_ms

    def _is_current(self) -> bool:
        """Return whether the clock has run on steadily since the mesh compared it."""
        return abs(self._apart_ms - self._time.apart_ms) <= STEP_MS

    @property
    def is_confirmed(self) -> bool:
        """True if at least one other clock agrees with the corrected time."""
        return self._time.confirmed and self._is_current()

    @property
    def offset_ms(self) -> int:
        """The correction of the machine's clock in milliseconds; 0 for none."""
        return self._time.offset_ms if self._is_current() else 0

    def record_covered(self, clock: int) -> None:
        """Record that a peer covers this replica's site up to a clock in some table."""
        self._covered = max(self._covered, clock)

    def on_time(self, time: TimeKnown, turn: Turn) -> bool:
        """Take the mesh's correction of this machine's clock, for the rest of this turn too; return whether time went forward."""
        self._time, before_ms = time, turn.wall_ms
        turn.wall_ms = self.wall_ms(turn.now_ms, turn.now_ms + self._apart_ms)
        self.check(turn)
        return turn.wall_ms > before_ms

    def next_deadline(self) -> int | None:
        """Return when `check` is due."""
        return self._set_back_at

    def check(self, turn: Turn) -> None:
        """If this replica's stamps are ahead of the mesh, ask peers how far they cover them; later replace the other stamps."""
        if self._covered > self._recorded and turn.now_ms >= self._recorded_at:
            self._record(turn)
        if not self.is_confirmed or not self._replica.outbox.is_ahead(turn.wall_ms):
            self._set_back_at = None
        elif self._set_back_at is None:
            self._acknowledgements.request_coverage(turn)
            self._set_back_at = max(turn.now_ms + REPLY_MS_MAX, self._next_site_at)
        elif turn.now_ms >= self._set_back_at:
            self._set_back(turn)

    def _set_back(self, turn: Turn) -> None:
        self._set_back_at = turn.now_ms + self._config.busy_ms  # after an error of the file
        ahead_s = (ms_from_hlc(self._replica.noted[1]) - turn.wall_ms) // 1000
        after = max(hlc_from_ms(turn.wall_ms), self._acknowledgements.highest_covered, self._covered)
        self._replica.outbox.set_clock_back(after, turn.wall_ms)
        self._set_back_at = None
        self._next_site_at, self._site_ms = turn.now_ms + self._site_ms, 2 * self._site_ms
        self._covered = self._recorded = 0  # no peer covers the new site yet
        site = self._replica.site.hex()
        text = (
            f"this node's clock was {ahead_s:,} s ahead of the mesh: writes that no peer has accepted"
            f" get fresh stamps under the new site {site}"
        )
        turn.notify("site.set_back", text, {"site": site, "ahead_s": ahead_s}, "warning")
        turn.changed = True

    def _record(self, turn: Turn) -> None:
        self._recorded_at = turn.now_ms + RECORD_MS
        self._replica.store.remember(_META_KEY, codec.encode([self._replica.site, self._covered]))
        self._recorded = self._covered


def _decode_covered(stored: object, own: bytes) -> int:
    """Return the clock that `_record` stored for the site `own`; 0 if it is missing, of another site, or edited by hand."""
    if not isinstance(stored, bytes):
        return 0
    try:
        value = codec.decode(stored, bytes_max=len(stored))
    except DecodeError:
        return 0
    return value[1] if codec.is_array(value, 2) and value[0] == own and codec.is_int(value[1]) else 0
