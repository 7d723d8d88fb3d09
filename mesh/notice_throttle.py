"""Log throttle: passes one notice per event name and interval, and counts the suppressed ones.

Unauthenticated peers and broken ones could cause such notices without end. The next notice that passes carries the count, so
a flood stays visible in the log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mycomesh.mesh.events import Notice

__all__ = ["NoticeThrottle"]

# Six lines a minute, even in a flood of a hundred a second: people can read the log, and the disk does not wear out.
INTERVAL_MS = 10_000


class NoticeThrottle:
    """The throttle of one core. It remembers each `Notice.event`; the program has few of those, so nothing here grows."""

    __slots__ = ("_passed",)

    def __init__(self) -> None:
        # Event -> (when the last notice passed, how many were suppressed since).
        self._passed: dict[str, tuple[int, int]] = {}

    def admit(self, notice: Notice, now_ms: int) -> list[Notice]:
        """Return the notice, with the number suppressed before it; or an empty list if it is suppressed too."""
        last = self._passed.get(notice.event)
        if last is not None and now_ms - last[0] < INTERVAL_MS:
            self._passed[notice.event] = (last[0], last[1] + 1)
            return []
        self._passed[notice.event] = (now_ms, 0)
        if last is None or last[1] == 0:
            return [notice]
        count = last[1]
        return [
            replace(notice, text=f"{notice.text} (and {count} more before)", detail={**notice.detail, "more": count})
        ]
