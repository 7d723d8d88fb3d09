"""Collects the actions of one `handle` call of a core, in the order in which the shell must do them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mycomesh.mesh.events import Action, Notice
    from mycomesh.mesh.notice_throttle import NoticeThrottle

__all__ = ["Turn"]


@dataclass(slots=True)
class Turn:
    """The handling of one event. Milliseconds: `now_ms` is monotonic, `wall_ms` is Unix time."""

    now_ms: int
    wall_ms: int
    _throttle: NoticeThrottle
    actions: list[Action] = field(default_factory=list)

    def do(self, action: Action) -> None:
        """Append one action."""
        self.actions.append(action)

    def notify(self, notice: Notice) -> None:
        """Append a notice, unless the throttle suppresses it."""
        self.actions += self._throttle.admit(notice, self.now_ms)
