"""The horizon of one table: when it moves, what its digest says, and what a pinned file vouches for."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.storage.horizon import (
    AGE_MS_MAX,
    ASTRAY_MS,
    STEP_MS_MAX,
    SUSPECTS_MAX,
    Horizon,
    Likeness,
    RetainRule,
    step_of,
)

NODE, OTHER = b"n" * 8, b"o" * 8
NOW = 1_800_000_000_000
WEEK = 7 * 86_400_000


def made(age_ms=WEEK, node=NODE, wall_ms=NOW):
    """A horizon that has moved and cut."""
    horizon = Horizon(None, 2, RetainRule(age_ms, "at"), node)
    horizon.move(wall_ms)
    horizon.settle(horizon.ms, horizon.pin.ms)
    return horizon


@given(st.integers(1_000, AGE_MS_MAX), st.lists(st.integers(0, 2 * NOW), min_size=1, max_size=5))
def test_horizon_moves_forward_in_whole_steps(age_ms, times):
    horizon = Horizon(None, 2, RetainRule(age_ms), NODE)
    for wall_ms in times:
        before = horizon.ms
        horizon.move(wall_ms)
        assert horizon.ms >= before
        assert horizon.ms % step_of(age_ms) == 0
        assert horizon.ms <= max(before, wall_ms - age_ms, 0)
        assert horizon.next_due > max(times[: times.index(wall_ms) + 1]) or horizon.next_due > wall_ms


def test_step_is_a_day_at_most():
    assert step_of(64 * STEP_MS_MAX - 64_000) == STEP_MS_MAX - 1_000
    assert step_of(64 * STEP_MS_MAX) == step_of(AGE_MS_MAX) == STEP_MS_MAX
    assert step_of(1_000) == 1_000


def test_floor_counts_once_it_has_passed():
    rule = RetainRule(WEEK, floor_ms=NOW - 5)
    assert rule.due(NOW) == NOW - 5
    assert rule.due(NOW - 10) == RetainRule(WEEK).due(NOW - 10)


def test_digests_are_equal_only_at_one_horizon():
    one, two = made(), made(node=OTHER)
    assert one.mixed(b"d" * 8) == two.mixed(b"d" * 8) != b"d" * 8
    two.move(NOW + WEEK)
    assert two.mixed(b"d" * 8) != one.mixed(b"d" * 8)


@pytest.mark.parametrize("steps", [-1, 0, 1])
def test_same_vector_is_recognised_beside_a_step(steps):
    one, two = made(), made(node=OTHER, wall_ms=NOW + steps * step_of(WEEK))
    assert one.alike(b"d" * 8, two.mixed(b"d" * 8), OTHER) is Likeness.HOLDS
    assert one.alike(b"e" * 8, two.mixed(b"d" * 8), OTHER) is Likeness.NONE
    two.move(two.next_due)  # and while it removes rows
    assert one.alike(b"d" * 8, two.mixed(b"d" * 8), OTHER) is (Likeness.HOLDS if steps < 1 else Likeness.NONE)
    assert one.alike(b"d" * 8, two.mixed(b"d" * 8), NODE) is Likeness.NONE


def test_pinned_file_vouches_only_for_what_it_holds():
    pinned, other = made(), made()
    pinned.pin.age_ms = 86_400_000
    pinned.move(NOW)
    assert pinned.mixed(b"d" * 8) != other.mixed(b"d" * 8)
    assert other.alike(b"d" * 8, pinned.mixed(b"d" * 8), NODE) is Likeness.COVERS
    vector = Vector({b"s" * 16: [(0, 10), (20, 30)], b"t" * 16: [(0, 5)]})
    pinned.drop(b"s" * 16, 25)
    assert pinned.vouched(vector).items() == [(b"s" * 16, ((25, 30),)), (b"t" * 16, ((0, 5),))]
    pinned.settle(pinned.pin.ms, pinned.pin.ms)  # the mesh has cut as far
    assert pinned.vouched(vector).items() == vector.items()


def test_suspects_beyond_their_limit_cause_a_look_at_all():
    horizon = made()
    horizon.looked.oldest_ms = NOW
    for key in range(SUSPECTS_MAX):
        horizon.suspect(key)
    assert len(horizon.looked.suspects) == SUSPECTS_MAX
    assert horizon.looked.oldest_ms == NOW
    horizon.suspect(-1)
    assert len(horizon.looked.suspects) == SUSPECTS_MAX
    assert horizon.looked.oldest_ms is None


@pytest.mark.parametrize("ahead_ms", [-WEEK, 0, ASTRAY_MS, ASTRAY_MS + step_of(WEEK), 365 * WEEK])
def test_only_a_horizon_beyond_every_rule_goes_back(ahead_ms):
    horizon = made(wall_ms=NOW + ahead_ms)
    astray = ahead_ms > ASTRAY_MS
    assert horizon.is_astray(NOW) == astray
    before = horizon.ms
    horizon.turn_back(NOW)
    assert horizon.ms == (RetainRule(WEEK).due(NOW) if ahead_ms > 0 else before)
    assert not horizon.is_astray(NOW)


def test_a_longer_rule_is_no_reason_to_go_back():
    horizon = made(WEEK // 7)
    horizon.rule = RetainRule(WEEK, "at")
    horizon.move(NOW)
    assert not horizon.is_astray(NOW)
    assert horizon.ms == RetainRule(WEEK // 7).due(NOW)


def test_a_pin_removes_only_what_its_witness_holds():
    horizon, vector = made(), Vector({b"s" * 16: [(0, 10)]})
    horizon.on_holder(OTHER, vector)
    assert not horizon.pin.elsewhere, "no pin asks for it"
    horizon.pin.age_ms = 86_400_000
    horizon.on_holder(OTHER, vector)
    assert horizon.pin.elsewhere == {b"s" * 16: 10}
    horizon.on_pinned_peer(NODE)
    assert horizon.pin.elsewhere
    horizon.on_pinned_peer(OTHER)
    assert not horizon.pin.elsewhere
