"""Looks after a hint: soon, ever rarer, again with each hint, and never without one."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.commit_poll import DELAYS_S, CommitPoll


class VirtualClock:
    """Runs planned calls in virtual time."""

    def __init__(self):
        self.now = 0.0
        self.planned = []

    def call_later(self, delay, callback, turn):
        entry = Entry(self, self.now + delay, callback, turn)
        self.planned.append(entry)
        return entry

    def run(self, until):
        while self.planned and min(entry.at for entry in self.planned) <= until:
            entry = min(self.planned, key=lambda entry: entry.at)
            self.planned.remove(entry)
            self.now = entry.at
            entry.callback(entry.turn)
        self.now = until


class Entry:
    def __init__(self, clock, at, callback, turn):
        self.clock, self.at, self.callback, self.turn = clock, at, callback, turn

    def cancel(self):
        self.clock.planned.remove(self)


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def seen():
    return []


@pytest.fixture
def poll(clock, seen):
    return CommitPoll(clock, lambda: seen.append(clock.now))


def test_without_a_hint_nothing_is_planned(poll, clock):
    assert clock.planned == []


def test_hint_is_followed_by_bounded_number_of_looks(poll, clock, seen):
    poll.hint()
    clock.run(10)
    assert len(seen) == len(DELAYS_S)
    assert clock.planned == []


@pytest.mark.parametrize("fsync_s", [0.0005, 0.003, 0.01, 0.05, 0.12])
def test_a_commit_waits_about_its_own_fsync(poll, clock, seen, fsync_s):
    poll.hint()
    clock.run(10)
    found = next(at for at in seen if at >= fsync_s)
    assert found - fsync_s <= max(fsync_s, 0.001) + 1e-9


def test_a_fresh_hint_begins_anew(poll, clock, seen):
    poll.hint()
    clock.run(0.1)
    before = len(seen)
    poll.hint()
    assert len(clock.planned) == 1
    clock.run(0.1 + DELAYS_S[0])
    assert len(seen) == before + 1


def test_cancelled_looks_do_not_come(poll, clock, seen):
    poll.hint()
    poll.cancel()
    poll.cancel()
    clock.run(10)
    assert seen == []
