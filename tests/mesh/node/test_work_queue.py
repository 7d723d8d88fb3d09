"""The agenda of the SQL thread: what overtakes what, what is given its turn, and what is too much."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from mycomesh.mesh.node import work_queue as agenda_module
from mycomesh.mesh.node.work_queue import EVENT_BYTES, TOGETHER_BYTES_MAX, TOGETHER_MAX, TURN_MS, Job, WorkQueue
from mycomesh.sync.events import (
    BatchesReceived,
    BatchReceived,
    CommitSeen,
    LinkClosed,
    LinkOpened,
    MessageReceived,
    ScrubRequested,
)


def batch(payload=b"x", link=1):
    return BatchReceived(link, b"o" * 16, payload)


def told(agenda, now_ms=0):
    """Take everything out at one moment."""
    events = []
    while len(agenda):
        events.append(agenda.next(now_ms))
    return events


@pytest.fixture
def agenda():
    return WorkQueue()


def put(agenda, *events):
    assert all(agenda.put(event) for event in events)


def test_a_local_commit_a_live_batch_and_a_question_overtake_rounds(agenda):
    bulk = [MessageReceived(1, b"a"), ScrubRequested(), MessageReceived(1, b"b")]
    job = Job(print, Future())
    put(agenda, *bulk, CommitSeen(), batch())
    agenda.put_job(job)
    assert told(agenda) == [CommitSeen(), batch(), job, *bulk]


def test_nothing_overtakes_the_opening_of_its_own_link(agenda):
    put(agenda, batch(link=7), CommitSeen(), LinkOpened(1, b"p" * 16), batch(), MessageReceived(1, b"y"), LinkClosed(1))
    order = told(agenda)
    assert order[0] == LinkOpened(1, b"p" * 16)
    assert order[-2:] == [MessageReceived(1, b"y"), LinkClosed(1)]


def test_an_opening_goes_first_although_rounds_have_waited_for_long(agenda):
    put(agenda, MessageReceived(0, b"other"), CommitSeen(), batch())
    agenda.next(0)
    put(agenda, LinkOpened(1, b"p" * 16), MessageReceived(1, b"y"))
    late = TURN_MS + 1
    assert [agenda.next(late) for _ in range(2)] == [LinkOpened(1, b"p" * 16), MessageReceived(0, b"other")]


def test_commits_that_wait_together_are_one(agenda):
    put(agenda, *[CommitSeen()] * 10)
    assert told(agenda) == [CommitSeen()]
    put(agenda, CommitSeen())
    assert told(agenda) == [CommitSeen()]


def test_rounds_get_half_of_a_thread_that_never_runs_out_of_urgent_work(agenda):
    put(agenda, *[MessageReceived(1, number.to_bytes(2, "big")) for number in range(1_000)])
    done = []
    for now_ms in range(20 * TURN_MS):  # each takes a millisecond, and another has come by then
        put(agenda, CommitSeen() if now_ms % 2 else batch())
        done.append(isinstance(agenda.next(now_ms), MessageReceived))
    assert done == ([False] * TURN_MS + [True] * TURN_MS) * 10


def test_what_came_while_nothing_urgent_was_done_has_no_claim_yet(agenda):
    put(agenda, CommitSeen(), batch())
    agenda.next(0)
    put(agenda, MessageReceived(1, b"y"))
    assert agenda.next(1_000) == batch()


def test_batches_beyond_the_limit_are_left_to_the_next_round(agenda, monkeypatch):
    monkeypatch.setattr(agenda_module, "BACKLOG_BYTES_MAX", 100 + 2 * EVENT_BYTES)
    batches = [batch(bytes([number]) * 40) for number in range(4)]
    assert [agenda.put(one) for one in batches] == [True, True, False, False]
    assert told(agenda) == [BatchesReceived(tuple(batches[:2]))]


def test_batches_that_wait_one_behind_another_go_together(agenda):
    put(agenda, batch(b"a"), batch(b"b", link=2), CommitSeen(), batch(b"c"), MessageReceived(1, b"y"))
    assert told(agenda) == [
        CommitSeen(),
        BatchesReceived((batch(b"a"), batch(b"b", link=2), batch(b"c"))),
        MessageReceived(1, b"y"),
    ]


def test_a_question_does_not_wait_behind_all_the_batches_nor_they_behind_all_questions(agenda):
    large = [batch(bytes(TOGETHER_BYTES_MAX), link) for link in range(4)]
    jobs = [Job(print, Future()) for _ in range(3)]
    put(agenda, *large)
    assert agenda.next(0) == large[0]
    for job in jobs:
        agenda.put_job(job)
    assert told(agenda) == [jobs[0], large[1], jobs[1], large[2], jobs[2], large[3]]


def test_no_more_go_together_than_are_short_for_the_write_lock(agenda):
    put(agenda, *[batch()] * (TOGETHER_MAX + 1))
    assert [len(event.batches) for event in told(agenda)[:1]] == [TOGETHER_MAX]
    large = batch(bytes(TOGETHER_BYTES_MAX))
    put(agenda, large, batch(), batch())
    assert told(agenda) == [large, BatchesReceived((batch(), batch()))]


def test_room_comes_back_when_something_is_done(agenda, monkeypatch):
    monkeypatch.setattr(agenda_module, "BACKLOG_BYTES_MAX", 100 + EVENT_BYTES)
    for one in (batch(b"x" * 90), MessageReceived(1, b"x" * 90)) * 3:
        assert agenda.put(one)
        assert not agenda.put(one)
        assert told(agenda) == [one]


def test_a_burst_of_small_batches_is_weighed_by_what_it_takes_in_memory(agenda, monkeypatch):
    monkeypatch.setattr(agenda_module, "BACKLOG_BYTES_MAX", 100 * EVENT_BYTES)
    assert sum(agenda.put(batch(b"")) for _ in range(1_000)) == 100


def test_who_asked_is_told_when_everything_is_given_up(agenda):
    jobs = [Job(print, Future()), Job(print, Future())]
    put(agenda, batch(), MessageReceived(1, b"y"))
    for job in jobs:
        agenda.put_job(job)
    assert agenda.clear() == jobs
    assert len(agenda) == 0
