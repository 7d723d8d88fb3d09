"""What time the mesh has, and whether this node's clock is wrong.

Owns one judgement, from the clock offsets of the linked members. What always holds: mesh time is a median, so no single
member can move it; a clock is called wrong once, and once right again. Must not know: links, how offsets are measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.events import Notice

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WRONG_MS", "Timekeeper", "complaint", "mesh_offset_ms"]

HOLD_MS = (
    5_000  # a difference is told when it has stood so long: the first peer that is met may be the one who is wrong
)
WRONG_MS = 10_000  # no radio is so slow, and others refuse writes of a clock that is 60 s ahead (sync.admission)


def mesh_offset_ms(offsets_ms: Sequence[float]) -> float | None:
    """Mesh time minus ours: the median of our clock and the peers'; None where nobody is linked.

    Of two middle values the one nearer to ours counts: half of the mesh is not enough to call our clock wrong. With one
    peer alone it is the difference to that one.
    """
    if len(offsets_ms) < 2:
        return offsets_ms[0] if offsets_ms else None
    clocks = sorted((0.0, *offsets_ms))
    low, high = clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2]
    return min(low, high, key=abs)


class Timekeeper:
    """Judges this node's clock at each measurement. `offset_ms` is the last one, `wrong` the complaint if there is one."""

    __slots__ = ("_since_ms", "offset_ms", "wrong")

    def __init__(self) -> None:
        self._since_ms: int | None = None  # since when the clock seems wrong
        self.wrong = ""
        self.offset_ms: float | None = None

    def judge(self, offsets_ms: Sequence[float], now_ms: int) -> list[Notice]:
        """Take the linked members' offsets (their clock minus ours); what there is to tell, if anything."""
        self.offset_ms = offset_ms = mesh_offset_ms(offsets_ms)
        before, self.wrong = self.wrong, ""
        if offset_ms is None or abs(offset_ms) <= (WRONG_MS / 2 if before else WRONG_MS):
            self._since_ms = None
        else:
            self._since_ms = now_ms if self._since_ms is None else self._since_ms
            if before or now_ms - self._since_ms >= HOLD_MS:
                self.wrong = complaint(offset_ms, len(offsets_ms))
        if bool(self.wrong) == bool(before) or offset_ms is None:
            return []
        detail = {"offset_ms": round(offset_ms), "peers": len(offsets_ms)}
        if not self.wrong:
            return [Notice("clock.right", "this node's clock agrees with the mesh again", detail)]
        return [Notice("clock.wrong", self.wrong, detail, "warning")]


def complaint(offset_ms: float, peers: int) -> str:
    """One line for a person whose clock is so far from that of so many peers."""
    seconds = f"{abs(offset_ms) / 1000:,.0f} s {'behind' if offset_ms > 0 else 'ahead of'}"
    if peers == 1:
        return f"this node's clock is {seconds} its only peer's; set whichever is wrong"
    return f"this node's clock is {seconds} the mesh (median of {peers} peers); set it, or start its time service"
