"""Hybrid logical clock in one signed 64-bit integer: 48 bits of wall milliseconds, 16 bits of counter.

A stamp is (hlc, site id). Stamps are totally ordered, because two changes of one site never share an hlc.

Invariant: a clock never returns the same value twice and never goes backwards.

Kulkarni et al. 2014, "Logical Physical Clocks"; design.md section 4.
"""

from __future__ import annotations

import datetime as dt
import functools

__all__ = [
    "COUNTER_BITS",
    "DRIFT_MS_MAX",
    "EARLY_MS_MAX",
    "HLC_MAX",
    "SITE_PREFIX",
    "UNSET_MS",
    "Clock",
    "hlc_from_ms",
    "is_early",
    "ms_from_hlc",
    "time_text",
]

# A site id is 16 bytes: this many bytes of the node's id, so that no node can stamp in another's name, then random ones.
SITE_PREFIX = 8

COUNTER_BITS = 16
HLC_MAX = (1 << 63) - 1
# A drone whose clock is further ahead than this must not pull the clocks of the other nodes ahead (design.md section 4).
DRIFT_MS_MAX = 60_000
UNSET_MS = 1_577_836_800_000  # 2020: a clock that shows less has not been set since its machine was powered on
# Rows from before the mesh are stamped 1, 2, 3 ... under an early site (ADR 0031): 65 million of them fill the first second of
# 1970, a time that no clock shows once its node has started.
EARLY_MS_MAX = 1_000


def hlc_from_ms(wall_ms: int) -> int:
    """Return the smallest hlc of a wall-clock millisecond; a time before 1970 counts as 1970."""
    return min(max(wall_ms, 0) << COUNTER_BITS, HLC_MAX)


def ms_from_hlc(hlc: int) -> int:
    """Return the wall-clock milliseconds (Unix epoch) of an hlc."""
    return hlc >> COUNTER_BITS


def is_early(hlc: int) -> bool:
    """Return True for the stamp of a row from before the mesh."""
    return ms_from_hlc(hlc) < EARLY_MS_MAX


@functools.lru_cache(maxsize=1_024)  # the conflicts of one batch have few different times
def time_text(wall_ms: int) -> str:
    """Return a Unix time in milliseconds as ISO 8601 in UTC; a time out of range as a number of milliseconds."""
    try:
        return dt.datetime.fromtimestamp(wall_ms / 1000, tz=dt.UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return f"{wall_ms} ms"


class Clock:
    """Clock of one site. `last` is the greatest hlc that it has issued or witnessed."""

    __slots__ = ("last",)

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def tick(self, wall_ms: int, floor: int = 0) -> int:
        """Return the next hlc: greater than `last` and `floor`, and not before `wall_ms`."""
        self.last = max(self.last + 1, wall_ms << COUNTER_BITS, floor + 1)
        return self.last

    def witness(self, hlc: int) -> None:
        """Advance to the hlc of another site, which the caller has checked against `DRIFT_MS_MAX`."""
        self.last = max(self.last, hlc)
