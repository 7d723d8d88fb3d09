"""The queue of the SQL thread: what overtakes what, what is given its turn, and what is too much."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from mycomesh.mesh.node import work_queue as module
from mycomesh.mesh.node.work_queue import EVENT_BYTES, GROUP_BATCHES_MAX, GROUP_BYTES_MAX, TURN_MS, Job, WorkQueue
from mycomesh.sync.events import (
    BatchesReceived,
    BatchReceived,
    CommitSeen,
    LinkClosed,
    LinkOpened,
    MessageReceived,
    RightsKnown,
    ScrubRequested,
)


def batch(payload=b"x", link=1):
    return BatchReceived(link, b"o" * 16, payload)


def taken_out(queue, now_ms=0):
    """Take everything out at one moment."""
    events = []
    while len(queue):
        events.append(queue.next(now_ms))
    return events


@pytest.fixture
def queue():
    return WorkQueue()


def put(queue, *events):
    assert all(queue.put(event) for event in events)


def test_local_commit_live_batch_and_question_overtake_rounds(queue):
    bulk = [MessageReceived(1, b"a"), ScrubRequested(), MessageReceived(1, b"b")]
    job = Job(print, Future())
    put(queue, *bulk, CommitSeen(), batch())
    queue.put_job(job)
    assert taken_out(queue) == [CommitSeen(), batch(), job, *bulk]


def test_rights_overtake_whatever_waits(queue):
    rights = [RightsKnown(b"n" * 16, ((b"m" * 16, ((table, "r"),)),)) for table in ("a", "b")]
    waiting = [batch(), CommitSeen(), LinkOpened(1, b"p" * 16)]
    put(queue, MessageReceived(1, b"a"), waiting[0], rights[0], *waiting[1:], rights[1])
    out = taken_out(queue)
    assert out[:2] == rights
    assert len(out) == 6


def test_nothing_overtakes_the_opening_of_its_own_link(queue):
    put(queue, batch(link=7), CommitSeen(), LinkOpened(1, b"p" * 16), batch(), MessageReceived(1, b"y"), LinkClosed(1))
    order = taken_out(queue)
    assert order[0] == LinkOpened(1, b"p" * 16)
    assert order[-2:] == [MessageReceived(1, b"y"), LinkClosed(1)]


def test_opening_goes_first_although_rounds_have_waited_for_long(queue):
    put(queue, MessageReceived(0, b"other"), CommitSeen(), batch())
    queue.next(0)
    put(queue, LinkOpened(1, b"p" * 16), MessageReceived(1, b"y"))
    late = TURN_MS + 1
    assert [queue.next(late) for _ in range(2)] == [LinkOpened(1, b"p" * 16), MessageReceived(0, b"other")]


def test_commits_that_wait_together_are_one(queue):
    put(queue, *[CommitSeen()] * 10)
    assert taken_out(queue) == [CommitSeen()]
    put(queue, CommitSeen())
    assert taken_out(queue) == [CommitSeen()]


def test_rounds_get_half_of_a_thread_with_urgent_work(queue):
    put(queue, *[MessageReceived(1, number.to_bytes(2, "big")) for number in range(1_000)])
    done = []
    for now_ms in range(20 * TURN_MS):  # each takes a millisecond, and another has come by then
        put(queue, CommitSeen() if now_ms % 2 else batch())
        done.append(isinstance(queue.next(now_ms), MessageReceived))
    assert done == ([False] * TURN_MS + [True] * TURN_MS) * 10


def test_waiting_without_urgent_work_gives_no_claim(queue):
    put(queue, CommitSeen(), batch())
    queue.next(0)
    put(queue, MessageReceived(1, b"y"))
    assert queue.next(1_000) == batch()


def test_batches_beyond_limit_are_left_to_next_round(queue, monkeypatch):
    monkeypatch.setattr(module, "BACKLOG_BYTES_MAX", 100 + 2 * EVENT_BYTES)
    batches = [batch(bytes([number]) * 40) for number in range(4)]
    assert [queue.put(one) for one in batches] == [True, True, False, False]
    assert taken_out(queue) == [BatchesReceived(tuple(batches[:2]))]


def test_batches_that_wait_one_behind_another_go_together(queue):
    put(queue, batch(b"a"), batch(b"b", link=2), CommitSeen(), batch(b"c"), MessageReceived(1, b"y"))
    assert taken_out(queue) == [
        CommitSeen(),
        BatchesReceived((batch(b"a"), batch(b"b", link=2), batch(b"c"))),
        MessageReceived(1, b"y"),
    ]


def test_questions_and_batches_do_not_starve_each_other(queue):
    large = [batch(bytes(GROUP_BYTES_MAX), link) for link in range(4)]
    jobs = [Job(print, Future()) for _ in range(3)]
    put(queue, *large)
    assert queue.next(0) == large[0]
    for job in jobs:
        queue.put_job(job)
    assert taken_out(queue) == [jobs[0], large[1], jobs[1], large[2], jobs[2], large[3]]


def test_a_group_stays_short_for_the_write_lock(queue):
    put(queue, *[batch()] * (GROUP_BATCHES_MAX + 1))
    assert [len(event.batches) for event in taken_out(queue)[:1]] == [GROUP_BATCHES_MAX]
    large = batch(bytes(GROUP_BYTES_MAX))
    put(queue, large, batch(), batch())
    assert taken_out(queue) == [large, BatchesReceived((batch(), batch()))]


def test_room_comes_back_when_something_is_done(queue, monkeypatch):
    monkeypatch.setattr(module, "BACKLOG_BYTES_MAX", 100 + EVENT_BYTES)
    for one in (batch(b"x" * 90), MessageReceived(1, b"x" * 90)) * 3:
        assert queue.put(one)
        assert not queue.put(one)
        assert taken_out(queue) == [one]


def test_a_burst_of_small_batches_is_weighed_by_memory(queue, monkeypatch):
    monkeypatch.setattr(module, "BACKLOG_BYTES_MAX", 100 * EVENT_BYTES)
    assert sum(queue.put(batch(b"")) for _ in range(1_000)) == 100


def test_who_asked_is_told_when_everything_is_given_up(queue):
    jobs = [Job(print, Future()), Job(print, Future())]
    put(queue, batch(), MessageReceived(1, b"y"))
    for job in jobs:
        queue.put_job(job)
    assert queue.clear() == jobs
    assert len(queue) == 0
