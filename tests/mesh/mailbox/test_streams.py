"""Streams: every envelope is delivered once or reported as missing, whatever the storage does."""

import random
from dataclasses import replace

import pytest

from mycomesh.mesh.mailbox import streams
from mycomesh.mesh.mailbox.envelope import Contents, EnvelopeKeys, seal
from mycomesh.mesh.mailbox.mailbox import Listed
from mycomesh.mesh.mailbox.streams import AHEAD_MAX, GAP_MS, GATHER_BYTES, REFUSED_MAX, StreamReader, StreamWriter
from mycomesh.mesh.messages import Batch

KEYS = EnvelopeKeys(bytes(16), b"\x01" * 32, (b"\x01" * 32,))
STREAM = KEYS.stream_of(bytes(16))
BATCH = Batch(bytes(16), 2, True, bytes(64), b"payload")
FOLLOWING = {"AHEAD_MAX": 8, "REFUSED_MAX": 8}


def numbered(number, size=8):
    return replace(BATCH, payload=number.to_bytes(8, "big") + bytes(size - 8))


def writer(last=0):
    return StreamWriter(STREAM, last, lambda origin: b"of " + origin)


def written(count):
    """Return the envelopes of `count` batches, one each, by position."""
    writing, stored = writer(), {}
    for number in range(count):
        writing.put(numbered(number))
        position, data = writing.next_envelope(KEYS, 1_000 + number // 3)
        stored[position] = data
        writing.on_appended(position)
    return stored


def listed(positions):
    return [Listed(STREAM, position, 0) for position in positions]


def read_pass(reader, stored, now_ms):
    """Read once what the storage shows; return the numbers of the batches, and whether a gap was reported."""
    numbers = []
    for each in reader.wanted(listed(stored)):
        contents = reader.read(KEYS, each.position, stored[each.position])
        numbers += [] if contents is None else [int.from_bytes(batch.payload, "big") for batch in contents.batches]
    return numbers, reader.advance(now_ms)


def test_a_stream_read_in_order_has_no_gap():
    stored, reader = written(20), StreamReader(STREAM)
    assert read_pass(reader, stored, 0) == (list(range(20)), False)
    assert read_pass(reader, stored, GAP_MS * 2) == ([], False)
    assert reader.position == max(stored)


def test_batches_are_gathered_and_the_large_travel_alone():
    writing = writer()
    for size in (GATHER_BYTES // 2, GATHER_BYTES // 2, 8, 3 * GATHER_BYTES, 8):
        writing.put(numbered(0, size))
    counts, reader = [], StreamReader(STREAM)
    while (envelope := writing.next_envelope(KEYS, 5)) is not None:
        counts.append(len(reader.read(KEYS, *envelope).batches))
        writing.on_appended(envelope[0])
    assert counts == [2, 1, 1, 1]
    assert writing.queued == 0


def test_an_envelope_carries_its_origins_certificates_once():
    writing = writer()
    for origin in (b"a" * 16, b"b" * 16, b"a" * 16):
        writing.put(replace(BATCH, origin=origin))
    position, data = writing.next_envelope(KEYS, 5)
    assert StreamReader(STREAM).read(KEYS, position, data).certificates == (b"of " + b"a" * 16, b"of " + b"b" * 16)


def test_a_taken_position_is_followed_by_a_later_one():
    writing = writer()
    writing.put(BATCH)
    position, _ = writing.next_envelope(KEYS, 5)
    writing.on_taken(position)
    later, data = writing.next_envelope(KEYS, 5)
    assert later == position + 1
    assert StreamReader(STREAM).read(KEYS, later, data).previous == position


def test_a_batch_put_while_another_is_stored_stays_queued(monkeypatch):
    monkeypatch.setattr(streams, "QUEUE_BYTES_MAX", 20)
    writing = writer()
    writing.put(numbered(1))
    position, _ = writing.next_envelope(KEYS, 5)
    for number in (2, 3, 4):
        writing.put(numbered(number))
    writing.on_appended(position)
    contents = StreamReader(STREAM).read(KEYS, *writing.next_envelope(KEYS, 6))
    assert [int.from_bytes(batch.payload, "big") for batch in contents.batches] == [4]
    assert writing.skipped == 2


def test_a_full_queue_drops_the_oldest_batches(monkeypatch):
    monkeypatch.setattr(streams, "QUEUE_BYTES_MAX", 24)
    writing = writer()
    for number in range(3):
        writing.put(numbered(number))
    assert (writing.queued, writing.skipped) == (3, 0)
    writing.put(numbered(3))
    assert (writing.queued, writing.skipped) == (3, 1)
    writing.put(numbered(4, 100))  # one batch beyond the limit still travels
    assert (writing.queued, writing.skipped) == (1, 4)


def test_a_truncated_stream_is_reported_after_a_wait():
    stored, reader = written(5), StreamReader(STREAM)
    del stored[min(stored)]
    assert read_pass(reader, stored, 100) == ([1, 2, 3, 4], False)
    assert read_pass(reader, stored, 100 + GAP_MS) == ([], True)
    assert (reader.position, reader.gaps) == (max(stored), 1)


def test_a_late_envelope_closes_the_gap():
    stored, reader = written(5), StreamReader(STREAM)
    late = sorted(stored)[2]
    rest = {position: data for position, data in stored.items() if position != late}
    assert read_pass(reader, rest, 0) == ([0, 1, 3, 4], False)
    assert read_pass(reader, stored, GAP_MS - 1) == ([2], False)
    assert (reader.position, reader.gaps) == (max(stored), 0)


def test_a_refused_envelope_is_counted_and_tried_again():
    stored, reader = written(2), StreamReader(STREAM)
    whole = stored[min(stored)]
    stored[min(stored)] = whole[:-1]
    assert read_pass(reader, stored, 0) == ([1], False)
    assert read_pass(reader, stored, 1) == ([], False)
    assert (reader.refused, reader.refusal) == (1, "envelope was changed, or no member sealed it")
    stored[min(stored)] = whole
    reader.retry_refused()
    assert read_pass(reader, stored, 2) == ([0], False)


def test_envelopes_ahead_of_a_gap_are_bounded(monkeypatch):
    assert AHEAD_MAX == 4_096
    monkeypatch.setattr(streams, "AHEAD_MAX", 8)
    stored, reader = written(20), StreamReader(STREAM)
    del stored[min(stored)]
    numbers, gap = read_pass(reader, stored, 0)
    assert (numbers, gap) == (list(range(1, 9)), True)  # full: the missing one is given up at once
    assert read_pass(reader, stored, 0) == (list(range(9, 17)), False)


def test_remembered_refusals_are_bounded(monkeypatch):
    assert REFUSED_MAX == 1_024
    monkeypatch.setattr(streams, "REFUSED_MAX", 8)
    reader = StreamReader(STREAM)
    for position in range(1, 21):
        assert reader.read(KEYS, position, b"junk") is None
    assert (reader.refused, len(reader._refused)) == (20, 8)


def test_a_stream_that_claims_earlier_positions_moves_on():
    reader, contents = StreamReader(STREAM, 50), Contents(3, (), (BATCH,))
    assert reader.read(KEYS, 60, seal(KEYS, STREAM, 60, contents)) == contents
    assert reader.advance(0) is False
    assert reader.position == 60
    assert reader.read(KEYS, 40, seal(KEYS, STREAM, 40, contents)) is None  # a replay


@pytest.mark.parametrize("seed", range(40))
def test_lying_storage_neither_doubles_nor_hides(seed):
    """Storage loses, withholds, repeats, reorders, swaps and damages; the last envelope it shows at last, whole."""
    rng, stored, reader = random.Random(seed), written(30), StreamReader(STREAM)
    positions, numbers, gaps = sorted(stored), [], 0
    lost = {position for position in positions[:-1] if rng.random() < 0.1}
    for step in range(12):
        shown = [position for position in positions[:-1] if position not in lost and rng.random() < 0.7]
        shown += rng.choices(shown, k=3) if shown else []
        rng.shuffle(shown)
        for each in reader.wanted(listed(shown)):
            data = stored[each.position]
            match rng.randrange(6):
                case 0:
                    data = stored[rng.choice(positions)]
                case 1:
                    data = data[: rng.randrange(len(data))]
                case _:
                    pass
            contents = reader.read(KEYS, each.position, data)
            numbers += [] if contents is None else [int.from_bytes(contents.batches[0].payload, "big")]
        reader.retry_refused()
        gaps += reader.advance(step * 100)
    assert gaps == 0  # not yet: what is missing may still come
    whole = {position: data for position, data in stored.items() if position not in lost}
    news, _ = read_pass(reader, whole, GAP_MS)
    numbers += news
    assert sorted(numbers) == [number for number, position in enumerate(positions) if position not in lost]
    gap = reader.advance(3 * GAP_MS) or reader.gaps > 0
    for passes in range(4, 40):
        gap = reader.advance(passes * GAP_MS) or gap
    assert gap == bool(lost)
    assert reader.position == positions[-1]
