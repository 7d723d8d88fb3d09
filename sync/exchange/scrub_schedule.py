"""Schedule of the scrub: small steps in the background, or a full pass without pauses when the operator requests one.

Invariant: an idle machine compares at most `scrub_rows` rows in `scrub_ms`. It writes nothing but the position of the
pass, at most once in `SCRUB_KEEP_MS`.
"""

from __future__ import annotations

from mycomesh.sync.capture import table_scan
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.replication.scrub import Scrubbed

__all__ = ["ScrubSchedule"]

# A killed node repeats at most the comparisons of this period.
SCRUB_KEEP_MS = 600_000
# Rows in one step of a requested pass. A step takes a few milliseconds, so that links are served in between.
REQUESTED_ROWS = 512


class ScrubSchedule:
    """When one node scrubs, and the notices about it."""

    def __init__(self, replica: Replica, config: ExchangeConfig) -> None:
        self._replica = replica
        self._config = config
        self._requested = False
        self._step_at: int | None = None
        self._keep_at = 0
        self._notified = 0  # suspect rows of this pass that a notice has reported

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        return self._step_at

    def request(self, turn: Turn) -> None:
        """Start a pass over all rows that runs to its end without pauses."""
        self._replica.scrub.restart()
        self._requested, self._notified = True, 0
        self._step_at = turn.now_ms

    def on_timer(self, turn: Turn) -> None:
        """Take a step if one is due."""
        if self._step_at is None:  # the first call: a node that has just started has more urgent work
            self._keep_at = turn.now_ms + SCRUB_KEEP_MS
            self._step_at = turn.now_ms + self._config.scrub_ms
        if turn.now_ms < self._step_at:
            return
        self._step_at = turn.now_ms + self._config.busy_ms  # after an error of the file
        if table_scan.any_active(self._replica.store.db):
            return  # a step would first stamp every row that the scan has still to log, in one call
        scrubbed, published = self._replica.scrub.step(
            turn.wall_ms, REQUESTED_ROWS if self._requested else self._config.scrub_rows
        )
        if turn.now_ms >= self._keep_at and not self._requested:
            self._replica.scrub.save()
            self._keep_at = turn.now_ms + SCRUB_KEEP_MS
        turn.publish(published)
        self._notify(scrubbed, turn)
        if self._requested and scrubbed.done:
            # The next background step stores the result, so that it survives a restart.
            self._requested, self._keep_at = False, turn.now_ms
        self._step_at = turn.now_ms if self._requested else turn.now_ms + self._config.scrub_ms

    def _notify(self, scrubbed: Scrubbed, turn: Turn) -> None:
        tables = ", ".join(scrubbed.tables)
        detail = {"rows": scrubbed.rows, "found": scrubbed.found, "tables": list(scrubbed.tables)}
        if scrubbed.found > self._notified:
            self._notified = scrubbed.found
            if not self._requested:
                text = f"scrub: captured row(s) of {tables} that had bypassed the triggers"
                turn.notify("scrub.found", text, detail, "warning")
        if not scrubbed.done:
            return
        self._notified = 0
        result = f"captured {scrubbed.found} row(s)" if scrubbed.found else "every row matches the change log"
        where = f" of {tables}" if scrubbed.tables else ""
        text = f"scrub: compared all tables; {result}{where}"
        turn.notify("scrub.done", text, detail, "info" if self._requested or scrubbed.found else "debug")
