"""Times of day for people.

Apart from `render`, because loading `datetime` takes 1 to 3 ms, which commands that show no time should not pay.
"""

from __future__ import annotations

from datetime import datetime

__all__ = ["clock_time"]


def clock_time(moment: str) -> str:
    """Return the local time of day of an RFC 3339 moment; dashes for any other text."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"
