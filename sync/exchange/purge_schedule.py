"""Schedule of purges: one transaction in each step, with a pause in between, so that links and programs are served.

An order waits until this node has what its peers have: what it writes again of a dropped row would have later stamps than their
writes that it has not seen, and win over them.
"""

from __future__ import annotations

from collections.abc import Callable

from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica

__all__ = ["PurgeSchedule"]

# Between two steps of some milliseconds each: programs that wait for the file come in.
PAUSE_MS = 10
# An order waits for rounds this long, since a peer may be slow; without links less, since it comes as a link opens.
WAIT_MS = 60_000
ALONE_MS = 5_000
LOOK_MS = 250


class PurgeSchedule:
    """When one node carries out orders to purge, and the notices about it."""

    def __init__(self, replica: Replica, config: ExchangeConfig, is_level: Callable[[int], bool | None]) -> None:
        """Take what returns at a monotonic millisecond whether nothing is under way from the linked peers; None without any."""
        self._replica = replica
        self._config = config
        self._is_level = is_level
        self._step_at: int | None = 0 if replica.purges.waiting else None  # from the last run
        self._waits_since: int | None = None  # set while orders wait

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
        if self._must_wait(turn.now_ms):
            self._step_at = turn.now_ms + LOOK_MS
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

    def _must_wait(self, now_ms: int) -> bool:
        """Return True if orders are to be carried out, have not waited for long, and peers may have something to bring."""
        if not self._replica.purges.orders_wait:
            self._waits_since = None
            return False
        if self._waits_since is None:
            self._waits_since = now_ms
        level = self._is_level(now_ms)
        if level is not True and now_ms < self._waits_since + (ALONE_MS if level is None else WAIT_MS):
            return True
        self._waits_since = now_ms - WAIT_MS  # the rest follows, whatever comes meanwhile
        return False
