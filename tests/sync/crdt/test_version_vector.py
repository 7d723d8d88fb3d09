"""Vectors are sets of clock values written as ranges: each operation is checked against plain sets."""

from __future__ import annotations

from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.crdt.version_vector import Vector, difference
from tests.sync.scale import examples

SITES = (b"a" * 16, b"b" * 16)
TOP = 24
spans = st.tuples(st.sampled_from(SITES), st.integers(0, TOP), st.integers(0, TOP))
span_lists = st.lists(spans, max_size=12)


def made(items):
    vector = Vector()
    for site, after, upto in items:
        vector.add(site, after, upto)
    return vector


def points(items):
    return {(site, hlc) for site, after, upto in items for hlc in range(after + 1, upto + 1)}


def covered(vector):
    return {(site, hlc) for site in SITES for hlc in range(TOP + 2) if vector.covers(site, hlc)}


@examples(200)
@given(span_lists)
def test_a_vector_covers_exactly_what_was_added(items):
    vector = made(items)
    assert covered(vector) == points(items)
    for _, ranges in vector.items():  # noqa: PERF102 -- a Vector is no dict
        assert all(low < high for low, high in ranges)
        assert all(first[1] < second[0] for first, second in pairwise(ranges))  # sorted, disjoint, never touching


@examples(200)
@given(span_lists, st.randoms(use_true_random=False))
def test_the_order_of_additions_does_not_matter(items, rng):
    shuffled = list(items)
    rng.shuffle(shuffled)
    assert made(items) == made(shuffled)
    assert made(items).items() == made(shuffled).items()


@examples(200)
@given(span_lists, span_lists)
def test_merge_is_union_and_missing_is_difference(left, right):
    mine, theirs = made(left), made(right)
    missing = {(site, hlc) for site, (low, high) in mine.missing_from(theirs) for hlc in range(low + 1, high + 1)}
    assert missing == points(left) - points(right)
    both = mine.copy()
    both.merge(theirs)
    assert covered(both) == points(left) | points(right)
    assert covered(mine) == points(left)  # a copy is independent
    assert both.missing_from(mine) == theirs.missing_from(mine)


@examples(200)
@given(span_lists)
def test_ends_and_gaps_are_told_rightly(items):
    vector = made(items)
    held = points(items)
    for site in SITES:
        mine = sorted(hlc for owner, hlc in held if owner == site)
        first_gap = next(hlc for hlc in range(1, TOP + 3) if hlc not in mine)
        assert vector.upto(site) == first_gap - 1
        for after in range(first_gap + 3):
            gap = next(hlc for hlc in count(after + 1) if (site, hlc) not in points(items))
            assert vector.upto(site, after) == (gap - 1 if gap > after + 1 else 0)
        assert vector.top(site) == (mine[-1] if mine else 0)
        assert vector.has_gap(site) is (bool(mine) and first_gap <= mine[-1])
        assert vector.covers_range(site, 0, vector.upto(site)) is (vector.upto(site) > 0)


@examples(200)
@given(span_lists, st.integers(0, TOP), st.integers(0, TOP))
def test_range_is_covered_when_each_of_its_values_is(items, after, upto):
    after, upto = sorted((after, upto))
    if after < upto:
        site = SITES[0]
        assert made(items).covers_range(site, after, upto) is (
            {(site, hlc) for hlc in range(after + 1, upto + 1)} <= points(items)
        )


@pytest.mark.parametrize(
    ("have", "lack", "left"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(0, 10)], []),
        ([(0, 10)], [(3, 5)], [(0, 3), (5, 10)]),
        ([(5, 9)], [(0, 6), (8, 20)], [(6, 8)]),
        ([(0, 2), (4, 6)], [(1, 5)], [(0, 1), (5, 6)]),
    ],
)
def test_difference_of_ranges(have, lack, left):
    assert list(difference(have, lack)) == left


def test_vectors_compare_by_what_they_cover():
    assert Vector() != object()
    assert Vector({SITES[0]: [(0, 3), (3, 5)]}) == Vector({SITES[0]: [(0, 5)]})
    with pytest.raises(TypeError):
        hash(Vector())
