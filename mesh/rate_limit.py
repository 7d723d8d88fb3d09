"""How often something may happen: so many at once, then one in each interval.

Owns the virtual scheduling algorithm of ITU-T I.371 (a token bucket in one number). Must not know what happens.
"""

from __future__ import annotations

__all__ = ["admit_at_rate"]


def admit_at_rate(over_ms: int | None, now_ms: int, *, every_ms: int, at_once: int) -> int | None:
    """When all that has happened would be over at the allowed rate, with one more; None if that one is too many.

    `over_ms` is what the call before this one returned for the same thing, None at its first.
    """
    begin_ms = now_ms if over_ms is None else max(over_ms, now_ms)
    return None if begin_ms - now_ms > every_ms * (at_once - 1) else begin_ms + every_ms
