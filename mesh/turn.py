"""One call of a core's `handle`: both times, and what is to be done.

Owns the list of actions of one event. What always holds: actions stand in the order in which they must be done, and what
people hear goes through `NoticeThrottle`. Must not know what the actions are for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mycomesh.mesh.events import Action, Notice
    from mycomesh.mesh.notice_throttle import NoticeThrottle

__all__ = ["Turn"]


@dataclass(slots=True)
class Turn:
    """Times in milliseconds: `now_ms` is monotonic, `wall_ms` Unix time."""

    now_ms: int
    wall_ms: int
    _throttle: NoticeThrottle
    actions: list[Action] = field(default_factory=list)

    def do(self, action: Action) -> None:
        """One more thing to do."""
        self.actions.append(action)

    def notify(self, notice: Notice) -> None:
        """Something a person may want to know, unless it was said a moment ago."""
        self.actions += self._throttle.admit(notice, self.now_ms)
