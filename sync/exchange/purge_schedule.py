"""Schedule of purges: one transaction in each step, with a pause in between, so that links and programs are served."""

from __future__ import annotations

from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica

__all__ = ["PurgeSchedule"]

# Between two steps of some milliseconds each: programs that wait for the file come in.
PAUSE_MS = 10


class PurgeSchedule:
    """When one node carries out orders to purge, and the notices about it."""

    def __init__(self, replica: Replica, config: ExchangeConfig) -> None:
        self._replica = replica
        self._config = config
        self._step_at: int | None = 0 if replica.purges.waiting else None  # from the last run

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        if self._step_at is None and self._replica.purges.waiting:
            self._step_at = 0  # a write has arrived for a row that was inserted again
        return self._step_at

    def on_orders(self, orders: tuple[tuple[bytes, int], ...], turn: Turn) -> None:
        """Take the orders of the mesh: (node id, Unix milliseconds)."""
        self._replica.purges.take(orders)
        if self._replica.purges.waiting:
            self._step_at = turn.now_ms

    def on_timer(self, turn: Turn) -> None:
        """Take a step if one is due."""
        if self._step_at is None or turn.now_ms < self._step_at:
            return
        self._step_at = turn.now_ms + self._config.busy_ms  # after an error of the file
        step = self._replica.purges.step(turn.wall_ms)
        turn.publish(step.published)
        turn.changed = turn.changed or step.changed
        self._step_at = turn.now_ms + PAUSE_MS if self._replica.purges.waiting else None
        if step.ended is not None:
            node = step.ended.hex()
            done = step.purged
            text = f"dropped {done.changes} change(s) that the revoked node {node[:8]} had written since the time of the order"
            if done.unrecorded:
                text += f"; mycomesh_conflicts had no room for {done.unrecorded} of them"
            detail = {
                "node": node,
                "changes": done.changes,
                "unrecorded": done.unrecorded,
                "restored": done.restored,
            }
            turn.notify("purge.done", text, detail, "warning" if done.changes else "info")
