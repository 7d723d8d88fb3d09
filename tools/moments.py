"""Times of day for people.

Apart from `render`, because loading `datetime` takes 1 to 3 ms, which commands that show no time should not pay.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

__all__ = ["clock_time", "moment_ms", "moment_text"]

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
EVERYTHING = "all"


def clock_time(moment: str) -> str:
    """Return the local time of day of an RFC 3339 moment; dashes for any other text."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"


def moment_ms(text: str, now_ms: int) -> int:
    """Return the Unix milliseconds of `2h` (that long ago), of an ISO 8601 time (local without a zone), or 0 for `all`.

    Raises:
        ValueError: another text, or a time to come.
    """
    ago = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if text == EVERYTHING:
        return 0
    if ago:
        moment = now_ms - 1_000 * int(ago[1]) * _UNITS_S[ago[2]]
    else:
        try:
            moment = round(datetime.fromisoformat(text).timestamp() * 1_000)
        except (ValueError, OverflowError, OSError):
            raise ValueError(f"{text!r} is no time; write 2h, 2026-11-30T06:00Z or {EVERYTHING}") from None
    if moment > now_ms:
        raise ValueError(f"{text!r} is in the future")
    return max(moment, 0)


def moment_text(unix_ms: int) -> str:
    """Return a time as `moment_ms` reads it: ISO 8601 in UTC, or `all`."""
    if not unix_ms:
        return EVERYTHING
    return datetime.fromtimestamp(unix_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
