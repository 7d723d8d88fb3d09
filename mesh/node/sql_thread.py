"""The one thread that owns the database: `Replica` and `Exchange` live and die here, events run one after another.

Owns when the `Exchange` runs: what the agenda says, its deadline, and the breaks between. What always holds: results leave in
the order of the work; an idle thread sleeps until the deadline. It must not know the network or the event loop: reports are
handed to a function that may be called from this thread.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import apsw

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.work_queue import Job, WorkQueue
from mycomesh.sync.errors import DatabaseBusyError, FileReplacedError, SyncError
from mycomesh.sync.events import (
    Action,
    DropLink,
    Event,
    MessageReceived,
    Notice,
    TimerFired,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Acted", "Broken", "ExchangeMachine", "Report", "SqlThread"]

# After the file refused an event (disk full, a lock held for seconds) its deadline may stay in the past: without a
# pause the thread would spin on it. One second is what the safety check of an idle file takes anyway.
REFUSED_PAUSE_MS = 1_000
# A disk that stays full is no news every second.
REFUSED_TELL_MS = 60_000
# An application that waits for the write lock looks for it now and then: after so much work, in one event or in several,
# comes a moment in which the lock is free, and after more work a longer one, for who has missed the first (ADR 0012).
HELD_MS, FREE_S = 5, 0.001
HELD_LONG_MS, FREE_LONG_S = 20, 0.003

ENDED = "the node has closed its file; run 'mycomesh up' again"

T = TypeVar("T")


class ExchangeMachine(Protocol):
    """What this module needs of an `Exchange`."""

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Take one event; answer with the actions in order."""
        ...

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, or None."""
        ...

    def farewell(self, reason: str) -> list[Action]:
        """Return what ends every link."""
        ...


@dataclass(frozen=True, slots=True)
class Acted:
    """The `Exchange` answered."""

    actions: list[Action]


@dataclass(frozen=True, slots=True)
class Broken:
    """The `Exchange` raised what it never should: the database side of the node has ended."""

    error: BaseException


Report = Acted | Broken


@dataclass(slots=True)
class _Breaks:
    """When the thread leaves the file alone: the ends of the last break, and of the last long one."""

    ended_ms: int = 0
    long_ended_ms: int = 0

    def due_s(self, now_ms: int) -> float:
        """Return for how many seconds to leave the file alone now, counting from here on."""
        if now_ms - self.long_ended_ms >= HELD_LONG_MS:
            self.ended(now_ms)
            return FREE_LONG_S
        if now_ms - self.ended_ms >= HELD_MS:
            self.ended_ms = now_ms
            return FREE_S
        return 0.0

    def ended(self, now_ms: int) -> None:
        """The file was left alone until now."""
        self.ended_ms = self.long_ended_ms = now_ms


@dataclass(slots=True)
class _Timer:
    """How the deadline shares the thread with the queues, and what was said of a file that refuses."""

    ran: bool = False
    paused_until: int = 0
    told: str = ""
    told_until: int = 0


class SqlThread:
    """Runs one `Exchange` on one thread."""

    def __init__(
        self,
        open_exchange: Callable[[], ExchangeMachine],
        report: Callable[[Report], None],
        clock: Callable[[], tuple[int, int]],
    ) -> None:
        self._open = open_exchange
        self._report = report
        self._clock = clock
        self._exchange: ExchangeMachine | None = None
        self._wake = threading.Condition()
        self._agenda = WorkQueue()
        self._waiting: dict[Callable[[], object], None] = {}  # what runs once, however often it is asked for
        self._ended = False
        self._timer = _Timer()
        self._breaks = _Breaks()
        self._thread = threading.Thread(target=self._run, name="mycomesh-sql", daemon=True)

    def start(self) -> Future[None]:
        """Start the thread; the future ends when the file is open, or with the error that says why it is not."""
        opened = self.call(self._opened)
        self._thread.start()
        return opened

    def submit(self, event: Event) -> None:
        """Queue one event; may be called from any thread and never blocks on SQL."""
        with self._wake:
            if not self._agenda.put(event):
                if isinstance(event, MessageReceived):
                    self._report(Acted([DropLink(event.link, "its messages outran this node's disk")]))
                return
            self._wake.notify()

    def call(self, run: Callable[[], T]) -> Future[T]:
        """Run a function on the thread, before bulk work; its answer or error comes in the future."""
        return self._queue_job(run, last=False)

    def call_once(self, run: Callable[[], object]) -> None:
        """Run a function on the thread, before bulk work, unless it waits there already: one run sees what came before it."""
        with self._wake:
            if run in self._waiting:
                return
            self._waiting[run] = None
        self._queue_job(lambda: self._run_once(run), last=False)

    def _run_once(self, run: Callable[[], object]) -> None:
        with self._wake:
            del self._waiting[run]
        run()

    def stop(self, run: Callable[[], T]) -> Future[T]:
        """Run a last function (drain, close) and end the thread; what is still queued is left to the next start."""
        return self._queue_job(run, last=True)

    def handle_now(self, event: Event) -> None:
        """Run one event at once; only from functions given to `call` and `stop`."""
        assert threading.current_thread() is self._thread
        self._handle(event)

    def breathe(self) -> None:
        """Leave the file alone for a moment if that is due; between two transactions, on the thread."""
        pause_s = self._breaks.due_s(self._clock()[0])
        if pause_s:
            time.sleep(pause_s)

    def _queue_job(self, run: Callable[[], T], *, last: bool) -> Future[T]:
        outcome: Future[T] = Future()
        with self._wake:
            if self._ended:
                outcome.set_exception(NodeError(ENDED))
            else:
                self._agenda.put_job(Job(run, outcome, last))
                self._wake.notify()
        return outcome

    def _opened(self) -> None:
        self._exchange = self._open()

    def _run(self) -> None:
        try:
            while True:
                work = self._take()
                if not isinstance(work, Job):
                    self._handle(work)
                elif self._finish(work):
                    return
        except Exception as error:  # noqa: BLE001  (the thread's top: the daemon says it and stops the node)
            self._report(Broken(error))
        finally:
            self._end()

    def _end(self) -> None:
        """Let nobody wait for a thread that has ended."""
        with self._wake:
            self._ended = True
            for job in self._agenda.clear():
                job.outcome.set_exception(NodeError(ENDED))

    def _take(self) -> Event | Job:
        """Wait for work or for the deadline; a deadline that is always due alternates with the queues."""
        with self._wake:
            while True:
                deadline = self._exchange.next_deadline() if self._exchange is not None else None
                wait_ms = None if deadline is None else max(deadline, self._timer.paused_until) - self._clock()[0]
                queued = len(self._agenda) > 0
                if wait_ms is not None and wait_ms <= 0 and not (self._timer.ran and queued):
                    self._timer.ran = True
                    return TimerFired()
                self._timer.ran = False
                if queued:
                    return self._agenda.next(self._clock()[0])
                self._wake.wait(None if wait_ms is None else wait_ms / 1000)
                self._breaks.ended(self._clock()[0])

    def _handle(self, event: Event) -> None:
        assert self._exchange is not None, "an event before the file was open"
        now_ms, wall_ms = self._clock()
        try:
            actions = self._exchange.handle(event, now_ms, wall_ms)
        except FileReplacedError as error:
            actions = self._begun_anew(str(error), event, now_ms)
        except SyncError as error:
            # The file refused (disk full, another program holds the lock): the event is void, rounds repeat its work.
            self._timer.paused_until = now_ms + REFUSED_PAUSE_MS
            actions = self._refused(str(error), event, now_ms)
        if actions:
            self._report(Acted(actions))
        self.breathe()

    def _begun_anew(self, text: str, event: Event, now_ms: int) -> list[Action]:
        """Open the file again: a backup put back under a running node is what it is under a stopped one."""
        assert self._exchange is not None
        try:
            opened = self._open()
        except DatabaseBusyError as error:  # the next event meets the same, and tries again
            self._timer.paused_until = now_ms + REFUSED_PAUSE_MS
            return self._refused(str(error), event, now_ms)
        ending, self._exchange = self._exchange.farewell("begins anew"), opened
        return [*ending, Notice("database.replaced", f"{text}; the node goes on with what is there", {}, "warning")]

    def _refused(self, text: str, event: Event, now_ms: int) -> list[Action]:
        """Say why the file refused an event; the same again only after a while."""
        if text == self._timer.told and now_ms < self._timer.told_until:
            return []
        self._timer.told, self._timer.told_until = text, now_ms + REFUSED_TELL_MS
        return [Notice("database.refused", text, {"event": type(event).__name__}, "warning")]

    def _finish(self, job: Job) -> bool:
        """Run a job and hand its outcome back; say whether the thread ends."""
        try:
            result = job.run()
        except apsw.SQLError as error:
            job.outcome.set_exception(NodeError(f"the file's tables have just changed ({error}); ask again"))
            return job.last or self._exchange is None
        except Exception as error:  # noqa: BLE001  (whoever asked gets the error, whatever it is)
            job.outcome.set_exception(error)
            return job.last or self._exchange is None
        job.outcome.set_result(result)
        return job.last
