"""Long messages in parts: each fits every version's limits, and the parts joined say what was cut."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given

from mycomesh.sync.crdt.version_vector import RANGES_MAX, Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire import parts
from mycomesh.sync.wire.bundle import SECTIONS_MAX, SITES_MAX
from mycomesh.sync.wire.messages import CoverageReply, Digests, Done, Part, Plan, Vectors, decode, encode
from mycomesh.sync.wire.parts import PART_RANGES_MAX, PART_SITES_MAX, PART_TABLES_MAX, PARTS_BYTES_MAX, Joiner, cut
from tests.sync.scale import examples
from tests.sync.wirestrategies import messages

LIMIT = PART_TABLES_MAX


def site(number):
    return number.to_bytes(16, "big")


def digests(count):
    return Digests(tuple((f"t{number:05}", bytes(8), bytes(16)) for number in range(count)), answer=True)


def vectors(tables, sites, ranges=1):
    windows = [(2 * number, 2 * number + 1) for number in range(ranges)]
    return tuple((f"t{number:05}", Vector({site(n): windows for n in range(sites)})) for number in range(tables))


def told(message):
    """The message that a receiver joins; each piece fits the limits of the first version."""
    joiner = Joiner()
    *before, last = cut(message)
    for piece in before:
        data = encode(piece)
        assert_fits(decode(data).message)
        assert joiner.on_message(decode(data), len(data)) is None
    assert not isinstance(last, Part)
    data = encode(last)
    assert_fits(decode(data))
    return joiner.on_message(decode(data), len(data)), len(before)


def assert_fits(message):
    match message:
        case Digests(tables, _) | CoverageReply(_, tables):
            assert len(tables) <= SECTIONS_MAX
        case Vectors(found) | Done(found, _):
            assert len(found) <= SECTIONS_MAX
            listed = [*found, *(message.collected if isinstance(message, Done) else ())]
            assert len({site for _, vector in listed for site, _ in vector.items()}) <= SITES_MAX
            assert all(len(ranges) <= RANGES_MAX for _, vector in listed for _, ranges in vector.items())


def as_dict(pairs):
    return {name: vector for name, vector in pairs if vector.items()}


@examples(100)
@given(messages)
def test_a_message_that_fits_is_not_cut(message):
    if not isinstance(message, Part):
        assert cut(message) == [message]


@pytest.mark.parametrize(
    ("count", "pieces"), [(LIMIT - 1, 1), (LIMIT, 1), (LIMIT + 1, 2), (2 * LIMIT, 2), (5 * LIMIT + 1, 6)]
)
def test_digests_of_any_number_of_tables_arrive(count, pieces):
    back, before = told(digests(count))
    assert before + 1 == pieces
    assert back.answer
    assert sorted(back.tables) == list(digests(count).tables)
    reply = CoverageReply(site(1), tuple((name, 7) for name, _, _ in digests(count).tables))
    back, before = told(reply)
    assert before + 1 == pieces
    assert sorted(back.tables) == list(reply.tables)


@pytest.mark.parametrize(
    ("tables", "sites", "ranges", "cut_up"),
    [
        (1, PART_SITES_MAX - 1, 1, False),
        (1, PART_SITES_MAX, 1, False),
        (1, PART_SITES_MAX + 1, 1, True),
        (2, 3, RANGES_MAX, False),
        (1, PART_RANGES_MAX // RANGES_MAX - 1, RANGES_MAX, False),
        (1, PART_RANGES_MAX // RANGES_MAX, RANGES_MAX, False),
        (1, PART_RANGES_MAX // RANGES_MAX + 1, RANGES_MAX, True),
        (LIMIT, 2, 1, False),
        (LIMIT + 1, 2, 1, True),
        (600, 30, 1, True),
        (3, PART_SITES_MAX // 2 + 1, 1, False),
    ],
)
def test_vectors_of_any_size_arrive(tables, sites, ranges, cut_up):
    sent = vectors(tables, sites, ranges)
    back, before = told(Vectors(sent))
    assert as_dict(back.vectors) == as_dict(sent)
    assert (before > 0) is cut_up
    collected = (*vectors(1, 5), ("t00001", Vector({site(1 << 20): [(0, 5)]})))[:tables]
    back, before = told(Done(sent, collected))
    assert as_dict(back.vectors) == as_dict(sent)
    assert as_dict(back.collected) == as_dict(collected)
    assert before > 0 or not cut_up


def test_of_more_gaps_than_limit_first_are_told():
    many = Vector({site(1): [(2 * number, 2 * number + 1) for number in range(RANGES_MAX + 3)]})
    back, _ = told(Vectors((("t", many),)))
    assert back.vectors[0][1].ranges(site(1)) == many.ranges(site(1))[:RANGES_MAX]


def test_the_message_itself_has_only_whole_tables():
    large = Vector({site(number): [(0, 5)] for number in range(PART_SITES_MAX + 1)})
    small = Vector({site(3): [(0, 9)]})
    sent = (("large", large), ("small", small))
    last = cut(Done(sent, (("large", small), ("small", small))))[-1]
    assert last == Done((("small", small),), (("small", small),))
    assert cut(Vectors(sent))[-1] == Vectors((("small", small),))


def test_parts_of_more_bytes_than_the_limit_are_refused():
    joiner = Joiner()
    part = Part(digests(1))
    assert joiner.on_message(part, PARTS_BYTES_MAX - 1) is None
    assert joiner.on_message(part, 1) is None
    with pytest.raises(DecodeError, match="too many parts"):
        joiner.on_message(part, 1)


def test_parts_take_no_more_memory_than_their_bytes():
    """A member may let a node keep 8 MiB of parts; decoded they took 120 MB."""
    joiner, part = Joiner(), Part(CoverageReply(site(1), tuple((f"table{n}", n + 1) for n in range(1_000))))
    size, kept = len(encode(part)), 0
    tracemalloc.start()
    try:
        while kept < 1 << 20:
            joiner.on_message(decode(encode(part)), size)
            kept += size
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 2 * kept


def test_parts_without_their_message_are_refused():
    joiner = Joiner()
    joiner.on_message(Part(digests(1)), 9)
    with pytest.raises(DecodeError, match="without their message"):
        joiner.on_message(Plan(3), 9)
    assert joiner.on_message(Plan(3), 9) == Plan(3)
    joiner.on_message(Part(digests(1)), 9)
    with pytest.raises(DecodeError, match="two messages"):
        joiner.on_message(Part(Vectors(())), 9)
    joiner = Joiner()
    joiner.on_message(Part(CoverageReply(site(1), ())), 9)
    with pytest.raises(DecodeError, match="two sites"):
        joiner.on_message(CoverageReply(site(2), ()), 9)


def test_more_state_than_mesh_can_have_fits_parts():
    """Sixteen sites of each of 1,024 members in one table."""
    message = Vectors(vectors(1, 16 * 1_024))
    assert sum(len(encode(piece)) for piece in cut(message)) < parts.PARTS_BYTES_MAX // 8
