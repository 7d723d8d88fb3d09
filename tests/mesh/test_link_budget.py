"""Budgets of links: the rate holds in any stretch of time, both directions count, and heartbeats go on."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.events import LinkDown
from mycomesh.mesh.link_budget import (
    BURST_MS,
    DAY_HOURS,
    HEADER_BYTES,
    HOUR_MS,
    PIECE_BYTES,
    Budget,
    DayCount,
    LinkBudget,
)
from mycomesh.mesh.session.records import UNCREDITED_BYTES_MAX
from tests.mesh.pipes import WALL_MS, Pipes, mesh_of

RATE = 50_000


def met(*budgets, heartbeat_ms=1_000):
    """Return linked members, each with its budget or none."""
    pipes = Pipes()
    pairs = zip(mesh_of(len(budgets))[0], budgets, strict=True)
    nodes = [
        pipes.member(identity, config=MeshConfig(budget=budget, heartbeat_ms=heartbeat_ms))
        for identity, budget in pairs
    ]
    pipes.meet_all()
    pipes.run(3_000)
    assert all(len(node.links) == len(nodes) - 1 for node in nodes)
    return pipes, nodes


def carried(pipes, one, other):
    return pipes.carried.get((one.name, other.name), 0) + pipes.carried.get((other.name, one.name), 0)


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 20_000)), max_size=60),
    st.sampled_from([500, 5_000, 50_000, 10_000_000]),
)
def test_no_stretch_of_time_exceeds_the_rate(steps, rate):
    budget, now, sent = LinkBudget(Budget(rate), DayCount(), 0), 0, []
    for wait_ms, wanted in steps:
        now += wait_ms
        room = budget.room(now, now)
        size = min(wanted, room)
        if size:
            budget.spend(size, now, now)
            sent.append((now, size))
        if budget.room(now, now) == 0:
            assert budget.next_ms(now, now) > now
            assert budget.room(budget.next_ms(now, now), now) >= PIECE_BYTES
    burst = max(BURST_MS * rate / 1_000, PIECE_BYTES)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            elapsed_ms = sent[last][0] - sent[first][0]
            assert sum(size for _, size in sent[first : last + 1]) <= burst + rate * elapsed_ms / 1_000 + 1


def test_urgent_bytes_are_paid_for_by_bulk():
    budget = LinkBudget(Budget(10_000), DayCount(), 0)
    budget.spend(30_000 - HEADER_BYTES, 0, 0)
    assert budget.room(0, 0) == 0
    assert 2_000 <= budget.next_ms(0, 0) <= 2_200


def test_the_count_of_a_day_forgets_by_the_hour():
    day = DayCount()
    for hour in range(30):
        day.add(10, hour * HOUR_MS)
    assert day.total(29 * HOUR_MS) == DAY_HOURS * 10
    assert DayCount(day.hours()).total(29 * HOUR_MS) == DAY_HOURS * 10
    assert day.total((29 + DAY_HOURS) * HOUR_MS) == 0
    assert day.total(20 * HOUR_MS) >= DAY_HOURS * 10, "a clock that is set back frees nothing"


def test_clock_that_was_a_year_ahead_blocks_one_day():
    day, now, year = DayCount(), 500_000 * HOUR_MS, 365 * DAY_HOURS * HOUR_MS
    day.add(10, now + year)
    day.add(1, now)  # the clock was set back
    assert day.total(now) == 11
    assert DayCount(day.hours()).total(now + (DAY_HOURS - 1) * HOUR_MS) == 11
    day.add(1, now + DAY_HOURS * HOUR_MS)
    assert day.total(now + DAY_HOURS * HOUR_MS) == 1


def test_clock_that_was_never_set_keeps_the_day():
    now = 500_000 * HOUR_MS
    day = DayCount([(now // HOUR_MS, 10)])
    day.add(1, HOUR_MS)  # the machine has started in 1970
    assert day.total(HOUR_MS) == 11
    day.add(1, now)
    assert day.total(now) == 11, "what went in 1970 is forgotten"


@pytest.mark.parametrize("limited", [0, 1])
def test_bulk_in_either_direction_keeps_to_the_rate(limited):
    budgets = [None, None]
    budgets[limited] = Budget(RATE)
    pipes, (one, other) = met(*budgets)
    before = carried(pipes, one, other)
    for _ in range(40):
        pipes.send(one, other, bytes(50_000))
    pipes.run(20_000)
    assert (
        0.7 * RATE * 20 <= carried(pipes, one, other) - before <= RATE * 20 + 300_000
    )  # and what the window had at first
    pipes.run(40_000)
    assert [len(payload) for payload in other.messages()] == [50_000] * 40
    assert not one.seen(LinkDown)
    assert not other.seen(LinkDown)


@pytest.mark.parametrize("rate", [5_000, None])
def test_a_peer_that_needs_no_credit_loses_its_link(monkeypatch, rate):
    """Its own program decides what it sends: a day's bytes would be gone in seconds."""
    budget = Budget(rate, bytes_day=20_000_000)
    pipes, (victim, liar) = met(budget, None)
    outbox = liar.core.links.conns[liar.link_to(victim)].session.outbox
    monkeypatch.setattr(type(outbox), "unacknowledged", property(lambda _: 0, lambda *_: None))
    if rate is None:  # no rate, and the day is over
        victim.core.links.day.add(20_000_000, WALL_MS + pipes.now_ms)
    before = carried(pipes, victim, liar)
    for _ in range(30):
        pipes.send(liar, victim, bytes(500_000))
        pipes.run(100)
        if victim.seen(LinkDown):
            break
    (down,) = victim.seen(LinkDown)[:1]
    assert "bytes without credit" in down.reason
    assert carried(pipes, victim, liar) - before < UNCREDITED_BYTES_MAX + 1_000_000


def test_urgent_messages_do_not_wait_for_the_budget():
    pipes, (one, other) = met(Budget(5_000), None)
    for _ in range(20):
        pipes.send(one, other, bytes(50_000))
    pipes.run(1_000)
    for number in range(5):
        pipes.send(one, other, b"alert %d" % number, 0)
        pipes.run(100)
        assert other.messages()[-1] == b"alert %d" % number


@pytest.mark.slow
def test_a_day_that_is_spent_leaves_heartbeats_alone():
    pipes, (one, other) = met(Budget(bytes_day=20_000_000), None, heartbeat_ms=40_000)
    for _ in range(30):
        pipes.send(one, other, bytes(1_000_000))
    pipes.run(60_000)
    got = len(other.messages())
    assert 15 <= got <= 20
    assert carried(pipes, one, other) < 21_000_000
    pipes.run(600_000)
    assert len(other.messages()) == got
    assert not one.seen(LinkDown), "the link stays"
    pipes.run(DAY_HOURS * HOUR_MS)
    assert not one.seen(LinkDown), "replies to heartbeats are acknowledged without a budget"
    pipes.send(one, other, bytes(1_000_000))
    pipes.run(60_000)
    assert len(other.messages()) > got, "there is room again when the first hours are a day old"


def test_superseded_batches_do_not_pile_up_behind_a_budget():
    pipes, (one, other) = met(Budget(2_000), None)
    for _ in range(300):
        pipes.publish(one, random.Random(1).randbytes(1_000))
        pipes.run(100)
    outbox = one.core.links.conns[one.link_to(other)].session.outbox
    assert outbox.queued < 10_000, "rounds bring what is current later"


def test_links_over_other_interfaces_have_no_budget():
    budget = Budget(1_000, interfaces=("wwan*", "ppp0"))
    assert [budget.covers(name) for name in ("wwan0", "ppp0", "ppp1", "eth0", "")] == [True, True, False, False, False]
    assert Budget(1_000).covers("")
