"""Notices that strangers and broken peers could cause without end, held to one a cause and spell.

Owns the counts. What always holds: nothing is lost without being counted, and a cause is last of at most once in
SPELL_MS. Must not know: what the causes are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mycomesh.mesh.events import Notice

__all__ = ["NoticeThrottle"]

SPELL_MS = 10_000  # at a hundred floods a second, six lines a minute: a log can be read, and a disk lives


class NoticeThrottle:
    """One line a cause and spell; `Notice.event` is the cause, and there are few of those."""

    __slots__ = ("_causes",)

    def __init__(self) -> None:
        self._causes: dict[str, tuple[int, int]] = {}  # event -> (when last last of, how many since)

    def admit(self, notice: Notice, now_ms: int) -> list[Notice]:
        """The notice, with how many were held back before it; or nothing."""
        last = self._causes.get(notice.event)
        if last is not None and now_ms - last[0] < SPELL_MS:
            self._causes[notice.event] = (last[0], last[1] + 1)
            return []
        self._causes[notice.event] = (now_ms, 0)
        if last is None or last[1] == 0:
            return [notice]
        count = last[1]
        return [
            replace(notice, text=f"{notice.text} (and {count} more before)", detail={**notice.detail, "more": count})
        ]
