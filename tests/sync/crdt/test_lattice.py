"""The join of changes is a lattice: checked against one max-register a cell, written out naively."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mycomesh.sync.crdt.lattice import EXISTENCE, Entry, bits_of, join, visible
from tests.sync.scale import examples

COLUMNS = 0b1110  # three columns, bits 1..3
SITES = (b"a" * 16, b"b" * 16, b"c" * 16)

stamps = st.tuples(st.integers(1, 8), st.sampled_from(SITES))


@st.composite
def histories(draw):
    """Changes of one row, each stamp used once: (stamp, mask, dead)."""
    found = draw(st.lists(stamps, min_size=1, max_size=8, unique=True))
    changes = []
    for stamp in found:
        kind = draw(st.sampled_from(["birth", "update", "delete"]))
        if kind == "birth":
            changes.append((stamp, COLUMNS | EXISTENCE, False))
        elif kind == "delete":
            changes.append((stamp, EXISTENCE, True))
        else:
            changes.append((stamp, draw(st.integers(1, 7)) << 1, False))
    return changes


def joined(changes, entries=()):
    """Joins changes one by one, as merge and drain do with the rows of a change log."""
    entries = list(entries)
    for stamp, mask, dead in changes:
        outcome = join(entries, stamp, mask)
        kept = [entry._replace(mask=left) for entry, left in zip(entries, outcome.masks, strict=True)]
        if outcome.gained:
            same = next((entry for entry in kept if entry.stamp == stamp), None)
            kept = [entry for entry in kept if entry is not same]
            kept.append(Entry(stamp, outcome.gained | (same.mask if same else 0), dead))
        entries = [entry for entry in kept if entry.mask]
    return sorted(entries)


def registers(changes):
    """The naive model: for each cell the greatest stamp; existence kills the cells stamped below it."""
    cells = {}
    for stamp, mask, dead in changes:
        for bit in bits_of(mask):
            cells[bit] = max(cells.get(bit, ((0, b""), False)), (stamp, dead))
    existence = cells.get(0)
    if existence is not None:
        cells = {bit: owner for bit, owner in cells.items() if owner[0] >= existence[0]}
    masks = {}
    for bit, owner in cells.items():
        masks[owner] = masks.get(owner, 0) | 1 << bit
    return sorted(Entry(stamp, mask, dead) for (stamp, dead), mask in masks.items())


@examples(200)
@given(histories(), st.data())
def test_any_order_and_repetition_ends_in_registers_of_model(changes, data):
    order = data.draw(st.permutations(changes + data.draw(st.lists(st.sampled_from(changes), max_size=4))))
    assert joined(order) == registers(changes)


@examples(200)
@given(histories())
def test_row_is_visible_when_its_newest_existence_is_birth(changes):
    claims = [(stamp, dead) for stamp, mask, dead in changes if mask & EXISTENCE]
    assert visible(joined(changes)) is bool(claims and not max(claims)[1])


@examples(200)
@given(histories(), st.integers(0, 8))
def test_states_join_as_changes_do(changes, cut):
    """Associativity: a replica's entries, sent on, count as much as the changes that made them."""
    left, right = joined(changes[:cut]), joined(changes[cut:])
    assert joined(right, left) == joined(left, right) == registers(changes)


@examples(200)
@given(histories())
def test_joining_a_state_again_changes_nothing(changes):
    state = joined(changes)
    assert joined(state, state) == state
    for entry in state:
        outcome = join(state, entry.stamp, entry.mask)
        assert outcome.gained == 0
        assert outcome.masks == [other.mask for other in state]


@examples(200)
@given(histories())
def test_every_cell_has_one_owner(changes):
    for first, second in itertools.combinations(joined(changes), 2):
        assert first.mask & second.mask == 0


@examples(200)
@given(histories(), st.integers(0, 15))
def test_one_change_may_arrive_in_two_parts(changes, split):
    """A superseded change is sent without the cells that it lost: parts of one stamp join to the whole."""
    stamp, mask, dead = changes[0]
    parts = [(stamp, part, dead) for part in (mask & split, mask & ~split) if part]
    # Existence kills cells below it wherever it is, so a part without it leaves the same cells in the end.
    assert joined([*parts, *changes[1:]]) == joined([*changes[1:], *reversed(parts)]) == registers(changes)


@examples(200)
@given(st.integers(0, (1 << 130) - 1))
@example(0)
def test_bits_are_the_set_bits_ascending(mask):
    assert list(bits_of(mask)) == [bit for bit in range(131) if mask >> bit & 1]


def test_update_of_a_deleted_row_needs_a_later_clock():
    grave = [Entry((5, SITES[0]), EXISTENCE, dead=True)]
    assert join(grave, (4, SITES[1]), 0b10).gained == 0
    assert join(grave, (6, SITES[1]), 0b10).gained == 0b10
    assert not visible(joined([((6, SITES[1]), 0b10, False)], grave))


@pytest.mark.parametrize("dead", [True, False])
def test_existence_takes_everything_below_it_and_nothing_above(dead):
    entries = [
        Entry((1, SITES[0]), 0b0011, False),
        Entry((3, SITES[0]), 0b0100, False),
        Entry((7, SITES[0]), 0b1000, False),
    ]
    mask = EXISTENCE if dead else EXISTENCE | COLUMNS
    assert join(entries, (5, SITES[1]), mask).masks == [0, 0, 0b1000]
