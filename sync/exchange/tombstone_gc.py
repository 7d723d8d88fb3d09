"""Tombstone garbage collection by causal stability (design.md section 4).

A tombstone may go once nothing older than it can still arrive. This replica knows that when its vector covers the clock of
every member's site beyond the tombstone. A site that writes nothing would hold up the others, so it publishes beats: batches
without changes that advance its clock.

Invariant: a tombstone is collected only after every member's site is covered beyond it, or once it is older than the
retention. A member that was away for longer holds nothing up, and learns the deletes by an audit (ADR 0007).
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import EARLY_MS_MAX, SITE_PREFIX, hlc_from_ms, ms_from_hlc, time_text
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.exchange.config import ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.merge import tombstones
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.table import Table

__all__ = ["MEMBERS_MAX", "TombstoneGC"]

# The mesh keeps certificates of no more members.
MEMBERS_MAX = 4_096
# Tombstones removed in one transaction: some milliseconds.
COLLECT_MAX = 512
# How often the times at which members were heard are stored. Coarse, because the retention is counted in days.
RECORD_MS = 3_600_000
_META_KEY = "members"


@dataclass(frozen=True, slots=True)
class _Due:
    """When the next beat and the next collection are due, in monotonic milliseconds."""

    beat_at: int
    collect_at: int


class TombstoneGC:
    """The beats of this site and the collection of stable tombstones."""

    def __init__(self, replica: Replica, config: ExchangeConfig) -> None:
        self._replica = replica
        self._config = config
        self._last_heard: dict[bytes, int] = _decode_heard(replica.store.meta(_META_KEY))  # node id -> Unix ms
        self._recorded = dict(self._last_heard)
        self._members_known = False  # collect nothing before the mesh has reported the members
        self._due: _Due | None = None
        self._stable: dict[str, int] = {}  # table -> the clock that was stable at the last collection

    def on_members(self, members: tuple[tuple[bytes, int | None], ...], turn: Turn) -> None:
        """Record the other members, as in `MembersKnown`; nodes that are missing have left the mesh."""
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
        """Return when `on_timer` is due."""
        return None if self._due is None else min(self._due.beat_at, self._due.collect_at)

    def on_timer(self, turn: Turn) -> None:
        """Publish beats for tombstones that wait for this site, and collect tombstones that have been stable for a while."""
        if self._due is None:
            self._due = _Due(turn.now_ms + self._beat_ms(), turn.now_ms + self._config.collect_ms)
            return
        due = self._due
        retry_at = turn.now_ms + 20 * self._config.busy_ms
        self._due = _Due(max(due.beat_at, retry_at), max(due.collect_at, retry_at))  # after an error of the file
        if turn.now_ms >= due.beat_at:
            self._beat(turn)
            due = _Due(turn.now_ms + self._beat_ms(), due.collect_at)
        if turn.now_ms >= due.collect_at:
            more = self._collect(turn)
            wait_ms = self._config.busy_ms if more else self._config.collect_ms
            due = _Due(due.beat_at, turn.now_ms + wait_ms)
        self._due = due

    # ---- beats

    def _beat_ms(self) -> int:
        """Return the time to the next beat; it grows with the mesh, so that the rate of received beats does not."""
        return self._config.beat_ms * max(1, (1 + len(self._last_heard)) // self._config.beat_members)

    def _beat(self, turn: Turn) -> None:
        """Publish that nothing older will follow, for tables with tombstones that this site's clock has not passed."""
        own = self._replica.site
        names = [
            name
            for name, table in sorted(self._replica.tables.items())
            if self._replica.registry.has_base(table)  # areas go by the retention alone
            and tombstones.newest_hlc(table) > table.coverage.vector.upto(own)
        ]
        if names:
            turn.publish(self._replica.outbox.advance_clock(names, turn.wall_ms))

    # ---- collection

    def _collect(self, turn: Turn) -> bool:
        """Remove tombstones that were stable at the last collection; return True if there are more of them."""
        if not self._members_known:
            return False
        self._record()
        for idle in self._replica.feed.tidy(turn.wall_ms):
            turn.notify(
                "cursor.idle",
                f"cursor {idle.name!r} of {idle.table} has not moved since {time_text(idle.moved_ms)}: deletes do not wait for"
                " it any more",
                {"cursor": idle.name, "table": idle.table},
                "warning",
            )
        total, more = 0, False
        for name, table in sorted(self._replica.tables.items()):
            stable = self._stable_upto(table, turn.wall_ms)
            unread = self._replica.feed.oldest_unread(name, turn.wall_ms)
            stable = stable if unread is None else min(stable, unread)
            removed = self._remove(table, min(stable, self._stable.get(name, 0)))
            total += removed
            if removed == COLLECT_MAX:
                more = True  # the next call comes soon and uses the same bound
            else:
                self._stable[name] = stable
        if total:
            turn.notify(
                "tombstones.collected", f"removed {total} tombstone(s) that no member needs", {"count": total}, "debug"
            )
        return more

    def _remove(self, table: Table, stable: int) -> int:
        """Remove up to `COLLECT_MAX` tombstones with clocks up to `stable`; return how many."""
        if not stable or not 0 < tombstones.oldest_hlc(table) <= stable:
            return 0
        with self._replica.store.transaction():
            return tombstones.collect(table, stable, COLLECT_MAX)

    def _stable_upto(self, table: Table, wall_ms: int) -> int:
        """Return the clock up to which this replica covers every member's site.

        A member that does not keep an area says nothing about its own writes there. So a table that is cut waits for the
        retention.
        """
        if table.areas is not None:
            return hlc_from_ms(max(wall_ms - self._config.retention_ms, 0))
        vector = table.coverage.vector
        own = self._replica.site
        oldest_ms = wall_ms - self._config.retention_ms
        waiting = [vector.upto(own)]
        for node_id in (own, *self._last_heard):
            if node_id != own and self._last_heard[node_id] < oldest_ms:
                continue
            clocks = sorted(
                vector.upto(site) for site, _ in vector.items() if site[:SITE_PREFIX] == node_id[:SITE_PREFIX]
            )
            # A node has one site at a time. An earlier site has ended, so only recent writes of it may still be under way. For an
            # early site, the present one answers (`capture.drain`).
            recent_ms = max(oldest_ms, EARLY_MS_MAX)
            waiting += [clock for clock in clocks[:-1] if ms_from_hlc(clock) >= recent_ms]
            waiting.append(clocks[-1] if clocks else 0)
        # Tombstones older than the retention wait for nobody, not even for members that lack this table.
        return max(min(waiting), hlc_from_ms(max(oldest_ms, 0)))

    def _record(self) -> None:
        """Store when members were last heard, if that has changed by much."""
        changed = self._last_heard.keys() != self._recorded.keys() or any(
            self._last_heard[node_id] >= self._recorded[node_id] + RECORD_MS for node_id in self._last_heard
        )
        if changed:
            self._replica.store.remember(
                _META_KEY, codec.encode([list(item) for item in sorted(self._last_heard.items())])
            )
            self._recorded = dict(self._last_heard)


def _decode_heard(stored: object) -> dict[bytes, int]:
    """Return what `_record` stored; nothing if it is missing or was edited by hand."""
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
