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
from mycomesh.sync.exchange.acknowledgements import SILENT_MS, Acknowledgements
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica

__all__ = ["ClockCorrection"]

# A wall clock that has moved so much against the monotonic one was set, or the machine has slept: what was told of it is old.
SET_MS = 5_000
# After a site is given up for its stamps the next one is kept for so long, whatever the clocks say, and each time twice as long.
REST_MS = 60_000
# How far peers cover this site is written down at most this often.
NOTED_MS = 60_000
_FACT = "taken"


class ClockCorrection:
    """The time of one replica."""

    def __init__(self, replica: Replica, reaching: Acknowledgements, config: ExchangeConfig) -> None:
        self._replica = replica
        self._reaching = reaching
        self._config = config
        self._told = TimeKnown(0, confirmed=False, apart_ms=0)
        self._apart_ms = 0  # wall time less monotonic time
        self._set_back_at: int | None = None
        self._rested_at = 0
        self._rest_ms = REST_MS
        self._taken = _recalled(replica.recall(_FACT), replica.site)
        self._noted = self._taken
        self._noted_at = 0

    def wall_ms(self, now_ms: int, wall_ms: int) -> int:
        """Return the wall time to stamp with and to judge stamps by."""
        self._apart_ms = wall_ms - now_ms
        return wall_ms + (self._told.offset_ms if self._stands() else 0)

    def _stands(self) -> bool:
        """Whether the clock goes on as it did when it was judged."""
        return abs(self._apart_ms - self._told.apart_ms) <= SET_MS

    def taken(self, clock: int) -> None:
        """A peer covers this replica's site up to a clock in some table."""
        self._taken = max(self._taken, clock)

    def told(self, time: TimeKnown, turn: Turn) -> None:
        """Take what the mesh says of this machine's clock; the rest of the turn goes by it."""
        self._told = time
        turn.wall_ms = self.wall_ms(turn.now_ms, turn.now_ms + self._apart_ms)
        self.look(turn)

    def next_deadline(self) -> int | None:
        """When `look` is due."""
        return self._set_back_at

    def look(self, turn: Turn) -> None:
        """Where this replica's stamps lie ahead of the mesh: asks how far peers cover them, then stamps the rest again."""
        if self._taken > self._noted and turn.now_ms >= self._noted_at:
            self._note(turn)
        if not (self._told.confirmed and self._stands()) or not self._replica.ahead(turn.wall_ms):
            self._set_back_at = None
        elif self._set_back_at is None:
            self._reaching.ask(turn)
            self._set_back_at = max(turn.now_ms + SILENT_MS, self._rested_at)
        elif turn.now_ms >= self._set_back_at:
            self._set_back(turn)

    def _set_back(self, turn: Turn) -> None:
        self._set_back_at = None
        ahead_s = (ms_from_hlc(self._replica.noted[1]) - turn.wall_ms) // 1000
        after = max(hlc_from_ms(turn.wall_ms), self._reaching.furthest, self._taken)
        try:
            self._replica.set_back(after, turn.wall_ms)
        except DatabaseBusyError:
            self._set_back_at = turn.now_ms + self._config.busy_ms
            return
        self._rested_at, self._rest_ms = turn.now_ms + self._rest_ms, 2 * self._rest_ms
        self._taken = self._noted = 0  # of the new site
        site = self._replica.site.hex()
        text = (
            f"this node's clock was {ahead_s:,} s ahead of the mesh: what it wrote meanwhile, and nobody took,"
            f" is stamped again under the new site {site}"
        )
        turn.say("site.set_back", text, {"site": site, "ahead_s": ahead_s}, "warning")
        turn.changed = True

    def _note(self, turn: Turn) -> None:
        self._noted_at = turn.now_ms + NOTED_MS
        try:
            self._replica.remember(_FACT, codec.encode([self._replica.site, self._taken]))
        except DatabaseBusyError:
            return
        self._noted = self._taken


def _recalled(stored: object, own: bytes) -> int:
    """Return how far peers were known to cover the site; 0 of another one, or where another hand has been at it."""
    if not isinstance(stored, bytes):
        return 0
    try:
        value = codec.decode(stored, bytes_max=len(stored))
    except DecodeError:
        return 0
    return value[1] if codec.is_array(value, 2) and value[0] == own and codec.is_int(value[1]) else 0
