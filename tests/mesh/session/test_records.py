"""Records: messages by priority in pieces, windows that bound what waits, and limits on what a peer starts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.mesh.errors import DecodeError, LimitError
from mycomesh.mesh.session.noise import PLAINTEXT_BYTES_MAX
from mycomesh.mesh.session.records import (
    CREDIT_EVERY,
    FRAME_BYTES_MIN,
    FRAMES_A_WINDOW,
    MESSAGE_BYTES_MAX,
    PACKET_BYTES,
    PARTIAL_BYTES_MAX,
    URGENT_BYTES,
    WINDOW_MAX,
    WINDOW_MIN,
    WINDOW_MS,
    WINDOW_START,
    RecordReader,
    RecordWriter,
    Whole,
)
from tests.mesh.session.sessions import NOW, opened, pump, said


def test_small_messages_written_together_share_one_frame():
    left, right = opened()
    for index in range(50):
        left.send(b"%d" % index, 1)
    data = left.flush()
    assert len(data) == 2 + int.from_bytes(data[:2], "big")
    assert [step.payload for step in right.receive(data, NOW)] == [b"%d" % index for index in range(50)]


def test_a_large_blob_passes_whole():
    left, right = opened()
    blob = random.Random(3).randbytes(16 << 20)
    left.send(blob, 3)
    _, got = pump(left, right)
    assert said(got) == [(blob, 3)]
    assert left.outbox.queued == 0


def test_an_urgent_message_overtakes_a_blob_under_way():
    left, right = opened()
    left.send(bytes(8 << 20), 3)
    there = left.flush()
    assert len(there) < WINDOW_START + 1_000
    assert left.flush() == b""
    left.send(b"alert", 0)  # neither the rest of the blob nor the full window holds it back
    assert right.receive(there, NOW) == []
    assert said(right.receive(left.flush(), NOW)) == [(b"alert", 0)]


def test_urgent_messages_get_small_frames_and_bulk_fitting_ones():
    outbox = RecordWriter()
    outbox.push(bytes(1 << 20), 2)
    outbox.push(b"alert", 0)
    outbox.push(b"small", 1)
    alert = outbox.pack()
    assert len(alert) <= PACKET_BYTES
    assert [whole.payload for whole in RecordReader().take(alert) if isinstance(whole, Whole)] == [b"alert", b"small"]
    assert WINDOW_START // FRAMES_A_WINDOW - CREDIT_EVERY < len(outbox.pack()) <= WINDOW_START // FRAMES_A_WINDOW
    outbox.window = WINDOW_MAX
    assert len(outbox.pack()) == PLAINTEXT_BYTES_MAX
    outbox.acknowledge(outbox.unacknowledged, 1)
    outbox.window = WINDOW_MIN
    assert len(outbox.pack()) == FRAME_BYTES_MIN


def test_messages_of_one_priority_keep_their_order():
    left, right = opened()
    sent = [random.Random(index).randbytes(index * 977 % 100_000) for index in range(60)]
    for message in sent:
        left.send(message, 2)
    _, got = pump(left, right)
    assert [step.payload for step in got] == sent


def test_a_peer_that_does_not_read_holds_one_window():
    left, _ = opened()
    left.send(bytes(4 << 20), 2)
    left.send(bytes(4 << 20), 0)
    most = WINDOW_START + URGENT_BYTES
    assert most - CREDIT_EVERY <= len(left.flush()) <= most + 1_000
    assert left.flush() == b""
    assert left.outbox.queued >= (8 << 20) - most


def test_a_message_too_long_for_links_is_refused_whole():
    left, _ = opened()
    with pytest.raises(LimitError, match="split it"):
        left.send(bytes(MESSAGE_BYTES_MAX + 1), 1)
    assert left.flush() == b""


@given(
    st.lists(st.tuples(st.binary(max_size=300) | st.integers(1, 200_000).map(bytes), st.integers(0, 3)), max_size=20),
    st.integers(0, 3),
)
def test_records_carry_every_message_once_and_in_order(messages, hold):
    outbox, inbox = RecordWriter(), RecordReader()
    for payload, priority in messages:
        outbox.push(payload, priority)
    got = []
    now = 0
    while frame := outbox.pack():
        got += [item for item in inbox.take(frame) if isinstance(item, Whole)]
        if inbox.uncredited > hold * CREDIT_EVERY:
            now += 3
            outbox.acknowledge(inbox.uncredited, now)
            inbox.uncredited = 0
    for priority in range(4):
        sent = [payload for payload, each in messages if each == priority]
        assert [whole.payload for whole in got if whole.priority == priority] == sent


@given(st.binary(max_size=300))
def test_junk_records_are_refused_or_understood(junk):
    inbox = RecordReader()
    try:
        found = inbox.take(junk)
    except DecodeError:
        return
    assert sum(len(item.payload) for item in found if isinstance(item, Whole)) <= len(junk)


def test_half_received_messages_are_bounded():
    inbox = RecordReader()
    piece = bytes((3,)) + (60_000).to_bytes(2, "big") + bytes(60_000)
    for _ in range(MESSAGE_BYTES_MAX // 60_000):
        assert inbox.take(piece) == []
    with pytest.raises(DecodeError, match="exceeds"):
        inbox.take(piece)


def test_half_received_messages_of_all_priorities_together_are_bounded():
    inbox = RecordReader()
    size = 60_000
    taken = 0
    with pytest.raises(DecodeError, match="exceeds"):  # noqa: PT012, it is the loop that must end
        for index in range(2 * PARTIAL_BYTES_MAX // size):
            inbox.take(bytes((index & 3,)) + size.to_bytes(2, "big") + bytes(size))
            taken += size
    assert taken <= PARTIAL_BYTES_MAX


def test_empty_pieces_cannot_be_heaped_up():
    with pytest.raises(DecodeError, match="empty piece"):
        RecordReader().take(bytes((2, 0, 0)))


def test_credit_for_bytes_never_sent_is_refused():
    outbox = RecordWriter()
    outbox.push(bytes(100), 1)
    outbox.pack()
    with pytest.raises(DecodeError, match="acknowledges 101 bytes of 100"):
        outbox.acknowledge(101, 5)


@pytest.mark.parametrize(
    ("rate", "low", "high"), [(20, WINDOW_MIN, WINDOW_MIN), (500, 100_000, 150_000), (50_000, WINDOW_MAX, WINDOW_MAX)]
)
def test_the_window_follows_the_speed_of_the_link(rate, low, high):
    outbox = RecordWriter()
    outbox.push(bytes(MESSAGE_BYTES_MAX), 3)
    in_flight = 0
    now = 0
    while now < 20_000 and outbox.queued:
        before = outbox.unacknowledged
        while outbox.pack():
            pass
        in_flight += outbox.unacknowledged - before
        now += 10
        read = min(in_flight, rate * 10)
        in_flight -= read
        outbox.acknowledge(read, now)
    assert low <= outbox.window <= high
    assert outbox.window <= max(WINDOW_MIN, 2 * rate * WINDOW_MS)
