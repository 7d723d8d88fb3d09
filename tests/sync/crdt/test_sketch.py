"""Sketches: what two sets differ in, whatever they share; what it costs; and what a liar can do with one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.crdt.sketch import CELL_BYTES, CELLS_FIRST, CELLS_MAX, ID_BYTES, Sketch, cells_after, id_of
from mycomesh.sync.errors import DecodeError
from tests.sync.scale import examples

digests = st.integers(-(1 << 63), (1 << 63) - 1)


def sketched(cells, entries):
    sketch = Sketch(cells)
    sketch.add(entries)
    return sketch


def told(cells, first, second):
    """Return the sketch that a replica with `first` has after the sketch of the other has arrived."""
    return sketched(cells, first).subtract(Sketch.decode(sketched(cells, second).encode()))


@examples(100)
@given(st.sets(digests, max_size=9), st.sets(digests, max_size=9), st.sets(digests, max_size=50))
def test_what_is_peeled_is_the_difference_whatever_is_shared(first, second, shared):
    shared |= first & second
    peeled = told(300, first | shared, second | shared).peel()
    only_first = {id_of(each) for each in first - shared}
    only_second = {id_of(each) for each in second - shared}
    if peeled is not None and len(peeled.first) + len(peeled.second) == len(only_first) + len(only_second):
        assert (set(peeled.first), set(peeled.second)) == (only_first - only_second, only_second - only_first)
    else:  # two that share all their cells, or one id
        assert len(only_first) + len(only_second) >= 2
        assert peeled is None or {*peeled.first, *peeled.second} <= only_first | only_second


def conversation(entries):
    """Returns (bytes of sketches and wanted ids, sketches sent, differences that were left) of one repair."""
    differences = len(entries)
    half = differences // 2
    cells, size, sent = CELLS_FIRST, 0, 0
    while True:
        difference = told(cells, entries[:half], entries[half:])
        size += cells * CELL_BYTES
        sent += 1
        estimate = difference.estimate()
        peeled = difference.peel()
        if peeled is not None:
            return size + ID_BYTES * half, sent, differences - len(peeled.first) - len(peeled.second)
        assert cells_after(cells, estimate) > cells
        cells = cells_after(cells, estimate)


@pytest.mark.parametrize(
    ("differences", "draws", "bytes_max", "sent_max"), [(1, 50, 1_400, 1), (100, 50, 4_000, 3), (1_000, 30, 25_000, 4)]
)
def test_a_repair_costs_what_differs_whatever_is_drawn(differences, draws, bytes_max, sent_max):
    rng = random.Random(differences)
    for _ in range(draws):
        size, sent, left = conversation([rng.getrandbits(64) - (1 << 63) for _ in range(differences)])
        assert size <= bytes_max
        assert sent <= sent_max
        assert left <= 2


def test_rows_that_share_cells_separate_in_the_next_size():
    rng = random.Random(3)
    cells, pair = 12, None
    while pair is None:
        drawn = [rng.getrandbits(40) for _ in range(2)]
        if told(cells, drawn, []).peel() is None:
            pair = drawn
    apart = [told(size, pair, []).peel() is not None for size in range(15, 60, 3)]
    assert sum(apart) > len(apart) // 2


def test_two_rows_that_share_cells_end_in_two_sketches():
    rng = random.Random(4)
    seen, pair = {}, None
    while pair is None:  # two entries, one on each side: their counts cancel, or add up to 2
        drawn = rng.getrandbits(40)
        cells = tuple(cell for cell, count in enumerate(sketched(CELLS_FIRST, [drawn]).counts) if count)
        pair = (seen[cells], drawn) if cells in seen else None
        seen[cells] = drawn
    assert told(CELLS_FIRST, pair[:1], pair[1:]).peel() is None
    size, sent, left = conversation(pair)
    assert (sent, left) == (2, 0)
    assert size < 1_000


def test_a_lying_peers_cells_end_the_peeling():
    rng = random.Random(5)
    lies = Sketch.decode(rng.randbytes(CELL_BYTES * 3_000))
    assert sketched(3_000, []).subtract(lies).peel() is None


@pytest.mark.parametrize(
    "data", [b"", b"x" * (CELL_BYTES - 1), bytes(CELL_BYTES * 2), bytes(CELL_BYTES * (CELLS_MAX + 3))]
)
def test_what_is_no_sketch_is_refused(data):
    with pytest.raises(DecodeError):
        Sketch.decode(data)
