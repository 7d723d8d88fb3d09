"""Causal stability: up to which clock nothing can still arrive, so that tombstones before it may go (design.md section 4).

Owns who the members are and when each was last heard of, the beats of an idle site, and the times of collection. What always
holds: a tombstone is collected only after this replica covers the clock of every member's site beyond it; members away
longer than the retention hold nothing up, and learn of the deletes by an audit (ADR 0007). It must not know links.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX, hlc_from_ms, ms_from_hlc
from mycomesh.sync.errors import DatabaseBusyError, DecodeError
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.merge import tombstones
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.table import Table

__all__ = ["MEMBERS_MAX", "TombstoneGC"]

# As many as the mesh keeps certificates of.
MEMBERS_MAX = 4_096
# Tombstones of one transaction: some milliseconds.
COLLECT_MAX = 512
# When a member was heard of is written down about so often; the retention is counted in days.
RECORD_MS = 3_600_000
_FACT = "members"


@dataclass(frozen=True, slots=True)
class _Due:
    """When the next looks are due, monotonic."""

    beat_at: int
    collect_at: int


class TombstoneGC:
    """What is stable in each table."""

    def __init__(self, replica: Replica, config: ExchangeConfig) -> None:
        self._replica = replica
        self._config = config
        self._last_heard: dict[bytes, int] = _decode_heard(replica.recall(_FACT))  # node id -> wall ms
        self._recorded = dict(self._last_heard)
        self._members_known = False  # nothing is collected until the mesh has said who the members are
        self._due: _Due | None = None
        self._stable: dict[str, int] = {}  # what was stable at the look before this one

    def on_members(self, members: tuple[tuple[bytes, int | None], ...], turn: Turn) -> None:
        """Take over who the other members are; those that are not named have left."""
        heard = {}
        for node_id, ago_ms in members[:MEMBERS_MAX]:
            before = self._last_heard.get(node_id)
            if ago_ms is not None:
                heard[node_id] = max(turn.wall_ms - ago_ms, before or 0)
            else:
                heard[node_id] = turn.wall_ms if before is None else before
        self._last_heard = heard
        self._members_known = True

    def next_deadline(self) -> int | None:
        """When `on_timer` is due."""
        return None if self._due is None else min(self._due.beat_at, self._due.collect_at)

    def on_timer(self, turn: Turn) -> None:
        """Beats where tombstones wait for this site, collects those that nothing waits for."""
        if self._due is None:
            self._due = _Due(turn.now_ms + self._beat_ms(), turn.now_ms + self._config.collect_ms)
            return
        try:
            if turn.now_ms >= self._due.beat_at:
                self._beat(turn)
                self._due = _Due(turn.now_ms + self._beat_ms(), self._due.collect_at)
            if turn.now_ms >= self._due.collect_at:
                more = self._collect(turn)
                wait_ms = self._config.busy_ms if more else self._config.collect_ms
                self._due = _Due(self._due.beat_at, turn.now_ms + wait_ms)
        except DatabaseBusyError:
            wait_at = turn.now_ms + 20 * self._config.busy_ms
            self._due = _Due(max(self._due.beat_at, wait_at), max(self._due.collect_at, wait_at))

    # ---- beats

    def _beat_ms(self) -> int:
        """How long until the next look, so that what a node hears of beats a second does not grow with the mesh."""
        return self._config.beat_ms * max(1, (1 + len(self._last_heard)) // self._config.beat_members)

    def _beat(self, turn: Turn) -> None:
        """Says that nothing older comes from here, in tables with tombstones that this site's clock has not passed."""
        own = self._replica.site
        names = [
            name
            for name, table in sorted(self._replica.tables.items())
            if tombstones.newest_hlc(table) > table.vector.upto(own)
        ]
        if names:
            turn.publish(self._replica.beat(names, turn.wall_ms))

    # ---- collection

    def _collect(self, turn: Turn) -> bool:
        """Remove what was stable at the look before this one; true if there is more of it."""
        if not self._members_known:
            return False
        self._record()
        total, more = 0, False
        for name, table in sorted(self._replica.tables.items()):
            stable = self._stable_upto(table, turn.wall_ms)
            removed = self._replica.collect(name, min(stable, self._stable.get(name, 0)), COLLECT_MAX)
            total += removed
            if removed == COLLECT_MAX:
                more = True  # looked at again in a moment, with the same measure
            else:
                self._stable[name] = stable
        if total:
            turn.notify("tombstones.collected", f"{total} delete markers collected", {"count": total}, "debug")
        return more

    def _stable_upto(self, table: Table, wall_ms: int) -> int:
        """Return the clock up to which every member's site is covered here."""
        vector = table.vector
        own = self._replica.site
        oldest_ms = wall_ms - self._config.retention_ms
        waiting = [vector.upto(own)]
        for node_id in (own, *self._last_heard):
            if node_id != own and self._last_heard[node_id] < oldest_ms:
                continue
            clocks = sorted(
                vector.upto(site) for site, _ in vector.items() if site[:SITE_PREFIX] == node_id[:SITE_PREFIX]
            )
            # A node has one site at a time: earlier ones have ended, and only what was still on its way may come.
            waiting += [clock for clock in clocks[:-1] if ms_from_hlc(clock) >= oldest_ms]
            waiting.append(clocks[-1] if clocks else 0)
        # What is older than the retention waits for nobody: not even for members that do not have this table at all.
        return max(min(waiting), hlc_from_ms(max(oldest_ms, 0)))

    def _record(self) -> None:
        """Write down when members were heard of, if that has changed by much."""
        changed = self._last_heard.keys() != self._recorded.keys() or any(
            self._last_heard[node_id] >= self._recorded[node_id] + RECORD_MS for node_id in self._last_heard
        )
        if changed:
            self._replica.remember(_FACT, codec.encode([list(item) for item in sorted(self._last_heard.items())]))
            self._recorded = dict(self._last_heard)


def _decode_heard(stored: object) -> dict[bytes, int]:
    """Return what `_record` wrote; nothing where there is nothing, or another hand has been at it."""
    if not isinstance(stored, bytes):
        return {}
    try:
        value = codec.decode(stored, bytes_max=1 << 20)
    except DecodeError:
        return {}
    plain = codec.is_array(value) and all(
        codec.is_array(item, 2) and codec.is_bytes(item[0], 16) and codec.is_int(item[1]) for item in value
    )
    return dict(map(tuple, value)) if plain else {}
