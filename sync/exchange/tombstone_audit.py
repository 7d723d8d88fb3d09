"""The end of a round: the sender's vectors are adopted, after an audit of the tables where it has collected tombstones.

Owns the comparison of stamps, window by window. What always holds: a replica that does not cover everything up to the sender's
marks may hold rows whose delete nobody can send any more, so it asks which of its entries the sender still holds, and drops
the rest of what the sender covers before it adopts (design.md section 4; ADR 0007). It must not know links.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mycomesh.sync.codec import require
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.merge import tombstones
from mycomesh.sync.replica import Replica
from mycomesh.sync.wire import messages as wire

__all__ = ["AuditStep", "TombstoneAudit", "reply_to"]

# Stamps compared in one step, and rows dropped in one transaction: some milliseconds each.
STAMPS_MAX = 16_384
DROPS_MAX = 256
_NEVER = (1 << 64, 1 << 64)


@dataclass(slots=True)
class AuditStep:
    """What one step has done: batches to publish, rows that are gone, whether that was all, tables that moved.

    `short` are tables whose vector claims more than may be adopted at this time.
    """

    published: list[bytes] = field(default_factory=list)
    rows: int = 0
    done: bool = False
    advanced: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


def reply_to(replica: Replica, question: wire.AuditRequest) -> wire.AuditReply:
    """Return which entries this replica holds; the caller has drained."""
    table = replica.tables.get(question.table)
    found: Sequence[int] = []
    reached = question.upto
    if table is not None:
        found, reached = tombstones.stamps(
            table, question.site, question.after, question.upto, min(STAMPS_MAX, wire.RUNS_MAX)
        )
    return wire.AuditReply(question.table, question.site, question.after, reached, tuple(_runs(question.after, found)))


class TombstoneAudit:
    """The end of one round."""

    def __init__(
        self, replica: Replica, vectors: Mapping[str, Vector], collected: Mapping[str, Vector], held: Sequence[str]
    ) -> None:
        """`vectors` and `collected` came with the end of the stream; `held` are tables that were not empty before it."""
        self._replica = replica
        self._vectors = vectors
        self._collected = collected
        self._held = held
        self._requests: deque[wire.AuditRequest] = deque()
        self._absent: dict[str, array[int]] = {}  # table -> place, hlc, place, hlc, ...

    def begin(self) -> wire.AuditRequest | None:
        """Return the first question, None if there is nothing to ask."""
        for name in self._held:
            marks, table = self._collected.get(name), self._replica.tables.get(name)
            if marks is None or table is None or not marks.missing_from(table.vector):
                continue
            self._requests += [
                wire.AuditRequest(name, site, after, upto)
                for site, ranges in self._vectors.get(name, Vector()).items()
                for after, upto in ranges
                if tombstones.stamps(table, site, after, upto, 1)[0]
            ]
        return self._requests[0] if self._requests else None

    @property
    def awaiting_reply(self) -> bool:
        """True while an answer is to come."""
        return bool(self._requests)

    def on_audit_reply(self, held: wire.AuditReply) -> wire.AuditRequest | None:
        """Take one answer; returns the next question. Raises `DecodeError` for an answer to another question."""
        require(self._requests, "answers an audit that has ended")
        question = self._requests.popleft()
        same = (held.table, held.site, held.after) == (question.table, question.site, question.after)
        require(same and question.after < held.reached <= question.upto, "answers another audit")
        table = self._replica.tables.get(held.table)
        place = None if table is None else table.store.site_number(held.site)
        if table is not None and place is not None:
            absent = self._absent.setdefault(held.table, array("q"))
            after, windows = held.after, list(_windows(held.after, held.runs))
            while after < held.reached:
                mine, after = tombstones.stamps(table, held.site, after, held.reached, STAMPS_MAX)
                for hlc in _besides(mine, windows):
                    absent.extend((place, hlc))
        if held.reached < question.upto:
            self._requests.appendleft(wire.AuditRequest(question.table, question.site, held.reached, question.upto))
        return self._requests[0] if self._requests else None

    def step(self, wall_ms: int) -> AuditStep:
        """Drop some of what is gone, and adopts when nothing is left; raises `DatabaseBusyError` with nothing lost."""
        step = AuditStep()
        step.published = self._replica.changing(wall_ms, lambda: self._drop(step, wall_ms))
        step.done = not self._absent
        if step.done:
            step.advanced = self._replica.adopt(self._vectors, self._collected, wall_ms)
            step.incomplete = [
                name
                for name, vector in self._vectors.items()
                if name in self._replica.tables and vector.missing_from(self._replica.vector(name))
            ]
        return step

    def _drop(self, step: AuditStep, wall_ms: int) -> None:
        if not self._absent:
            return
        name, absent = next(iter(self._absent.items()))
        some = absent[: 2 * DROPS_MAX]
        table = self._replica.tables.get(name)
        if table is not None:
            forgotten = tombstones.forget(table, list(zip(some[::2], some[1::2], strict=True)), wall_ms)
            step.rows += forgotten
            if forgotten:
                self._replica.show_again(table)  # parked rows, whose place they had
        # Kept in memory alone: what a rolled back transaction leaves undone is audited by the next round.
        del absent[: 2 * DROPS_MAX]
        if not absent:
            del self._absent[name]


def _runs(after: int, clocks: Sequence[int]) -> Iterator[int]:
    """Yield runs of consecutive clocks: the first as difference to the last before, and how many."""
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
    """Yield (first, last) of runs; a run may be as long as a peer likes to say."""
    last = after
    for gap, count in zip(runs[::2], runs[1::2], strict=True):
        yield last + gap, last + gap + count - 1
        last += gap + count - 1


def _besides(clocks: Sequence[int], windows: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield the clocks, ascending, that lie in no window."""
    following = iter(windows)
    first, last = next(following, _NEVER)
    for hlc in clocks:
        while last < hlc:
            first, last = next(following, _NEVER)
        if hlc < first:
            yield hlc
