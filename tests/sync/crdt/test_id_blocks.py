"""Blocks of ids: nodes with different slots never give out one id, whatever they know of each other."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.crdt.id_blocks import (
    BLOCK_IDS,
    IDS_MAX,
    SLOTS,
    choose_slot,
    ids_left,
    is_own,
    preferred_slots,
    sequence_above,
)
from tests.sync.scale import examples

SLOT = st.integers(0, SLOTS - 1)
USED = st.integers(0, IDS_MAX - 2 * SLOTS * BLOCK_IDS)
SITES = st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=30, unique=True)


class Numbering:
    """A node as SQLite and the node together number its rows."""

    def __init__(self, slot):
        self.slot = slot
        self.sequence = sequence_above(slot, 0)
        self.given = []

    def insert(self, count):
        for _ in range(count):
            self.sequence += 1
            self.given.append(self.sequence)
        self.sequence = sequence_above(self.slot, self.sequence)

    def take_in(self, ids):
        self.sequence = sequence_above(self.slot, max([self.sequence, *ids]))


@examples(200)
@given(
    st.lists(SLOT, min_size=2, max_size=5, unique=True),
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([1, 2, 100, BLOCK_IDS // 2]), st.booleans()),
        max_size=40,
    ),
)
def test_no_history_gives_one_id_to_two_rows(slots, steps):
    nodes = [Numbering(slot) for slot in slots]
    for who, whom, count, meets in steps:
        node, other = nodes[who % len(nodes)], nodes[whom % len(nodes)]
        if meets:
            node.take_in(other.given)
        else:
            node.insert(count)
    given_out = list(itertools.chain.from_iterable(node.given for node in nodes))
    assert len(given_out) == len(set(given_out))
    assert all(0 < number <= IDS_MAX for number in given_out)


@examples(300)
@given(SLOT, USED)
def test_a_sequence_moves_up_into_an_own_block(slot, used):
    sequence = sequence_above(slot, used)
    assert is_own(slot, sequence)
    assert used <= sequence <= used + SLOTS * BLOCK_IDS
    assert ids_left(slot, sequence, ()) >= BLOCK_IDS // 2
    assert sequence_above(slot, sequence) == sequence


def test_half_a_block_is_left_for_programs():
    first = sequence_above(7, 0)
    assert first == 7 * BLOCK_IDS
    assert sequence_above(7, first + BLOCK_IDS // 2) == first + BLOCK_IDS // 2
    assert sequence_above(7, first + BLOCK_IDS // 2 + 1) == (SLOTS + 7) * BLOCK_IDS


def test_ids_end_below_two_to_the_53():
    last = IDS_MAX // BLOCK_IDS * BLOCK_IDS - BLOCK_IDS
    slot = last // BLOCK_IDS % SLOTS
    assert sequence_above(slot, last - 1) == last
    assert last + BLOCK_IDS <= IDS_MAX
    assert sequence_above(slot, last + BLOCK_IDS) is None
    assert sequence_above(slot, (1 << 63) - 1) is None
    assert sequence_above(slot, -5) == slot * BLOCK_IDS


def test_room_ends_at_the_next_slot_of_another_node():
    start = sequence_above(4_000, 0)
    assert ids_left(4_000, start + 24, ()) == SLOTS * BLOCK_IDS - 24
    assert ids_left(4_000, start, (4_001, 9)) == BLOCK_IDS
    assert ids_left(4_000, start, (9, 4_000)) == (SLOTS - 4_000 + 9) * BLOCK_IDS
    assert ids_left(3, start, ()) == 0


@examples(100)
@given(SITES)
def test_sites_that_know_the_earlier_claims_differ(sites):
    taken = set()
    for site in sites:
        slot = choose_slot(site, taken)
        assert slot not in taken
        taken.add(slot)


def test_the_last_free_slot_is_found():
    site = b"s" * 16
    preferred = set(preferred_slots(site))
    free = next(slot for slot in range(SLOTS) if slot not in preferred)
    assert choose_slot(site, set(range(SLOTS)) - {free}) == free
    assert choose_slot(site, set(range(SLOTS))) is None
