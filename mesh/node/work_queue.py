"""The agenda of the SQL thread: what waits for the file, and what of it goes next.

Owns the queues and the bytes that wait in them. What always holds: the opening of a link goes before whatever comes over it;
urgent work (a local commit, a live batch, a question of a person) overtakes bulk work (rounds, streams), and each kind gets its
share of the thread: writes of many peers may come as fast as a slow disk takes them, for ever. It must not know threads: whoever
calls it holds the lock.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.sync.events import BatchesReceived, BatchReceived, CommitSeen, Event, LinkOpened, MessageReceived

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Job", "WorkQueue"]

# Peers send at most what they were asked for, but a live burst may outrun the disk. Batches beyond the limit are
# dropped (a gap that the next round fills); messages beyond it close their link (the round starts afresh).
BACKLOG_BYTES_MAX = 64 * 1024 * 1024
# What an event takes beside its payload: a burst of small ones fills memory too.
EVENT_BYTES = 400
# Live batches that wait one behind another are taken together: so many, and as much as takes the write lock for a few
# milliseconds (ADR 0012).
TOGETHER_MAX = 32
TOGETHER_BYTES_MAX = 2_048
# Where both never end, urgent work and the rest take turns of so long: half of the thread each.
TURN_MS = 20


@dataclass(frozen=True, slots=True)
class Job:
    """A function to run between events, its outcome for whoever asked; `last` ends the thread."""

    run: Callable[[], Any]
    outcome: Future[Any]
    last: bool = False


class WorkQueue:
    """Events and jobs in the order in which they are to be done."""

    def __init__(self) -> None:
        self._urgent: deque[Event | Job] = deque()
        self._live: deque[BatchReceived] = deque()  # as urgent, but a person's question does not wait behind thousands
        self._lives_turn = False
        self._bulk: deque[Event] = deque()
        self._backlog_bytes = 0
        self._commit_waits = False
        self._turn_ms: int | None = None  # since when one kind of work is done while the other waits as well
        self._bulks_turn = False  # which

    def __len__(self) -> int:
        return len(self._urgent) + len(self._live) + len(self._bulk)

    def put(self, event: Event) -> bool:
        """Queue one event; False if that would be too much: a batch that the next round brings, or a message."""
        match event:
            case CommitSeen():
                if not self._commit_waits:  # one drain sees everything committed before it
                    self._commit_waits = True
                    self._urgent.append(event)
            case LinkOpened():
                self._urgent.appendleft(event)
            case BatchReceived():
                return self._put_weighed(event, self._live)
            case MessageReceived():
                return self._put_weighed(event, self._bulk)
            case _:
                self._bulk.append(event)
        return True

    def put_job(self, job: Job) -> None:
        """Queue a job; it is urgent."""
        self._urgent.append(job)

    def next(self, now_ms: int) -> Event | Job:
        """Take out what goes next at this monotonic millisecond; there is something."""
        if self._bulk_goes_next(now_ms):
            event = self._bulk.popleft()
            if isinstance(event, MessageReceived):
                self._backlog_bytes -= _weight(event)
            return event
        if self._live_goes_next():
            self._lives_turn = False
            return self._batches()
        self._lives_turn = True
        work = self._urgent.popleft()
        if isinstance(work, CommitSeen):
            self._commit_waits = False
        return work

    def clear(self) -> list[Job]:
        """Give everything up; return the jobs, whose askers wait."""
        jobs = [work for work in self._urgent if isinstance(work, Job)]
        self._urgent.clear()
        self._live.clear()
        self._bulk.clear()
        return jobs

    def _bulk_goes_next(self, now_ms: int) -> bool:
        if not self._bulk or not (self._urgent or self._live):
            self._turn_ms, self._bulks_turn = None, False
            return bool(self._bulk)
        if self._opens():
            return False
        if self._turn_ms is None:
            self._turn_ms = now_ms
        elif now_ms - self._turn_ms >= TURN_MS:
            self._turn_ms, self._bulks_turn = now_ms, not self._bulks_turn
        return self._bulks_turn

    def _live_goes_next(self) -> bool:
        return not self._urgent or (bool(self._live) and self._lives_turn and not self._opens())

    def _opens(self) -> bool:
        return bool(self._urgent) and isinstance(self._urgent[0], LinkOpened)

    def _batches(self) -> BatchReceived | BatchesReceived:
        """Take out the first batch that waits, with those behind it that go along."""
        batches = [self._live.popleft()]
        size = len(batches[0].payload)
        while self._live and len(batches) < TOGETHER_MAX and size + len(self._live[0].payload) <= TOGETHER_BYTES_MAX:
            batches.append(self._live.popleft())
            size += len(batches[-1].payload)
        self._backlog_bytes -= sum(map(_weight, batches))
        return batches[0] if len(batches) == 1 else BatchesReceived(tuple(batches))

    def _put_weighed(self, event: BatchReceived | MessageReceived, queue: deque[Any]) -> bool:
        weight = _weight(event)
        if self._backlog_bytes + weight > BACKLOG_BYTES_MAX:
            return False
        self._backlog_bytes += weight
        queue.append(event)
        return True


def _weight(event: BatchReceived | MessageReceived) -> int:
    return len(event.payload) + EVENT_BYTES
