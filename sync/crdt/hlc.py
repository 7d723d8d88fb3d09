"""Hybrid logical clock (Kulkarni et al. 2014, "Logical Physical Clocks") in one signed 64-bit integer.

Owns the integer form: 48 bits of wall milliseconds, 16 bits of counter. A stamp is (hlc, site id); stamps are totally
ordered because two changes of one site never share an hlc. What always holds: a clock never returns the same value twice
and never goes backwards. It must not know where wall time comes from.
"""

from __future__ import annotations

__all__ = ["COUNTER_BITS", "DRIFT_MS_MAX", "HLC_MAX", "SITE_PREFIX", "Clock", "hlc_from_ms", "ms_from_hlc"]

# A site: so many bytes of its node's id, so that nobody stamps in another's name, then as many drawn for the file.
SITE_PREFIX = 8

COUNTER_BITS = 16
HLC_MAX = (1 << 63) - 1
# A drone whose clock is further ahead than this must not drag the mesh's clocks along (design.md section 4).
DRIFT_MS_MAX = 60_000


def hlc_from_ms(wall_ms: int) -> int:
    """Return the smallest hlc of that wall millisecond; a clock before 1970 counts as 1970."""
    return min(max(wall_ms, 0) << COUNTER_BITS, HLC_MAX)


def ms_from_hlc(hlc: int) -> int:
    """Return the wall milliseconds (Unix epoch) inside an hlc."""
    return hlc >> COUNTER_BITS


class Clock:
    """The clock of one site: the greatest hlc it has issued or witnessed."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def tick(self, wall_ms: int, floor: int = 0) -> int:
        """Return the next hlc: after everything issued or witnessed, not before `wall_ms`, greater than `floor`."""
        self.last = max(self.last + 1, wall_ms << COUNTER_BITS, floor + 1)
        return self.last

    def witness(self, hlc: int) -> None:
        """Move up to a stamp seen from another site (already checked against `DRIFT_MS_MAX`)."""
        self.last = max(self.last, hlc)
