"""Reports to the mesh which areas this node and the other members keep, so that it sends batches and chooses links by it."""

from __future__ import annotations

from collections.abc import Callable

from mycomesh.sync.events import InterestsStated
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica

__all__ = ["InterestReport"]

# The statements of many members come together, when a table is cut: one report has them all.
GATHER_MS = 200


class InterestReport:
    """The reports of one node."""

    def __init__(self, replica: Replica, held: Callable[[], tuple[tuple[str, str], ...]], copies: int) -> None:
        """Take a function that returns the areas, (table, area), that this node holds and does not keep."""
        self._replica = replica
        self._held = held
        self._copies = copies
        self._version: tuple[int, tuple[tuple[str, str], ...]] = (
            -1,
            (),
        )  # of the interests, and what was held, at the last look
        self._due_at: int | None = None
        self._last: InterestsStated | None = None

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        return self._due_at

    def look(self, now_ms: int) -> None:
        """Plan a report if interests may have changed since the last one."""
        version = self._replica.interests.version, self._held()
        if self._version != version:
            self._version = version
            if self._due_at is None and self._replica.registry.policies.areas:
                self._due_at = now_ms + (GATHER_MS if self._last is not None else 0)

    def on_timer(self, turn: Turn) -> None:
        """Report, unless everything is as it was."""
        if self._due_at is None or turn.now_ms < self._due_at:
            return
        self._due_at = turn.now_ms + GATHER_MS  # after an error of the file
        interests, kept = self._replica.interests, self._replica.registry.kept
        report = InterestsStated(
            None if kept is None else kept.areas,
            {member: stated.areas for member, stated in interests.stated().items()},
            self._held(),
            self._copies,
        )
        self._due_at = None
        if report != self._last:
            self._last = report
            turn.actions.append(report)
