"""Tombstone audit: removes rows whose tombstones the sender of a round has collected (design.md section 4; ADR 0007).

A replica that was away may have rows whose deletes no peer can send any more. Before it takes the sender's vectors, it asks,
window by window, which of its entries the sender still has. Of the windows that the sender covers, it removes the rest, as far
as `replication.drop_guard` allows it.

Invariant: a replica that does not cover the sender's GC watermarks takes a vector only after the audit, and not while some
row that the sender reports as deleted is in doubt.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mycomesh.sync.codec import require
from mycomesh.sync.crdt.hlc import DRIFT_MS_MAX
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.merge import tombstones
from mycomesh.sync.merge.cut import younger
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire import messages as wire

__all__ = ["AuditStep", "TombstoneAudit", "reply_to", "serve"]

# Stamps compared for one reply, and rows removed in one transaction: some milliseconds each.
STAMPS_MAX = 16_384
DROPS_MAX = 256
KEEPS_MAX = 32  # rows written again, each as two changes that are merged alone
# Entries whose rows are read before a decision, some 20 us each.
LOOKED_AT_MAX = 4_096
_NEVER = (1 << 64, 1 << 64)


@dataclass(slots=True)
class AuditStep:
    """The outcome of one step of an audit."""

    published: list[bytes] = field(default_factory=list)  # batches of local writes, to publish
    rows: int = 0  # removed
    kept: int = 0  # written again
    done: bool = False
    advanced: list[str] = field(default_factory=list)  # tables whose vectors grew
    incomplete: list[str] = field(default_factory=list)  # tables whose sender claims clocks beyond the present


def reply_to(replica: Replica, request: wire.AuditRequest) -> wire.AuditReply:
    """Return which entries this replica has; the caller has drained local writes."""
    table = replica.registry.table_of(request.table)
    found: Sequence[int] = []
    reached = request.upto
    if table is not None:
        found, reached = tombstones.stamps(
            table, request.site, request.after, request.upto, min(STAMPS_MAX, wire.RUNS_MAX)
        )
    return wire.AuditReply(request.table, request.site, request.after, reached, tuple(_runs(request.after, found)))


def serve(replica: Replica, number: int, request: wire.AuditRequest, turn: Turn) -> None:
    """Reply to an audit; after an error of the file the peer gets no reply, abandons its round and starts another."""
    replies: list[wire.AuditReply] = []
    turn.publish(replica.outbox.read_drained(turn.wall_ms, lambda: replies.append(reply_to(replica, request))))
    for reply in replies:
        turn.send(number, reply)


def lacking(table: Table, reply: wire.AuditReply) -> list[tuple[int, int]]:
    """Return the entries (site number, hlc) of this replica that the sender of a reply does not have."""
    number = table.store.site_number(reply.site)
    found: list[tuple[int, int]] = []
    after, windows = reply.after, list(_windows(reply.after, reply.runs))
    while number is not None and after < reply.reached:
        mine, after = tombstones.stamps(table, reply.site, after, reply.reached, STAMPS_MAX)
        found += [(number, hlc) for hlc in _besides(mine, windows)]
    return found


class TombstoneAudit:
    """The audit at the end of one round."""

    def __init__(
        self,
        replica: Replica,
        vectors: Mapping[str, Vector],
        watermarks: Mapping[str, Vector],
        not_empty: Sequence[str],
    ) -> None:
        """Prepare an audit.

        Args:
            replica: this replica.
            vectors: the sender's vectors by table, from the end of the stream.
            watermarks: the sender's GC watermarks by table, from there too.
            not_empty: tables that had entries here before the stream; the others need no audit.
        """
        self._replica = replica
        self._vectors = vectors
        self._watermarks = watermarks
        self._not_empty = not_empty
        self._requests: deque[wire.AuditRequest] = deque()
        self._absent: dict[str, array[int]] = {}  # table -> site number, hlc, site number, hlc, ...
        self._kept: dict[str, array[int]] = {}  # the same, of what a person has decided to keep
        self._reason = ""  # of the conflict records
        self._peer = b""
        self._doubted: dict[str, int] | None = None

    def begin(self) -> wire.AuditRequest | None:
        """Return the first request, None if no table needs one."""
        for name in self._not_empty:
            watermarks, unit = self._watermarks.get(name), self._replica.registry.unit(name)
            if watermarks is None or unit is None or not watermarks.missing_from(unit.vector):
                continue
            self._requests += [
                wire.AuditRequest(name, site, after, upto)
                for site, ranges in self._vectors.get(name, Vector()).items()
                for after, upto in ranges
                if tombstones.stamps(unit.table, site, after, upto, 1)[0]
            ]
        return self._requests[0] if self._requests else None

    @property
    def awaiting_reply(self) -> bool:
        """True while a reply is missing."""
        return bool(self._requests)

    def on_audit_reply(self, reply: wire.AuditReply) -> wire.AuditRequest | None:
        """Record one reply and return the next request, None after the last; raise `DecodeError` if it does not match."""
        require(self._requests, "replies to an audit that has ended")
        request = self._requests.popleft()
        same = (reply.table, reply.site, reply.after) == (request.table, request.site, request.after)
        require(same and request.after < reply.reached <= request.upto, "replies to another audit request")
        table = self._replica.registry.table_of(reply.table)
        if table is not None:
            absent = self._absent.setdefault(reply.table, array("q"))
            for stamp in lacking(table, reply):
                absent.extend(stamp)
        if reply.reached < request.upto:
            self._requests.appendleft(wire.AuditRequest(request.table, request.site, reply.reached, request.upto))
        return self._requests[0] if self._requests else None

    def judge(self, peer: bytes, wall_ms: int) -> dict[str, int]:
        """Decide, once, what may be removed on the word of this peer; return the tables in doubt, with numbers of entries.

        `wall_ms` is the time of this node: rows that go with time, here or where a clock is a little ahead, were not deleted.
        """
        if self._doubted is not None:
            return {}
        self._doubted, absent = {}, self._absent
        self._absent = {}
        self._peer = peer
        self._reason = f"deleted elsewhere, as member {peer.hex()[:8]} reports"
        for name in self._vectors:
            stamps, size = self._ending(name, absent.get(name, array("q")), wall_ms)
            verdict = self._replica.drop_guard.judge(name, peer, stamps, size)
            if verdict.stamps:
                self._absent[name] = verdict.stamps
            if verdict.kept:
                self._kept[name] = verdict.kept
            if verdict.doubted:  # the vector is not taken then, also where rows are written again
                self._doubted[name] = verdict.doubted
        return {name: count for name, count in self._doubted.items() if name not in self._kept}

    def _ending(self, name: str, absent: array[int], wall_ms: int) -> tuple[array[int], int]:
        """Return the entries that would go, and their bytes; all entries if there are too many to read each row."""
        table = self._replica.registry.table_of(name)
        if table is None or len(absent) > 2 * LOOKED_AT_MAX:
            return absent, 0
        pairs = younger(table, list(zip(absent[::2], absent[1::2], strict=True)), wall_ms + DRIFT_MS_MAX)
        stamps, size = tombstones.ending(table, pairs)
        return array("q", [number for stamp in stamps for number in stamp]), size

    def step(self, wall_ms: int) -> AuditStep:
        """Remove up to `DROPS_MAX` rows; once none is left, take the sender's vectors.

        Raises:
            DatabaseBusyError: nothing was changed.
        """
        step = AuditStep()
        step.published = self._replica.outbox.write_drained(wall_ms, lambda: self._drop(step, wall_ms))
        step.done = not self._absent and not self._kept
        if step.done:
            certain = {name: vector for name, vector in self._vectors.items() if name not in (self._doubted or {})}
            for name in certain:
                self._replica.drop_guard.settle(name, self._peer)
            step.advanced = self._replica.inbox.take_vectors(certain, self._watermarks, wall_ms)
            step.incomplete = [
                name
                for name, vector in certain.items()
                if self._replica.registry.unit(name) is not None and vector.missing_from(self._replica.vector(name))
            ]
        return step

    def _drop(self, step: AuditStep, wall_ms: int) -> None:
        if self._kept and not self._absent:
            self._keep(step)
        if not self._absent:
            return
        name, absent = next(iter(self._absent.items()))
        some = absent[: 2 * DROPS_MAX]
        table = self._replica.registry.table_of(name)
        if table is not None:
            forgotten = tombstones.forget(table, list(zip(some[::2], some[1::2], strict=True)), wall_ms, self._reason)
            step.rows += forgotten
            if forgotten:
                self._replica.outbox.retry(table)  # parked rows may fit now
        # This list is only in memory. If the transaction rolls back, the next round audits these rows again.
        del absent[: 2 * DROPS_MAX]
        if not absent:
            del self._absent[name]

    def _keep(self, step: AuditStep) -> None:
        name, stamps = next(iter(self._kept.items()))
        some = stamps[: 2 * KEEPS_MAX]
        unit = self._replica.registry.unit(name)
        if unit is not None:
            pairs = list(zip(some[::2], some[1::2], strict=True))
            step.kept += tombstones.write_again(unit.table, pairs, unit.own_site(self._replica.site))
        del stamps[: 2 * KEEPS_MAX]
        if not stamps:
            del self._kept[name]


def _runs(after: int, clocks: Sequence[int]) -> Iterator[int]:
    """Yield two numbers for each run of consecutive clocks: the distance from the previous run's end, and the count."""
    last, start, count = after, 0, 0
    for hlc in clocks:
        if count and hlc == start + count:
            count += 1
            continue
        if count:
            yield start - last
            yield count
            last = start + count - 1
        start, count = hlc, 1
    if count:
        yield start - last
        yield count


def _windows(after: int, runs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each run, without expanding it: the peer chooses its length."""
    last = after
    for gap, count in zip(runs[::2], runs[1::2], strict=True):
        yield last + gap, last + gap + count - 1
        last += gap + count - 1


def _besides(clocks: Sequence[int], windows: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the clocks that lie in no window; both are ascending."""
    following = iter(windows)
    first, last = next(following, _NEVER)
    for hlc in clocks:
        while last < hlc:
            first, last = next(following, _NEVER)
        if hlc < first:
            yield hlc
