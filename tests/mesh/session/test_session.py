"""Sessions: handshake, framing, flow control and the end, against honest and hostile bytes."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.mesh.errors import CertificateError, DecodeError, LimitError
from mycomesh.mesh.session.noise import HANDSHAKE_BYTES_MAX, PLAINTEXT_BYTES_MAX
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
from mycomesh.mesh.session.session import (
    EARLY_BYTES_MAX,
    Closed,
    Introduction,
    Keys,
    Opened,
    Phase,
    Received,
    Reply,
    Session,
)

MESH = bytes(16)
PSK = b"p" * 32
NOW = 1_000


@dataclass
class Doorman:
    """A gate that shows its name and lets everyone in but those whom it is told to refuse."""

    name: bytes
    refuse: bytes | None = None
    seen: list[Introduction] = field(default_factory=list)

    def answer(self, psk: int) -> bytes:
        return self.name

    def admit(self, introduction: Introduction) -> bytes:
        self.seen.append(introduction)
        if introduction.payload == self.refuse:
            raise CertificateError("test", "not you")
        return self.name


def ends(*, psks=(PSK,), mesh=MESH, left_gate=None, right_gate=None, seed=1):
    """A session that calls, one that listens, and their gates."""
    rng = random.Random(seed)
    left_gate, right_gate = left_gate or Doorman(b"left"), right_gate or Doorman(b"right")
    left = Session(Keys(mesh, (PSK,), rng.randbytes(32)), left_gate, initiator=True, entropy=rng.randbytes)
    right = Session(Keys(MESH, psks, rng.randbytes(32)), right_gate, initiator=False, entropy=rng.randbytes)
    return left, right, left_gate, right_gate


def replies(steps):
    return b"".join(step.data for step in steps if isinstance(step, Reply))


def opened(seed=1):
    """Two sessions after their handshake."""
    left, right, _, _ = ends(seed=seed)
    answer = replies(right.receive(left.start(), NOW))
    right.receive(replies(left.receive(answer, NOW)), NOW)
    assert left.phase is right.phase is Phase.OPEN
    return left, right


def said(steps):
    """Steps by value: what was received as (payload, priority), whatever pieces it came in."""
    return [(step.payload, step.priority) if isinstance(step, Received) else step for step in steps]


def pump(left, right, now=NOW):
    """Carry bytes both ways until there are none; what each side received."""
    got = ([], [])
    while True:
        there, back = left.flush(), right.flush()
        if not there and not back:
            return got
        got[1].extend(right.receive(there, now))
        got[0].extend(left.receive(back, now))


# ---- handshake


def test_both_ends_admit_each_other_with_the_papers_of_messages_2_and_3():
    left, right, left_gate, right_gate = ends()
    steps = right.receive(left.start(), NOW)
    steps_left = left.receive(replies(steps), NOW)
    assert [type(step) for step in steps_left] == [Reply, Opened]
    assert right.receive(replies(steps_left), NOW) == [Opened(0)]
    assert [each.payload for each in left_gate.seen] == [b"right"]
    assert [each.payload for each in right_gate.seen] == [b"left"]
    assert left_gate.seen[0].transcript == right_gate.seen[0].transcript


def test_the_key_of_an_invitation_is_recognised_by_its_place():
    rng = random.Random(1)
    _, right, _, right_gate = ends(psks=(b"x" * 32, PSK))
    left = Session(Keys(MESH, (PSK,), rng.randbytes(32)), Doorman(b"left"), initiator=True, entropy=rng.randbytes)
    answer = replies(left.receive(replies(right.receive(left.start(), NOW)), NOW))
    assert right.receive(answer, NOW) == [Opened(1)]
    assert right_gate.seen[0].psk == 1


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 50])
def test_a_stream_may_be_cut_anywhere(cut):
    left, right, _, _ = ends()
    there, back = left.start(), b""
    got = []
    for _ in range(4):
        back = b"".join(replies(right.receive(there[at : at + cut], NOW)) for at in range(0, len(there), cut))
        steps = [step for at in range(0, len(back), cut) for step in left.receive(back[at : at + cut], NOW)]
        there = replies(steps)
        if left.phase is Phase.OPEN and not there:
            left.send(b"hello" * 100, 1)
            there = left.flush()
            got = [step for at in range(0, len(there), cut) for step in right.receive(there[at : at + cut], NOW)]
            break
    assert said(got) == [(b"hello" * 100, 1)]


@pytest.mark.parametrize("what", ["psk", "mesh"])
def test_a_stranger_hears_nothing(what):
    rng = random.Random(2)
    left, right, _, right_gate = ends(mesh=b"m" * 16 if what == "mesh" else MESH)
    if what == "psk":
        left = Session(
            Keys(MESH, (b"y" * 32,), rng.randbytes(32)), Doorman(b"l"), initiator=True, entropy=rng.randbytes
        )
    steps = right.receive(left.start(), NOW)
    assert [type(step) for step in steps] == [Closed]
    assert right.phase is Phase.CLOSED
    assert right.flush() == right.end("bye") == b""
    assert right_gate.seen == []


def test_a_refused_caller_hears_nothing_after_message_2():
    left, right, _, _ = ends(right_gate=Doorman(b"right", refuse=b"left"))
    answer = replies(left.receive(replies(right.receive(left.start(), NOW)), NOW))
    (step,) = right.receive(answer, NOW)
    assert isinstance(step, Closed)
    assert isinstance(step.error, CertificateError)
    assert right.end("x") == b""


def test_who_dialled_sends_no_message_3_to_whom_it_refuses():
    left, right, _, _ = ends(left_gate=Doorman(b"left", refuse=b"right"))
    steps = left.receive(replies(right.receive(left.start(), NOW)), NOW)
    assert [type(step) for step in steps] == [Closed]


def test_no_application_byte_enters_before_the_gate_has_opened():
    left, right, _, _ = ends(right_gate=Doorman(b"right", refuse=b"left"))
    message_3 = replies(left.receive(replies(right.receive(left.start(), NOW)), NOW))
    left.send(b"early", 0)
    steps = right.receive(message_3 + left.flush(), NOW)
    assert [type(step) for step in steps] == [Closed]


def test_data_may_follow_message_3_in_the_same_segment():
    left, right, _, _ = ends()
    message_3 = replies(left.receive(replies(right.receive(left.start(), NOW)), NOW))
    left.send(b"x" * 60_000, 0)
    steps = right.receive(message_3 + left.flush(), NOW)
    assert said(steps) == [Opened(0), (b"x" * 60_000, 0)]


def test_a_handshake_frame_beyond_the_limit_is_refused_by_its_length_alone():
    _, right, _, _ = ends()
    (step,) = right.receive((HANDSHAKE_BYTES_MAX + 1).to_bytes(2, "big"), NOW)
    assert "at most" in step.reason


def test_bytes_before_admission_are_bounded():
    left, right, _, _ = ends()
    right.receive(left.start(), NOW)
    steps = []
    fed = 0
    while not steps:
        steps = right.receive(b"\x00", NOW)
        fed += 1
        assert fed <= EARLY_BYTES_MAX
    assert isinstance(steps[0], Closed)
    # A frame that never completes is cut off as well, and its bytes are let go.
    _, right, _, _ = ends()
    assert right.receive(HANDSHAKE_BYTES_MAX.to_bytes(2, "big") + bytes(HANDSHAKE_BYTES_MAX - 1), NOW) == []
    assert len(right._buffer) <= EARLY_BYTES_MAX


@given(st.binary(max_size=3_000), st.integers(1, 500))
def test_junk_never_opens_and_never_answers(junk, cut):
    _, right, _, right_gate = ends()
    steps = [step for at in range(0, len(junk), cut) for step in right.receive(junk[at : at + cut], NOW)]
    assert all(isinstance(step, Closed) for step in steps)
    assert len(steps) <= 1
    assert right_gate.seen == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_flipped_bit_of_the_handshake_ends_it_in_silence(data):
    left, right, _, _ = ends()
    messages = [left.start()]
    which = data.draw(st.integers(0, 2))

    def flipped(raw):
        at = data.draw(st.integers(16, 8 * len(raw) - 1))  # the length in front only says how much to wait for
        changed = bytearray(raw)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    target, raw = right, messages[0]
    for turn in range(3):
        if turn == which:
            steps = target.receive(flipped(raw), NOW)
            assert [type(step) for step in steps] == [Closed]
            assert target.flush() == b""
            return
        raw, target = replies(target.receive(raw, NOW)), left if target is right else right


def test_replays_of_recorded_handshakes_open_nothing():
    left, right, _, _ = ends()
    message_1 = left.start()
    message_2 = replies(right.receive(message_1, NOW))
    message_3 = replies(left.receive(message_2, NOW))
    _, victim, _, gate = ends(seed=7)
    assert replies(victim.receive(message_1, NOW))  # a fresh answer, which the replayer cannot read
    (step,) = victim.receive(message_3, NOW)
    assert isinstance(step, Closed)
    assert gate.seen == []
    caller, _, _, gate = ends(seed=8)
    caller.start()
    (step,) = caller.receive(message_2, NOW)  # an orphan
    assert isinstance(step, Closed)
    assert gate.seen == []


def test_our_own_message_1_reflected_is_refused():
    left, _, _, gate = ends()
    (step,) = left.receive(left.start(), NOW)
    assert isinstance(step, Closed)
    assert gate.seen == []


# ---- transport


@pytest.mark.parametrize("mischief", ["replay", "reorder", "drop", "reflect", "flip", "truncate", "short"])
def test_a_tampered_frame_closes_the_link(mischief):
    left, right = opened()
    left.send(b"one", 1)
    first = left.flush()
    left.send(b"two", 1)
    second = left.flush()
    right.send(b"back", 1)
    reflected = left.flush() or right.flush()
    stream = {
        "replay": first + first,
        "reorder": second + first,
        "drop": second,
        "reflect": reflected,
        "flip": first[:-1] + bytes((first[-1] ^ 1,)),
        "truncate": (len(first) - 3).to_bytes(2, "big") + first[2:-1],
        "short": b"\x00\x01\x00",
    }[mischief]
    steps = right.receive(stream, NOW)
    assert isinstance(steps[-1], Closed)
    assert steps[-1].error is not None
    assert [step.payload for step in steps[:-1]] == ([b"one"] if mischief == "replay" else [])
    assert right.receive(first, NOW) == []


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


def test_an_urgent_message_leaves_in_a_frame_of_one_packet_and_bulk_in_frames_that_fit_the_speed():
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


def test_a_peer_that_does_not_read_holds_no_more_than_a_window():
    left, _ = opened()
    left.send(bytes(4 << 20), 2)
    left.send(bytes(4 << 20), 0)
    most = WINDOW_START + URGENT_BYTES
    assert most - CREDIT_EVERY <= len(left.flush()) <= most + 1_000
    assert left.flush() == b""
    assert left.outbox.queued >= (8 << 20) - most


def test_the_end_is_said_after_what_was_queued_and_is_not_a_fault():
    left, right = opened()
    left.send(b"last words", 1)
    steps = right.receive(left.end("going home\n\x1b"), NOW)
    assert said(steps) == [(b"last words", 1), Closed("going home??")]
    assert left.end("again") == b""


def test_both_ends_change_their_keys_at_the_same_frame(monkeypatch):
    monkeypatch.setattr("mycomesh.mesh.session.session.REKEY_FRAMES", 5)
    left, right = opened()
    keys = set()
    for index in range(23):
        left.send(b"%d" % index, 1)
        assert said(right.receive(left.flush(), NOW)) == [(b"%d" % index, 1)]
        keys.add(left._send._state._key)
    assert len(keys) == 5


def test_keys_change_by_volume_too(monkeypatch):
    monkeypatch.setattr("mycomesh.mesh.session.session.REKEY_BYTES", 100_000)
    left, right = opened()
    before = left._send._state._key
    left.send(bytes(120_000), 1)
    assert said(pump(left, right)[1]) == [(bytes(120_000), 1)]
    assert left._send._state._key != before


def test_a_message_too_long_for_any_link_is_refused_before_anything_is_sent():
    left, _ = opened()
    with pytest.raises(LimitError, match="split it"):
        left.send(bytes(MESSAGE_BYTES_MAX + 1), 1)
    assert left.flush() == b""


# ---- records


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
