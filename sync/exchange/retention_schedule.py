"""Schedule of retention: when horizons move, by which clock, and the steps that remove what lies below them.

Rows that are removed do not come back, so a clock alone does not decide. A node moves its horizons by the wall clock if it is
alone on its mesh, or if another clock agrees. Otherwise they move from the last time that was trusted, as fast as time passes.
By a time that is sure, horizons which an earlier, wrong clock has moved too far go back.
"""

from __future__ import annotations

from collections.abc import Mapping

from mycomesh.sync.exchange.clock_correction import ClockCorrection
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.horizon import Likeness

__all__ = ["RetentionSchedule"]

# unit -> (vector digest, entry digest)
Digests = Mapping[str, tuple[bytes, bytes]]

# Between two steps of some milliseconds each: programs that wait for the file come in.
PAUSE_MS = 5
# Rows that a rule of another member takes as it begins, above which the log names that member: a person may want to know.
TOLD_ROWS = 100


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

    def on_digests(self, peer: bytes, mine: Digests, theirs: dict[str, tuple[bytes, bytes]]) -> frozenset[str]:
        """Take a peer's digests, and put ours in their place where only the horizons differ: then nothing is missing.

        Returns the units of which the peer keeps less than the mesh: it may lack what it covers.
        """
        retention, registry = self._replica.retention, self._replica.registry
        if not retention.retained():
            return frozenset()
        if retention.is_restoring:
            retention.on_equal({name for name, digest in mine.items() if theirs.get(name) == digest})
        pinned = []
        for name in [name for name in theirs if name in mine]:
            unit = registry.unit(name)
            if unit is None or unit.table.coverage.horizon is None:
                continue
            likeness = unit.likeness(theirs[name][0], peer)
            keeps = unit.area is None or self._replica.is_holder(peer, unit.table.spec.folded, unit.area)
            retention.on_peer(unit, likeness, peer, keeps=keeps)
            if likeness is Likeness.COVERS:
                pinned.append(name)
            if likeness is not Likeness.NONE and theirs[name][0] != mine[name][0]:
                theirs[name] = mine[name]  # entries are compared at one horizon only
        return frozenset(pinned)

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due."""
        due = self._replica.retention.next_due(self._time[1])
        return None if due is None else max(self._not_before, self._time[0] + due - self._time[1])

    @property
    def _is_sure(self) -> bool:
        return bool(self._alone) or self._clock.is_confirmed

    def _trusted_ms(self, turn: Turn) -> int:
        """Return the Unix time by which horizons may move."""
        if self._is_sure:
            self._began = turn.wall_ms, turn.now_ms
            return turn.wall_ms
        if self._began is None:
            self._began = self._replica.retention.clock_ms, turn.now_ms
        return min(turn.wall_ms, self._began[0] + turn.now_ms - self._began[1])

    def on_time(self, *, linked: bool) -> None:
        """Take what the mesh says about this machine's clock, while some peer is `linked` or none is."""
        in_doubt = linked and not self._is_sure
        self._replica.retention.offset_ms = None if in_doubt else self._clock.offset_ms

    def on_timer(self, turn: Turn) -> None:
        """Take a step if one is due."""
        retention = self._replica.retention
        if not retention.retained():
            return
        self._time = turn.now_ms, self._trusted_ms(turn)
        if turn.now_ms < self._not_before:
            return
        if self._is_sure:
            self._turn_back(turn)
        due = retention.next_due(self._time[1])
        if due is None or due > self._time[1]:
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
                detail = {"table": name, "rows": step.rows}
                if step.stated_by and step.rows > TOLD_ROWS:
                    member = step.stated_by.hex()
                    text += f"; by a rule of member {member[:8]} ('mycomesh retain {name} off' ends it)"
                    turn.notify("retain.cut", text, detail | {"stated_by": member}, "warning")
                else:
                    turn.notify("retain.cut", text, detail, "debug")

    def _turn_back(self, turn: Turn) -> None:
        for name in self._replica.retention.turn_back(self._time[1]):
            text = f"{name}: a wrong clock had removed rows too early; they come back from nodes that have them"
            turn.notify("retain.returned", text, {"table": name}, "warning")
            turn.changed = True
