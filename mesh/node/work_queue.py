"""The SQL thread's work queue: urgent work overtakes bulk work, and neither starves the other.

Urgent work is local commits, live batches and requests of people; bulk work is rounds and streams. Many peers may write as fast
as a slow disk applies it, without end, so each kind gets a share of the thread: urgent and bulk work take turns of `TURN_MS`,
and within urgent work live batches alternate with everything else. The caller holds the lock.

Invariants: what members may do comes out before all that they send after it is known; the opening of a link before anything that
arrives over that link.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.sync.events import (
    BatchesReceived,
    BatchReceived,
    CommitSeen,
    Event,
    LinkOpened,
    MessageReceived,
    RightsKnown,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Job", "WorkQueue"]

# Peers send at most what this node requested, but a live burst may outrun the disk. Batches beyond the limit are dropped, and the
# next round fills the gap. Messages beyond it close their link, and the round starts again.
BACKLOG_BYTES_MAX = 64 * 1024 * 1024
# Memory that an event takes besides its payload: a burst of small events fills memory too.
EVENT_BYTES = 400
# Live batches that wait one behind another are applied in one transaction. These limits keep the write lock to a few milliseconds
# (ADR 0012).
GROUP_BATCHES_MAX = 32
GROUP_BYTES_MAX = 2_048
# How long urgent work runs before bulk work, or bulk work before urgent work, while both wait.
TURN_MS = 20


@dataclass(frozen=True, slots=True)
class Job:
    """A function to run between events; its caller waits for `outcome`. A `last` job ends the thread.

    between: what may run in its place between two transactions of a long event or job, None if nothing may.
    """

    run: Callable[[], Any]
    outcome: Future[Any]
    last: bool = False
    between: Callable[[], Any] | None = None


class WorkQueue:
    """Events and jobs, handed out in the order in which the thread must run them."""

    def __init__(self) -> None:
        self._rights: deque[RightsKnown] = deque()  # before all else
        self._urgent: deque[Event | Job] = deque()
        self._live: deque[BatchReceived] = deque()  # as urgent, but a job must not wait behind thousands
        self._live_turn = False
        self._bulk: deque[Event] = deque()
        self._backlog_bytes = 0
        self._commit_waits = False
        self._turn_began_ms: int | None = None  # None unless urgent and bulk work both wait
        self._bulk_turn = False  # True: bulk work has the turn

    def __len__(self) -> int:
        return len(self._rights) + len(self._urgent) + len(self._live) + len(self._bulk)

    def put(self, event: Event) -> bool:
        """Queue one event; return False if a batch or message would exceed `BACKLOG_BYTES_MAX` and was not queued."""
        match event:
            case CommitSeen():
                if not self._commit_waits:  # one drain covers every commit before it
                    self._commit_waits = True
                    self._urgent.append(event)
            case RightsKnown():
                self._rights.append(event)
            case LinkOpened():
                self._urgent.appendleft(event)
            case BatchReceived():
                return self._put_within_limit(event, self._live)
            case MessageReceived():
                return self._put_within_limit(event, self._bulk)
            case _:
                self._bulk.append(event)
        return True

    def put_job(self, job: Job) -> None:
        """Queue a job as urgent work."""
        self._urgent.append(job)

    def next(self, now_ms: int) -> Event | Job:
        """Remove and return the next event or job; the queue must not be empty. `now_ms` is monotonic."""
        if self._rights:
            return self._rights.popleft()
        if self._bulk_is_next(now_ms):
            event = self._bulk.popleft()
            if isinstance(event, MessageReceived):
                self._backlog_bytes -= _size(event)
            return event
        if self._live_is_next():
            self._live_turn = False
            return self._next_batches()
        self._live_turn = True
        work = self._urgent.popleft()
        if isinstance(work, CommitSeen):
            self._commit_waits = False
        return work

    def take_between(self) -> list[Job]:
        """Remove the jobs that need not wait for a long event; return them as they may run now."""
        found = [work for work in self._urgent if isinstance(work, Job) and work.between is not None]
        for job in found:
            self._urgent.remove(job)
        return [Job(job.between, job.outcome) for job in found if job.between is not None]

    def clear(self) -> list[Job]:
        """Discard all events; return the jobs, because their callers wait for an outcome."""
        jobs = [work for work in self._urgent if isinstance(work, Job)]
        self._rights.clear()
        self._urgent.clear()
        self._live.clear()
        self._bulk.clear()
        return jobs

    def _bulk_is_next(self, now_ms: int) -> bool:
        if not self._bulk or not (self._urgent or self._live):
            # Time counts from the moment when both wait, so bulk work that arrives late has no claim yet.
            self._turn_began_ms, self._bulk_turn = None, False
            return bool(self._bulk)
        if self._link_opening_is_first():
            return False
        if self._turn_began_ms is None:
            self._turn_began_ms = now_ms
        elif now_ms - self._turn_began_ms >= TURN_MS:
            self._turn_began_ms, self._bulk_turn = now_ms, not self._bulk_turn
        return self._bulk_turn

    def _live_is_next(self) -> bool:
        return not self._urgent or (bool(self._live) and self._live_turn and not self._link_opening_is_first())

    def _link_opening_is_first(self) -> bool:
        return bool(self._urgent) and isinstance(self._urgent[0], LinkOpened)

    def _next_batches(self) -> BatchReceived | BatchesReceived:
        """Remove and return the first live batch, grouped with those behind it as far as the limits allow."""
        batches = [self._live.popleft()]
        size = len(batches[0].payload)
        while self._live and len(batches) < GROUP_BATCHES_MAX and size + len(self._live[0].payload) <= GROUP_BYTES_MAX:
            batches.append(self._live.popleft())
            size += len(batches[-1].payload)
        self._backlog_bytes -= sum(map(_size, batches))
        return batches[0] if len(batches) == 1 else BatchesReceived(tuple(batches))

    def _put_within_limit(self, event: BatchReceived | MessageReceived, queue: deque[Any]) -> bool:
        size = _size(event)
        if self._backlog_bytes + size > BACKLOG_BYTES_MAX:
            return False
        self._backlog_bytes += size
        queue.append(event)
        return True


def _size(event: BatchReceived | MessageReceived) -> int:
    return len(event.payload) + EVENT_BYTES
