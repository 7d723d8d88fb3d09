"""The clock: unique, never backwards, never below what it witnessed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.crdt.hlc import COUNTER_BITS, HLC_MAX, Clock, hlc_from_ms, ms_from_hlc
from tests.sync.scale import examples

WALL_MAX = HLC_MAX >> COUNTER_BITS
walls = st.integers(-(10**12), WALL_MAX >> 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), walls, st.integers(0, HLC_MAX >> 1)),
        st.tuples(st.just("witness"), st.integers(0, HLC_MAX >> 1), st.just(0)),
    ),
    max_size=30,
)


@examples(200)
@given(steps)
def test_every_tick_exceeds_all_known_clocks(script):
    clock = Clock()
    greatest = 0
    for what, value, floor in script:
        if what == "witness":
            clock.witness(value)
            greatest = max(greatest, value)
        else:
            hlc = clock.tick(value, floor)
            assert hlc > max(greatest, floor)
            assert ms_from_hlc(hlc) >= value
            greatest = hlc
        assert clock.last == greatest


def test_many_writes_of_one_millisecond_keep_their_order():
    clock = Clock()
    issued = [clock.tick(1_000) for _ in range(1 << COUNTER_BITS)]
    assert issued == sorted(set(issued))
    assert {ms_from_hlc(hlc) for hlc in issued} == {1_000}
    assert clock.tick(1_000) == hlc_from_ms(1_001)  # the counter carries into the next millisecond


def test_a_clock_before_1970_counts_as_1970():
    assert hlc_from_ms(-5) == 0
    assert Clock().tick(-5) == 1


def test_clock_at_end_of_time_stays_in_64_bits():
    assert hlc_from_ms(1 << 60) == HLC_MAX


@examples(200)
@given(st.integers(0, WALL_MAX), st.integers(0, WALL_MAX))
def test_milliseconds_and_hlcs_order_alike(left, right):
    assert ms_from_hlc(hlc_from_ms(left)) == left
    assert (hlc_from_ms(left) < hlc_from_ms(right)) is (left < right)
