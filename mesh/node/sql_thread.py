"""The SQL thread: the one thread that uses the database. It runs the `Exchange`, one event at a time.

Work comes from the `WorkQueue` and from the `Exchange`'s deadline. Between two pieces of work the thread pauses now and then,
so that an application waiting for the file's write lock gets it. Reports go to a function that is called on this thread.

Invariants: reports leave in the order of the work; an idle thread sleeps until the deadline; no event ends the thread.
"""

from __future__ import annotations

import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import apsw

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.work_queue import Job, WorkQueue
from mycomesh.sync.errors import DatabaseBusyError, FileReplacedError, SyncError
from mycomesh.sync.events import (
    Action,
    DropLink,
    Event,
    LinkOpened,
    LinkWritable,
    MessageReceived,
    Notice,
    TimerFired,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ExchangeActed", "ExchangeFailed", "ExchangeMachine", "Report", "SqlThread"]

# After the file refused an event (disk full, locked for seconds) the deadline may stay in the past, and without a pause the
# thread would spin on it. The safety check of an idle file comes once a second as well.
REFUSED_PAUSE_MS = 1_000
# The same refusal is reported again after this long: a disk may stay full for hours.
REFUSED_NOTICE_MS = 60_000
# An application that waits for the write lock tries it now and then. After WORK_MS of work, in one event or in several, the lock
# stays free for PAUSE_S; after LONG_WORK_MS for LONG_PAUSE_S, for a program that missed the short pauses (ADR 0012).
WORK_MS, PAUSE_S = 5, 0.001
LONG_WORK_MS, LONG_PAUSE_S = 20, 0.003
# An event or a job that takes longer than this lets waiting inspections run between two of its transactions. A merge first stamps
# all local writes, which are millions while a file is taken in.
INSPECT_MS = 100

ENDED = "the node has closed its file; run 'mycomesh up' again"
BROKEN = "the thread that uses the file has ended with {kind}: {error}; run 'mycomesh up' again"

T = TypeVar("T")


class ExchangeMachine(Protocol):
    """The part of an `Exchange` that the thread uses."""

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Handle one event; return the actions in order."""
        ...

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, or None."""
        ...

    def drop_links(self, reason: str) -> list[Action]:
        """Return the actions that end every link."""
        ...


@dataclass(frozen=True, slots=True)
class ExchangeActed:
    """The `Exchange` returned actions."""

    actions: list[Action]


@dataclass(frozen=True, slots=True)
class ExchangeFailed:
    """The `Exchange` raised an error that it never should; the thread has ended."""

    error: BaseException


Report = ExchangeActed | ExchangeFailed


@dataclass(slots=True)
class _Pauses:
    """When the thread last left the write lock free, and when it last did so for longer."""

    ended_ms: int = 0
    long_ended_ms: int = 0

    def due_s(self, now_ms: int) -> float:
        """Return for how many seconds to pause now, 0 for not at all; a pause that is due counts as taken."""
        if now_ms - self.long_ended_ms >= LONG_WORK_MS:
            self.record_idle(now_ms)
            return LONG_PAUSE_S
        if now_ms - self.ended_ms >= WORK_MS:
            self.ended_ms = now_ms
            return PAUSE_S
        return 0.0

    def record_idle(self, now_ms: int) -> None:
        """Count the idle time until now as a pause of either kind."""
        self.ended_ms = self.long_ended_ms = now_ms


@dataclass(slots=True)
class _Timer:
    """How the deadline shares the thread with the queue, and the last refusal that was reported."""

    ran: bool = False  # the last work was the deadline's
    paused_until_ms: int = 0
    refusal: str = ""
    refusal_silent_until_ms: int = 0


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
        self._work_queue = WorkQueue()
        self._queued_once: dict[Callable[[], object], None] = {}  # functions of `call_once` that have not run yet
        self._ended = False
        self._cause: Exception | None = None  # the error that ended the thread
        self._unopened = ""  # why the file is to be opened again; it is closed until that succeeds
        self._timer = _Timer()
        self._began_ms = 0  # the present event or job
        self._pauses = _Pauses()
        self._thread = threading.Thread(target=self._run, name="mycomesh-sql", daemon=True)

    def start(self) -> Future[None]:
        """Start the thread. The future completes when the file is open, or fails with the error that prevented it."""
        opened = self.call(self._open_exchange)
        self._thread.start()
        return opened

    def submit(self, event: Event) -> None:
        """Queue one event. Any thread may call this; it never waits for SQL."""
        with self._wake:
            if not self._work_queue.put(event):
                if isinstance(event, MessageReceived):
                    reason = "the peer sends faster than this node's disk can store"
                    self._report(ExchangeActed([DropLink(event.link, reason)]))
                return
            self._wake.notify()

    def call(self, run: Callable[[], T]) -> Future[T]:
        """Run a function on the thread as urgent work; the future brings its result or error."""
        return self._queue_job(run, last=False)

    def inspect(self, run: Callable[[bool], T]) -> Future[T]:
        """Run a function that only reads, soon, as urgent work; the future brings its result or error.

        It gets True between two transactions of a long event or job, where it may start no event of its own.
        """
        return self._queue_job(lambda: run(False), last=False, between=lambda: run(True))

    def call_once(self, run: Callable[[], object]) -> None:
        """Run a function on the thread as urgent work, unless it is queued already.

        For functions that cover everything that happened before they run.
        """
        with self._wake:
            if run in self._queued_once:
                return
            self._queued_once[run] = None
        self._queue_job(lambda: self._run_once(run), last=False)

    def _run_once(self, run: Callable[[], object]) -> None:
        with self._wake:
            del self._queued_once[run]  # before it runs: events during the run need another one
        run()

    def stop(self, run: Callable[[], T]) -> Future[T]:
        """Run a last function (drain, close) and end the thread; events still queued are dropped."""
        return self._queue_job(run, last=True)

    def handle_now(self, event: Event) -> None:
        """Handle one event at once; only functions run by `call` and `stop` may call this."""
        assert threading.current_thread() is self._thread
        self._handle(event)

    def pause_if_due(self) -> None:
        """Run inspections that wait for long, and sleep for a moment if a pause is due.

        Called on the thread, between two transactions.
        """
        self._run_inspections()
        pause_s = self._pauses.due_s(self._clock()[0])
        if pause_s:
            time.sleep(pause_s)

    def _run_inspections(self) -> None:
        if self._clock()[0] - self._began_ms < INSPECT_MS or self._exchange is None:
            return
        with self._wake:
            jobs = self._work_queue.take_between()
        for job in jobs:
            self._run_job(job)

    def _queue_job(self, run: Callable[[], T], *, last: bool, between: Callable[[], T] | None = None) -> Future[T]:
        outcome: Future[T] = Future()
        with self._wake:
            if self._ended:
                outcome.set_exception(self._ended_error())
            else:
                self._work_queue.put_job(Job(run, outcome, last, between))
                self._wake.notify()
        return outcome

    def _open_exchange(self) -> None:
        self._exchange = self._open()

    def _run(self) -> None:
        try:
            while True:
                work = self._next_work()
                self._began_ms = self._clock()[0]
                if not isinstance(work, Job):
                    self._handle(work)
                elif self._run_job(work):
                    return
        except Exception as error:  # noqa: BLE001  (the thread's top: the daemon reports it and stops the node)
            self._cause = error
            self._report(ExchangeFailed(error))
        finally:
            self._end()

    def _ended_error(self) -> NodeError:
        if self._cause is None:
            return NodeError(ENDED)
        return NodeError(BROKEN.format(kind=type(self._cause).__name__, error=self._cause))

    def _end(self) -> None:
        """Fail the queued jobs, whose callers would wait forever."""
        with self._wake:
            self._ended = True
            for job in self._work_queue.clear():
                if job.outcome.set_running_or_notify_cancel():
                    job.outcome.set_exception(self._ended_error())

    def _next_work(self) -> Event | Job:
        """Wait for work or for the deadline; a deadline that is always due alternates with the queue."""
        with self._wake:
            while True:
                deadline = self._exchange.next_deadline() if self._exchange is not None else None
                wait_ms = None if deadline is None else max(deadline, self._timer.paused_until_ms) - self._clock()[0]
                queued = len(self._work_queue) > 0
                if wait_ms is not None and wait_ms <= 0 and not (self._timer.ran and queued):
                    self._timer.ran = True
                    return TimerFired()
                self._timer.ran = False
                if queued:
                    return self._work_queue.next(self._clock()[0])
                self._wake.wait(None if wait_ms is None else wait_ms / 1000)
                self._pauses.record_idle(self._clock()[0])

    def _handle(self, event: Event) -> None:
        now_ms, wall_ms = self._clock()
        again = self._unopened
        actions = self._reopen(again, event, now_ms) if again else self._handled(event, now_ms, wall_ms)
        if actions:
            self._report(ExchangeActed(actions))
        self.pause_if_due()

    def _handled(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Return what the exchange answers to an event, or what follows from its error."""
        assert self._exchange is not None, "an event before the file was open"
        try:
            return self._exchange.handle(event, now_ms, wall_ms)
        except FileReplacedError as error:
            return self._reopen(str(error), event, now_ms)
        except SyncError as error:
            # The file refused (disk full, locked by another program). The event is lost; rounds repeat its work.
            self._timer.paused_until_ms = now_ms + REFUSED_PAUSE_MS
            return [*self._refusal_notices(str(error), event, now_ms)]
        except Exception as error:  # noqa: BLE001  (the thread must outlive whatever a peer's message or row leads to)
            self._timer.paused_until_ms = now_ms + REFUSED_PAUSE_MS
            return self._fault_actions(error, event, now_ms)

    def _reopen(self, text: str, event: Event, now_ms: int) -> list[Action]:
        """Open the file again after a backup replaced its content, as a start of the node would."""
        assert self._exchange is not None
        try:
            opened = self._open()
        except DatabaseBusyError as error:  # the next event tries again
            self._unopened = text
            self._timer.paused_until_ms = now_ms + REFUSED_PAUSE_MS
            return [*self._refusal_notices(str(error), event, now_ms)]
        self._unopened = ""
        ending, self._exchange = self._exchange.drop_links("this node opens its file again"), opened
        return [
            *ending,
            Notice("database.replaced", f"{text}; the node continues with its present content", {}, "warning"),
        ]

    def _fault_actions(self, error: Exception, event: Event, now_ms: int) -> list[Action]:
        """Refuse an event on which this node failed in a way that no layer knows: end the link that brought it, and report it.

        A transaction that was open is undone. The link's own state may be half changed, so it begins again with a new link.
        """
        link = event.link if isinstance(event, MessageReceived | LinkOpened | LinkWritable) else None
        drops: list[Action] = [] if link is None else [DropLink(link, "this node failed on its message")]
        frames = [f"{Path(at.filename).name}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)]
        text = f"this node failed and goes on: {type(error).__name__}: {error} ({frames[-1]}); report it as a bug"
        notices = self._refusal_notices(text, event, now_ms)
        detail = {"event": type(event).__name__, "frames": frames}
        return [*drops, *(Notice("node.fault", notice.text, detail, "error") for notice in notices)]

    def _refusal_notices(self, text: str, event: Event, now_ms: int) -> list[Notice]:
        """Report why the file refused an event, or nothing if the same was reported a short while ago."""
        if text == self._timer.refusal and now_ms < self._timer.refusal_silent_until_ms:
            return []
        self._timer.refusal, self._timer.refusal_silent_until_ms = text, now_ms + REFUSED_NOTICE_MS
        return [Notice("database.refused", text, {"event": type(event).__name__}, "warning")]

    def _run_job(self, job: Job) -> bool:
        """Run a job and deliver its outcome; return whether the thread ends. Skip a job whose caller has given up.

        The last job runs anyway, because it closes the file. A running job's outcome cannot be cancelled any more.
        """
        awaited = job.outcome.set_running_or_notify_cancel()
        if not awaited and not job.last:
            return False
        result: object = None
        failure: Exception | None = None
        try:
            result = job.run()
        except apsw.ConnectionClosedError:  # its opening again waits for another program
            failure = NodeError("the node opens its file again; try again")
        except apsw.SQLError as error:
            failure = NodeError(f"a table changed while the node read the file ({error}); try again")
        except Exception as error:  # noqa: BLE001  (the caller gets the error, of whatever kind)
            failure = error
        if awaited and failure is not None:
            job.outcome.set_exception(failure)
        elif awaited:
            job.outcome.set_result(result)
        return job.last or (failure is not None and self._exchange is None)
