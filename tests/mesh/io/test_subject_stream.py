"""Byte streams over messages: all bytes in order, bounded on both sides, and at an end when a message is lost."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.mesh.io.subject_stream import (
    CHUNK_BYTES_MAX,
    FRAME_BYTES_MAX,
    WINDOW_BYTES_MAX,
    Frame,
    Kind,
    StreamError,
    SubjectStream,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "nats_links.json").read_text())
ONE, OTHER, STREAM = b"instance", b"another ", b"a stream"


def pair(chunk=CHUNK_BYTES_MAX):
    return SubjectStream(ONE, STREAM, chunk), SubjectStream(OTHER, STREAM, chunk)


def take(receiver, frames):
    return b"".join(receiver.on_frame(Frame.decode(raw)) for raw in frames)


def pass_on(sender, receiver):
    """Deliver what `sender` may send; return the bytes that arrive."""
    return take(receiver, sender.frames())


@given(st.lists(st.binary(max_size=3_000), max_size=30), st.integers(1, 2_000), st.randoms(use_true_random=False))
def test_all_bytes_arrive_in_order(pieces, chunk, rng):
    here, there = pair(chunk)
    sent, got = b"".join(pieces), b""
    waiting = list(pieces)
    while waiting or here.queued:
        if waiting and rng.random() < 0.7:
            here.write(waiting.pop(0))
        else:
            got += pass_on(here, there)
            pass_on(there, here)
    got += pass_on(here, there)
    assert got == sent


@given(st.data())
def test_any_lost_or_repeated_message_is_noticed(data):
    here, there = pair(100)
    here.write(bytes(1_000))
    frames = here.frames()
    at = data.draw(st.integers(0, len(frames) - 2))
    changed = frames[:at] + frames[at + 1 :] if data.draw(st.booleans()) else [*frames[: at + 1], *frames[at:]]
    with pytest.raises(StreamError, match="lost or repeated"):
        take(there, changed)


def test_a_sender_stops_at_the_window():
    here, there = pair()
    here.write(bytes(3 * WINDOW_BYTES_MAX))
    first = here.frames()
    assert sum(len(Frame.decode(raw).data) for raw in first) == WINDOW_BYTES_MAX
    assert here.frames() == []
    assert here.queued == 2 * WINDOW_BYTES_MAX
    for raw in first:
        there.on_frame(Frame.decode(raw))
    acknowledgement = Frame.decode(there.frames()[0])
    assert (acknowledgement.kind, acknowledgement.offset) == (Kind.ACK, WINDOW_BYTES_MAX)
    here.on_frame(acknowledgement)
    assert sum(len(Frame.decode(raw).data) for raw in here.frames()) == WINDOW_BYTES_MAX


def test_data_beyond_the_window_ends_the_stream():
    _, there = pair()
    for offset in range(0, WINDOW_BYTES_MAX, CHUNK_BYTES_MAX):
        there.on_frame(Frame(Kind.DATA, ONE, STREAM, offset, bytes(CHUNK_BYTES_MAX)))
    with pytest.raises(StreamError, match="more data than the window"):
        there.on_frame(Frame(Kind.DATA, ONE, STREAM, WINDOW_BYTES_MAX, b"x"))


def test_acknowledgements_of_other_bytes_are_refused():
    here, _ = pair()
    here.write(b"data")
    here.frames()
    here.on_frame(Frame(Kind.ACK, OTHER, STREAM, 4))
    for wrong in (3, 5):
        with pytest.raises(StreamError, match="acknowledges"):
            here.on_frame(Frame(Kind.ACK, OTHER, STREAM, wrong))


@pytest.mark.parametrize("each", VECTORS["frames"], ids=lambda each: each["kind"])
def test_frames_have_their_golden_bytes(each):
    frame = Frame(
        Kind[each["kind"]],
        bytes.fromhex(each["sender"]),
        bytes.fromhex(each["stream"]),
        each["offset"],
        bytes.fromhex(each["data"]),
    )
    assert frame.encode().hex() == each["bytes"]
    assert Frame.decode(bytes.fromhex(each["bytes"])) == frame


@given(
    st.binary(max_size=60)
    | st.builds(lambda head, rest: bytes(head) + rest, st.tuples(st.just(1), st.integers(0, 7)), st.binary(max_size=60))
)
def test_any_bytes_are_a_frame_or_refused(raw):
    try:
        frame = Frame.decode(raw)
    except StreamError:
        return
    assert frame.encode() == raw


def test_frames_end_at_the_limit():
    full = Frame(Kind.DATA, ONE, STREAM, 0, bytes(CHUNK_BYTES_MAX)).encode()
    assert len(full) == FRAME_BYTES_MAX
    assert len(Frame.decode(full).data) == CHUNK_BYTES_MAX
    with pytest.raises(StreamError):
        Frame.decode(full + b"x")
    small = SubjectStream(ONE, STREAM, 10)
    small.write(bytes(25))
    assert [len(Frame.decode(raw).data) for raw in small.frames()] == [10, 10, 5]
