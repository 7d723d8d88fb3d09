"""Schedule of retention: when horizons move, by which clock, and the steps that remove what lies below them.

Rows that are removed do not come back, so a clock alone does not decide. A node moves its horizons by the wall clock if it is
alone on its mesh, or if another clock agrees. Otherwise they move from the last time that was trusted, as fast as time passes.
"""

from __future__ import annotations

from mycomesh.sync.exchange.clock_correction import ClockCorrection
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica

__all__ = ["RetentionSchedule"]

# Between two steps of some milliseconds each: programs that wait for the file come in.
PAUSE_MS = 5


class RetentionSchedule:
    """When one node moves its horizons, and the notices about it."""

    def __init__(self, replica: Replica, config: ExchangeConfig, clock: ClockCorrection) -> None:
        self._replica = replica
        self._config = config
        self._clock = clock
        self._alone: bool | None = None  # None before the mesh has reported its members
        self._began: tuple[int, int] | None = None  # (trusted Unix time, monotonic time then)
        self._not_before = 0
        self._time = (0, 0)  # (monotonic, trusted) time of the last turn

    def on_members(self, others: int) -> None:
        """Take the number of the other members."""
        self._alone = others == 0

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        due = self._replica.retention.next_due(self._time[1])
        return None if due is None else max(self._not_before, self._time[0] + due - self._time[1])

    def _trusted_ms(self, turn: Turn) -> int:
        """Return the Unix time by which horizons may move."""
        if self._alone or self._clock.is_confirmed:
            self._began = turn.wall_ms, turn.now_ms
            return turn.wall_ms
        if self._began is None:
            self._began = self._replica.retention.clock_ms, turn.now_ms
        return min(turn.wall_ms, self._began[0] + turn.now_ms - self._began[1])

    def on_timer(self, turn: Turn) -> None:
        """Take a step if one is due."""
        retention = self._replica.retention
        if not retention.retained():
            return
        self._time = turn.now_ms, self._trusted_ms(turn)
        due = retention.next_due(self._time[1])
        if due is None or due > self._time[1] or turn.now_ms < self._not_before:
            return
        self._not_before = turn.now_ms + self._config.busy_ms  # after an error of the file
        step = retention.step(self._time[1])
        self._not_before = turn.now_ms + PAUSE_MS
        turn.publish(step.published)
        if step.ended:
            turn.changed = True
            if step.rows:
                name = self._replica.registry.local_name(step.ended)
                text = f"{name}: {step.rows} row(s) were older than its horizon and are gone"
                turn.notify("retain.cut", text, {"table": name, "rows": step.rows}, "debug")
