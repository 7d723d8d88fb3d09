"""Moments as people read them.

Owns that wording, apart from `render`: loading `datetime` takes 1 to 3 ms, which commands that show no time need not pay.
"""

from __future__ import annotations

from datetime import datetime

__all__ = ["clock_time"]


def clock_time(moment: str) -> str:
    """Return the local time of day of a moment in RFC 3339; of anything else nothing but its place."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"
