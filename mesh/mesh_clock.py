"""What time the mesh has, and whether this node's clock is wrong.

Owns that judgement, from the clock offsets of the linked members. What always holds: mesh time is a median, so no single
member can move it; a clock is called wrong once, and once right again. Must not know: links, how offsets are measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.events import Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["UNSET_MS", "WRONG_MS", "MeshClock", "MeshTime", "clock_warning", "mesh_offset_ms", "mesh_time"]

CONFIRM_MS = 5_000  # a difference is set_clocks when it has stood so long: the first peer that is met may be the one who is wrong
WRONG_MS = 10_000  # no radio is so slow, and others refuse writes of a clock that is 60 s ahead (sync.admission)

UNSET_MS = 1_577_836_800_000  # 2020: a clock that shows less was never set since its machine has power


@dataclass(frozen=True, slots=True)
class MeshTime:
    """How to correct this node's clock, 0 where it is right or nobody knows; whether two clocks at least agree on the time.

    It holds while our clock shows `apart_ms` more than the monotonic one, as it did when this was judged.
    """

    offset_ms: int = 0
    confirmed: bool = False
    apart_ms: int = 0


def mesh_time(offsets_ms: Sequence[float], now_ms: int, wall_ms: int) -> MeshTime:
    """What our clock at `wall_ms`, `now_ms` by the monotonic one, and those of the linked members, so far from it, say of time.

    Clocks that were never set do not count beside others; where no clock was ever set, the latest counts. Else a clock is
    corrected only where two agree: by one alone that is years ahead, a node would take stamps that no other takes.
    """
    clocks = sorted((0.0, *offsets_ms))
    set_clocks = [clock for clock in clocks if wall_ms + clock >= UNSET_MS]
    if not set_clocks:
        return MeshTime(_correction(clocks[-1]), apart_ms=wall_ms - now_ms)
    middle = _median(set_clocks)
    confirmed = sum(abs(clock - middle) <= WRONG_MS for clock in set_clocks) > 1
    return MeshTime(_correction(middle) if confirmed else 0, confirmed, wall_ms - now_ms)


def _median(clocks: Sequence[float]) -> float:
    """The middle of sorted offsets; of two the one nearer to our clock."""
    return min(clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2], key=abs)


def _correction(offset_ms: float) -> int:
    return round(offset_ms) if abs(offset_ms) > WRONG_MS else 0


def mesh_offset_ms(offsets_ms: Sequence[float]) -> float | None:
    """Mesh time minus ours: the median of our clock and the peers'; None where nobody is linked.

    Of two middle values the one nearer to ours counts: half of the mesh is not enough to call our clock wrong. With one
    peer alone it is the difference to that one.
    """
    if len(offsets_ms) < 2:
        return offsets_ms[0] if offsets_ms else None
    return _median(sorted((0.0, *offsets_ms)))


class MeshClock:
    """Judges this node's clock at each measurement.

    `offset_ms` is mesh time minus ours, `time` what to make of it, `wrong` the clock_warning if there is one.
    """

    __slots__ = ("_since_ms", "offset_ms", "time", "warning")

    def __init__(self) -> None:
        self._since_ms: int | None = None  # since when the clock seems wrong
        self.warning = ""
        self.offset_ms: float | None = None
        self.time = MeshTime()

    def update(self, offsets_ms: Sequence[float], now_ms: int, wall_ms: int) -> list[Notice]:
        """Take the linked members' offsets (their clock minus ours); what there is to tell, if anything."""
        self.time = mesh_time(offsets_ms, now_ms, wall_ms)
        self.offset_ms = offset_ms = mesh_offset_ms(offsets_ms)
        before, self.warning = self.warning, ""
        if offset_ms is None or abs(offset_ms) <= (WRONG_MS / 2 if before else WRONG_MS):
            self._since_ms = None
        else:
            self._since_ms = now_ms if self._since_ms is None else self._since_ms
            if before or now_ms - self._since_ms >= CONFIRM_MS:
                self.warning = clock_warning(offset_ms, len(offsets_ms))
        if bool(self.warning) == bool(before) or offset_ms is None:
            return []
        detail = {"offset_ms": round(offset_ms), "peers": len(offsets_ms)}
        if not self.warning:
            return [Notice("clock.right", "this node's clock agrees with the mesh again", detail)]
        return [Notice("clock.wrong", self.warning, detail, "warning")]


def clock_warning(offset_ms: float, peers: int) -> str:
    """One line for a person whose clock is so far from that of so many peers."""
    seconds = f"{abs(offset_ms) / 1000:,.0f} s {'behind' if offset_ms > 0 else 'ahead of'}"
    if peers == 1:
        return f"this node's clock is {seconds} its only peer's; set whichever is wrong"
    return f"this node's clock is {seconds} the mesh (median of {peers} peers); set it, or start its time service"
