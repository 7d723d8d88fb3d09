"""When the scrub compares rows, and what people hear of it.

Owns the pace: in the background a few rows now and then, without end; at once and without a pause when somebody asks. What
always holds: an idle machine compares no more than `scrub_rows` rows in `scrub_ms`, and writes nothing but the position, no
more often than in `SCRUB_KEEP_MS`. It must not know how rows are compared.
"""

from __future__ import annotations

from mycomesh.sync.errors import DatabaseBusyError
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.replication.scrub import Scrubbed

__all__ = ["ScrubSchedule"]

# A node that is killed compares again what it had compared for this long.
SCRUB_KEEP_MS = 600_000
# Rows of one step that somebody waits for: some milliseconds, so that links are served in between.
REQUESTED_ROWS = 512


class ScrubSchedule:
    """The scrub of one node."""

    def __init__(self, replica: Replica, config: ExchangeConfig) -> None:
        self._replica = replica
        self._config = config
        self._requested = False
        self._step_at: int | None = None
        self._keep_at = 0
        self._notified = 0  # suspect rows of this pass that people have heard of

    def next_deadline(self) -> int | None:
        """When `on_timer` is due."""
        return self._step_at

    def request(self, turn: Turn) -> None:
        """Somebody wants all rows compared, from the first to the last."""
        self._replica.scrub.restart()
        self._requested, self._notified = True, 0
        self._step_at = turn.now_ms

    def on_timer(self, turn: Turn) -> None:
        """Make a step if one is due."""
        if self._step_at is None:  # the first call: the node has just started, and has better things to do
            self._keep_at = turn.now_ms + SCRUB_KEEP_MS
            self._step_at = turn.now_ms + self._config.scrub_ms
        if turn.now_ms < self._step_at:
            return
        try:
            scrubbed, published = self._replica.scrub.step(
                turn.wall_ms, REQUESTED_ROWS if self._requested else self._config.scrub_rows
            )
            if turn.now_ms >= self._keep_at and not self._requested:
                self._keep_at = turn.now_ms + SCRUB_KEEP_MS
                self._replica.scrub.keep()
        except DatabaseBusyError:
            self._step_at = turn.now_ms + self._config.busy_ms
            return
        turn.publish(published)
        self._notify(scrubbed, turn)
        if self._requested and scrubbed.done:
            self._requested, self._keep_at = False, turn.now_ms  # what somebody asked for outlives this run
        self._step_at = turn.now_ms if self._requested else turn.now_ms + self._config.scrub_ms

    def _notify(self, scrubbed: Scrubbed, turn: Turn) -> None:
        detail = {"rows": scrubbed.rows, "found": scrubbed.found, "tables": list(scrubbed.tables)}
        if scrubbed.found > self._notified:
            self._notified = scrubbed.found
            if not self._requested:
                text = (
                    f"scrub: row(s) of {', '.join(scrubbed.tables)} were written without being captured; they are now"
                )
                turn.notify("scrub.found", text, detail, "warning")
        if not scrubbed.done:
            return
        self._notified = 0
        what = (
            f"{scrubbed.found} row(s) not captured before" if scrubbed.found else "every row is as the change log says"
        )
        where = f", in {', '.join(scrubbed.tables)}" if scrubbed.tables else ""
        text = f"scrub: all tables compared, {what}{where}"
        turn.notify("scrub.done", text, detail, "info" if self._requested or scrubbed.found else "debug")
