"""The SQL thread: order, urgency, limits, deadlines, and that nobody waits for SQL but those who asked."""

from __future__ import annotations

import threading
from queue import Queue

import apsw
import pytest

from mycomesh.mesh.node import sql_thread, work_queue
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.sql_thread import ExchangeActed, ExchangeFailed, SqlThread
from mycomesh.sync.errors import DatabaseBusyError, DatabaseError, FileReplacedError
from mycomesh.sync.events import (
    BatchReceived,
    CommitSeen,
    DropLink,
    MessageReceived,
    Notice,
    Publish,
    TimerFired,
)

WAIT_S = 20  # only a broken thread takes this long


class RecordingExchange:
    """An Exchange of a test: keeps the events, answers each with one Publish, can be held and can fail."""

    def __init__(self):
        self.seen = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.deadline = None
        self.error = None

    def handle(self, event, now_ms, wall_ms):
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.seen.append(event)
        if isinstance(event, TimerFired):
            self.deadline = None
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return [Publish(repr(event).encode())]

    def next_deadline(self):
        return self.deadline

    def drop_links(self, reason):
        return [DropLink(1, reason)]


@pytest.fixture
def exchange():
    return RecordingExchange()


@pytest.fixture
def reports():
    return Queue()


@pytest.fixture
def sql(exchange, reports):
    times = iter(range(1_000_000))
    thread = SqlThread(lambda: exchange, reports.put, lambda: (next(times), 0))
    thread.start().result(WAIT_S)
    yield thread
    exchange.gate.set()
    thread.stop(lambda: None)


def hold(sql, exchange):
    """Keep the thread inside one event, so that what is submitted meanwhile queues up."""
    exchange.gate.clear()
    sql.submit(MessageReceived(0, b"held"))
    assert exchange.entered.wait(WAIT_S)


def drained(sql, exchange):
    """Let the thread go and return what it saw, the held event left out."""
    exchange.gate.set()
    rounds = 0
    while sql.call(lambda: bool(sql._work_queue._bulk)).result(WAIT_S):
        rounds += 1
        assert rounds < 10_000
    return exchange.seen[1:]


def test_answers_leave_in_the_order_of_the_events(sql, reports):
    events = [MessageReceived(1, bytes([number])) for number in range(50)]
    for event in events:
        sql.submit(event)
    assert [reports.get(timeout=WAIT_S) for _ in events] == [
        ExchangeActed([Publish(repr(event).encode())]) for event in events
    ]


def test_rounds_continue_under_a_stream_of_live_batches(sql, exchange):
    """A file on a slow disk: whatever is done, the next batch waits already."""
    hold(sql, exchange)
    sql.submit(MessageReceived(1, b"a chunk"))
    for number in range(1_000):
        sql.submit(BatchReceived(1, b"o" * 16, number.to_bytes(2, "big")))
    done = drained(sql, exchange)
    assert done.index(MessageReceived(1, b"a chunk")) < 50


def test_a_waiting_look_is_not_queued_twice(sql, exchange):
    looked = []

    def look():
        looked.append(len(looked))
        if len(looked) == 1:
            sql.call_once(look)  # what comes while it looks, it may have missed

    hold(sql, exchange)
    for _ in range(1_000):
        sql.call_once(look)
    assert len(sql._work_queue) == 1
    drained(sql, exchange)
    assert looked == [0, 1]


def test_an_inspection_runs_within_a_long_call_once(sql, monkeypatch):
    monkeypatch.setattr(sql_thread, "INSPECT_MS", 0)
    entered, gate, order = threading.Event(), threading.Event(), []

    def long():
        entered.set()
        assert gate.wait(WAIT_S)
        sql.pause_if_due()  # as between two transactions
        order.append("end of the long call")

    sql.call(long)
    assert entered.wait(WAIT_S)
    inspected = sql.inspect(lambda between: order.append(f"inspected {between}"))
    other = sql.call(lambda: order.append("another job"))
    gate.set()
    inspected.result(WAIT_S)
    other.result(WAIT_S)
    assert order == ["inspected True", "end of the long call", "another job"]


def test_an_inspection_that_fails_harms_no_call(sql, monkeypatch):
    monkeypatch.setattr(sql_thread, "INSPECT_MS", 0)
    entered, gate = threading.Event(), threading.Event()

    def long():
        entered.set()
        assert gate.wait(WAIT_S)
        sql.pause_if_due()
        return "done"

    called = sql.call(long)
    assert entered.wait(WAIT_S)
    inspected = sql.inspect(lambda between: [][between])
    gate.set()
    with pytest.raises(IndexError):
        inspected.result(WAIT_S)
    assert called.result(WAIT_S) == "done"


def test_a_short_call_keeps_inspections_in_order(sql, exchange):
    hold(sql, exchange)
    inspected = sql.inspect(lambda between: between)
    exchange.gate.set()
    assert inspected.result(WAIT_S) is False


def test_a_commit_during_a_drain_is_drained_again(sql, exchange):
    exchange.gate.clear()
    sql.submit(CommitSeen())
    assert exchange.entered.wait(WAIT_S)
    sql.submit(CommitSeen())
    exchange.gate.set()
    sql.call(lambda: None).result(WAIT_S)
    assert exchange.seen == [CommitSeen(), CommitSeen()]


def test_submitting_never_waits_for_the_database(sql, exchange):
    hold(sql, exchange)
    for number in range(1000):
        sql.submit(MessageReceived(1, number.to_bytes(2, "big")))
    assert exchange.seen == []


def test_peer_whose_messages_outrun_disk_loses_its_link(sql, exchange, reports, monkeypatch):
    monkeypatch.setattr(work_queue, "BACKLOG_BYTES_MAX", 100 + work_queue.EVENT_BYTES)
    hold(sql, exchange)
    sql.submit(MessageReceived(7, b"x" * 100))
    sql.submit(MessageReceived(8, b"x"))
    (action,) = reports.get(timeout=WAIT_S).actions
    assert isinstance(action, DropLink)
    assert action.link == 8


def test_the_deadline_fires_once_it_is_due(sql, exchange, reports):
    exchange.deadline = 0
    sql.call(lambda: None).result(WAIT_S)
    assert reports.get(timeout=WAIT_S) == ExchangeActed([Publish(repr(TimerFired()).encode())])


def test_deadline_that_is_always_due_leaves_room_for_work(exchange, reports):
    class Hurried(RecordingExchange):
        def handle(self, event, now_ms, wall_ms):
            answer = super().handle(event, now_ms, wall_ms)
            self.deadline = 0
            return answer if not isinstance(event, TimerFired) else []

    hurried = Hurried()
    hurried.deadline = 0
    thread = SqlThread(lambda: hurried, reports.put, lambda: (1, 0))
    thread.start().result(WAIT_S)
    thread.submit(MessageReceived(1, b"work"))
    assert isinstance(reports.get(timeout=WAIT_S), ExchangeActed)
    thread.stop(lambda: None).result(WAIT_S)
    assert MessageReceived(1, b"work") in hurried.seen
    assert TimerFired() in hurried.seen


def test_file_that_refuses_is_said_and_node_goes_on(sql, exchange, reports):
    exchange.error = DatabaseError("disk full")
    sql.submit(CommitSeen())
    (notice,) = reports.get(timeout=WAIT_S).actions
    assert notice == Notice("database.refused", "disk full", {"event": "CommitSeen"}, "warning")
    sql.submit(MessageReceived(1, b"next"))
    assert isinstance(reports.get(timeout=WAIT_S).actions[0], Publish)


def test_what_stays_refused_is_said_once_in_a_while(exchange, reports):
    now = [0]
    thread = SqlThread(lambda: exchange, reports.put, lambda: (now[0], 0))
    thread.start().result(WAIT_S)

    def said(text):
        exchange.error = DatabaseError(text)
        thread.submit(CommitSeen())
        thread.call(lambda: None).result(WAIT_S)
        return [] if reports.empty() else [notice.text for notice in reports.get().actions]

    assert said("disk full") == ["disk full"]
    assert said("disk full") == []
    assert said("locked") == ["locked"]
    assert said("disk full") == ["disk full"]
    now[0] = sql_thread.REFUSED_NOTICE_MS
    assert said("disk full") == ["disk full"]
    thread.stop(lambda: None).result(WAIT_S)


def test_a_file_that_holds_another_content_is_opened_again(reports):
    first, second = RecordingExchange(), RecordingExchange()
    opened = iter([first, second])
    thread = SqlThread(lambda: next(opened), reports.put, lambda: (0, 0))
    thread.start().result(WAIT_S)
    first.error = FileReplacedError("another content")
    thread.submit(CommitSeen())
    drop, notice = reports.get(timeout=WAIT_S).actions
    assert drop == DropLink(1, "this node opens its file again")
    assert notice.event == "database.replaced"
    thread.submit(CommitSeen())
    reports.get(timeout=WAIT_S)
    assert second.seen == [CommitSeen()]
    thread.stop(lambda: None).result(WAIT_S)


def test_file_locked_at_reopening_opens_with_the_next_event(reports):
    first, second = RecordingExchange(), RecordingExchange()
    answers = iter([first, DatabaseBusyError("another program holds its write lock"), second])

    def opened():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    thread = SqlThread(opened, reports.put, lambda: (0, 0))
    thread.start().result(WAIT_S)
    first.error = FileReplacedError("another content")
    for events in (["database.refused"], ["database.replaced"]):
        thread.submit(CommitSeen())
        assert [each.event for each in reports.get(timeout=WAIT_S).actions if isinstance(each, Notice)] == events
    thread.submit(CommitSeen())
    reports.get(timeout=WAIT_S)
    assert second.seen == [CommitSeen()]
    assert len(first.seen) == 1  # its file was closed for the opening that found the lock
    thread.stop(lambda: None).result(WAIT_S)


def test_jobs_on_a_closed_file_ask_to_try_again(sql):
    def read():
        raise apsw.ConnectionClosedError("The connection has been closed")

    with pytest.raises(NodeError, match="opens its file again; try again"):
        sql.call(read).result(WAIT_S)


def test_after_a_refusal_a_past_deadline_does_not_spin(exchange, reports):
    now = [0]
    thread = SqlThread(lambda: exchange, reports.put, lambda: (now[0], 0))
    thread.start().result(WAIT_S)
    exchange.error = DatabaseError("disk full")
    thread.submit(CommitSeen())
    reports.get(timeout=WAIT_S)
    exchange.deadline = 0
    for _ in range(100):
        thread.call(lambda: None).result(WAIT_S)
    assert TimerFired() not in exchange.seen
    now[0] = sql_thread.REFUSED_PAUSE_MS
    thread.call(lambda: None).result(WAIT_S)
    reports.get(timeout=WAIT_S)
    assert exchange.seen[-1] == TimerFired()
    thread.stop(lambda: None).result(WAIT_S)


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), apsw.InternalError("odd"), AssertionError("invariant")])
def test_an_unknown_error_refuses_the_message_not_the_node(sql, exchange, reports, error):
    exchange.error = error
    sql.submit(MessageReceived(1, b"poison"))
    drop, notice = reports.get(timeout=WAIT_S).actions
    assert drop == DropLink(1, "this node failed on its message")
    assert (notice.event, notice.level) == ("node.fault", "error")
    assert f"{type(error).__name__}: {error}" in notice.text
    sql.submit(MessageReceived(2, b"next"))
    assert isinstance(reports.get(timeout=WAIT_S).actions[0], Publish)


def test_an_unknown_error_that_repeats_is_reported_once(sql, exchange, reports):
    for _ in range(2):
        exchange.error = ZeroDivisionError("bug")
        sql.submit(CommitSeen())
        sql.call(lambda: None).result(WAIT_S)
    assert reports.qsize() == 1


def test_a_thread_that_fails_itself_ends_and_is_reported(sql, exchange, reports, monkeypatch):
    monkeypatch.setattr(sql, "_handle", lambda _event: 1 / 0)
    sql.submit(CommitSeen())
    report = reports.get(timeout=WAIT_S)
    assert isinstance(report, ExchangeFailed)
    assert isinstance(report.error, ZeroDivisionError)


def test_nobody_waits_for_a_thread_that_has_ended(sql, exchange, monkeypatch):
    hold(sql, exchange)
    monkeypatch.setattr(sql, "_handle", lambda _event: 1 / 0)
    sql.submit(CommitSeen())
    queued = sql.call(lambda: 1)
    exchange.gate.set()
    with pytest.raises(NodeError, match="ended with ZeroDivisionError: division"):
        queued.result(WAIT_S)
    with pytest.raises(NodeError, match="ended with ZeroDivisionError: division"):
        sql.call(lambda: 1).result(WAIT_S)


def test_thread_that_was_stopped_says_that_file_is_closed(sql):
    sql.stop(lambda: None).result(WAIT_S)
    with pytest.raises(NodeError, match="closed its file"):
        sql.call(lambda: 1).result(WAIT_S)


def test_a_job_without_its_caller_is_skipped(sql, exchange):
    hold(sql, exchange)
    ran = []
    given_up = [sql.call(lambda: ran.append(1)), sql.call(lambda: 1 / 0)]
    assert all(future.cancel() for future in given_up)
    exchange.gate.set()
    assert sql.call(lambda: 1).result(WAIT_S) == 1
    assert not ran


def test_the_last_job_runs_although_its_caller_gave_up(sql, exchange):
    hold(sql, exchange)
    closed = threading.Event()
    assert sql.stop(closed.set).cancel()
    exchange.gate.set()
    assert closed.wait(WAIT_S)
    with pytest.raises(NodeError, match="closed its file"):
        sql.call(lambda: 1).result(WAIT_S)


def test_a_question_during_a_missing_table_is_asked_again(sql):
    db = apsw.Connection(":memory:")
    with pytest.raises(NodeError, match=r"changed while .* \(no such table: mycomesh_parked\); try again"):
        sql.call(lambda: db.execute("SELECT * FROM mycomesh_parked")).result(WAIT_S)
    assert sql.call(lambda: 42).result(WAIT_S) == 42


def test_a_question_gets_its_answer_or_its_error(sql):
    assert sql.call(lambda: 42).result(WAIT_S) == 42
    with pytest.raises(ZeroDivisionError):
        sql.call(lambda: 1 // 0).result(WAIT_S)


def test_a_file_that_cannot_open_ends_the_thread(reports):
    def refuse():
        raise DatabaseError("not a database")

    thread = SqlThread(refuse, reports.put, lambda: (0, 0))
    with pytest.raises(DatabaseError, match="not a database"):
        thread.start().result(WAIT_S)
    thread._thread.join(WAIT_S)
    assert not thread._thread.is_alive()


def test_stop_runs_its_function_last_and_ends_the_thread(sql, exchange):
    sql.submit(CommitSeen())
    done = sql.stop(lambda: list(exchange.seen))
    assert done.result(WAIT_S) == [CommitSeen()]
    sql._thread.join(WAIT_S)
    assert not sql._thread.is_alive()
