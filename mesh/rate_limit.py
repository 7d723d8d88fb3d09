"""Token bucket: a burst of `at_once`, then one in each `every_ms`.

It is the virtual scheduling algorithm of ITU-T I.371, which needs one number per limited source.
"""

from __future__ import annotations

__all__ = ["admit_at_rate"]


def admit_at_rate(over_ms: int | None, now_ms: int, *, every_ms: int, at_once: int) -> int | None:
    """Return the bucket after one more event, or None if that event exceeds the rate and must be rejected.

    The bucket is the monotonic millisecond at which all admitted events would be over, had they come at the allowed rate.
    `over_ms` is the bucket that the last admitted event of the same source returned, None at its first.
    """
    begin_ms = now_ms if over_ms is None else max(over_ms, now_ms)
    return None if begin_ms - now_ms > every_ms * (at_once - 1) else begin_ms + every_ms
