"""Mesh time, the median of the linked members' clocks, and a warning if this node's clock is wrong.

Mesh time is a median, so that no single member can move it. There is one exception: a clock that was never set follows a single
peer within the times that the mesh's root has signed, because a mesh of two has nobody else to ask.

Invariant: one notice says that the clock is wrong, and one that it is right again. See docs/adr/0022-wrong-clocks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.events import Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["UNSET_MS", "WRONG_MS", "MeshClock", "MeshTime", "clock_warning", "mesh_offset_ms", "mesh_time"]

# A difference must last this long before the node reports it: the first peer that it meets may be the one that is wrong.
# A single peer must be the only witness for as long, because the others of a mesh are met in these seconds.
CONFIRM_MS = 5_000
# No radio is so slow, and peers reject writes of a clock that is 60 s ahead (sync.replication.admission).
WRONG_MS = 10_000
# A wall clock that moved this far against the monotonic clock was set, or the machine slept: what was known of it is obsolete.
STEP_MS = 5_000
_ALL = 1 << 30  # witnesses of a confirmed time: more than a mesh has members
UNSET_MS = 1_577_836_800_000  # 2020: a clock that shows less has not been set since its machine was powered on


@dataclass(frozen=True, slots=True)
class MeshTime:
    """A correction of this node's clock. `confirmed` if at least two clocks agree on the time.

    `offset_ms` is the milliseconds to add; 0 if the clock is right, or if nobody can say. It is valid as long as the wall clock
    is `apart_ms` ahead of the monotonic clock, as it was when this was computed: a different value means that somebody set the
    wall clock since.
    """

    offset_ms: int = 0
    confirmed: bool = False
    apart_ms: int = 0


def mesh_time(offsets_ms: Sequence[float], now_ms: int, wall_ms: int) -> MeshTime:
    """Return the correction of our clock, from the offsets of the linked members' clocks (theirs minus ours).

    `wall_ms` is our clock, `now_ms` our monotonic one. Clocks that were never set are ignored if any other clock was set; if none
    was set, the latest one counts.
    """
    clocks = sorted((0.0, *offsets_ms))
    set_clocks = [clock for clock in clocks if wall_ms + clock >= UNSET_MS]
    if not set_clocks:
        return MeshTime(_correction(clocks[-1]), apart_ms=wall_ms - now_ms)
    # Two clocks must agree before we correct ours. Otherwise a single peer whose clock is years ahead would make this node accept
    # stamps that all other nodes reject.
    middle = _median(set_clocks)
    confirmed = sum(abs(clock - middle) <= WRONG_MS for clock in set_clocks) > 1
    return MeshTime(_correction(middle) if confirmed else 0, confirmed, wall_ms - now_ms)


def _median(clocks: Sequence[float]) -> float:
    """Return the middle one of sorted offsets; of two, the one nearer to our clock."""
    return min(clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2], key=abs)


def _correction(offset_ms: float) -> int:
    return round(offset_ms) if abs(offset_ms) > WRONG_MS else 0


def mesh_offset_ms(offsets_ms: Sequence[float]) -> float | None:
    """Return mesh time minus our clock: the median of our clock and the linked members' clocks; None if no member is linked.

    Of two middle values it returns the one nearer to our clock: half of the mesh is not enough to call our clock wrong. With a
    single peer it returns the difference to that peer.
    """
    if len(offsets_ms) < 2:
        return offsets_ms[0] if offsets_ms else None
    return _median(sorted((0.0, *offsets_ms)))


class MeshClock:
    """Compares this node's clock with mesh time at each measurement.

    `offset_ms` is mesh time minus our clock, `time` the correction, `warning` one line for a person while the clock is wrong.
    """

    __slots__ = ("_kept", "_since_ms", "_unsure_since_ms", "_witnesses", "offset_ms", "time", "warning")

    def __init__(self) -> None:
        self._since_ms: int | None = None  # when the clock first seemed wrong
        self._unsure_since_ms: int | None = None  # since when no two clocks agree
        self._kept = MeshTime()  # the correction in use, of this many members; two that agree count as all
        self._witnesses = 0
        self.warning = ""
        self.offset_ms: float | None = None
        self.time = MeshTime()

    def update(
        self, offsets_ms: Sequence[float], now_ms: int, wall_ms: int, signed_ms: Sequence[float] = ()
    ) -> list[Notice]:
        """Update from the offsets of the linked members' clocks (theirs minus ours); return a notice if the verdict changed.

        `signed_ms` are the offsets of those clocks that lie within the times that the mesh's root has signed.
        """
        never_set = wall_ms < UNSET_MS
        set_ms = [offset for offset in offsets_ms if wall_ms + offset >= UNSET_MS]
        if set_ms or not never_set:  # a clock that was never set says nothing about one that was
            offsets_ms = set_ms
        self.time = self._judge(offsets_ms, now_ms, wall_ms, signed_ms)
        self.offset_ms = offset_ms = mesh_offset_ms(offsets_ms)
        before, self.warning = self.warning, ""
        # A clock that was wrong must come within half of the limit, so that the verdict does not flap at the limit.
        if offset_ms is None or abs(offset_ms) <= (WRONG_MS / 2 if before else WRONG_MS):
            self._since_ms = None
        else:
            self._since_ms = now_ms if self._since_ms is None else self._since_ms
            if before or now_ms - self._since_ms >= CONFIRM_MS:
                corrected = bool(self.time.offset_ms)
                self.warning = clock_warning(offset_ms, len(offsets_ms), never_set=never_set, corrected=corrected)
        if bool(self.warning) == bool(before):
            return []
        detail = {"offset_ms": round(offset_ms or 0), "peers": len(offsets_ms)}
        if not self.warning:
            return [Notice("clock.right", "this node's clock agrees with the mesh again", detail)]
        return [Notice("clock.wrong", self.warning, detail, "warning")]

    def _judge(self, offsets_ms: Sequence[float], now_ms: int, wall_ms: int, signed_ms: Sequence[float]) -> MeshTime:
        """Return the correction: of two clocks that agree, or the one before, or of signed clocks for a clock never set.

        A correction stays while the clock runs on as it did: when most of the witnesses have left, the last one may be the one
        that is wrong.
        """
        time = mesh_time(offsets_ms, now_ms, wall_ms)
        if time.confirmed:
            self._kept, self._witnesses, self._unsure_since_ms = time, _ALL, None
            return time
        if abs(time.apart_ms - self._kept.apart_ms) > STEP_MS:
            self._witnesses = 0
        if wall_ms < UNSET_MS and len(signed_ms) >= max(self._witnesses, 1):
            self._unsure_since_ms = now_ms if self._unsure_since_ms is None else self._unsure_since_ms
            if now_ms - self._unsure_since_ms >= CONFIRM_MS:
                self._kept = MeshTime(_correction(_median(sorted(signed_ms))), apart_ms=time.apart_ms)
                self._witnesses = len(signed_ms)
        else:
            self._unsure_since_ms = None
        return self._kept if self._witnesses else time


def clock_warning(offset_ms: float, peers: int, *, never_set: bool = False, corrected: bool = False) -> str:
    """Return one line for a person: how far this node's clock is from mesh time, and what to do."""
    if never_set:
        meanwhile = "; until then it uses the time of its peers" if corrected else ""
        return f"this node's clock was never set; set it, or start its time service{meanwhile}"
    seconds = f"{abs(offset_ms) / 1000:,.0f} s {'behind' if offset_ms > 0 else 'ahead of'}"
    if peers == 1:
        return f"this node's clock is {seconds} its only peer's; set whichever is wrong"
    return f"this node's clock is {seconds} the mesh (median of {peers} peers); set it, or start its time service"
