"""Sessions: handshake, framing, flow control and the end, against honest and hostile bytes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.session.noise import HANDSHAKE_BYTES_MAX
from mycomesh.mesh.session.session import (
    EARLY_BYTES_MAX,
    Closed,
    Keys,
    Opened,
    Phase,
    Reply,
    Session,
)
from tests.mesh.session.sessions import MESH, NOW, PSK, Doorman, ends, opened, pump, replies, said


def test_both_ends_admit_each_other_by_their_hellos():
    left, right, left_gate, right_gate = ends()
    steps = right.receive(left.start(), NOW)
    steps_left = left.receive(replies(steps), NOW)
    assert [type(step) for step in steps_left] == [Reply, Opened]
    assert right.receive(replies(steps_left), NOW) == [Opened(0)]
    assert [each.payload for each in left_gate.seen] == [b"right"]
    assert [each.payload for each in right_gate.seen] == [b"left"]
    assert left_gate.seen[0].transcript == right_gate.seen[0].transcript


def test_key_of_invitation_is_recognised_by_its_place():
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


def test_a_dialler_that_refuses_sends_no_message_3():
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


def test_an_oversized_handshake_frame_is_refused_by_its_length():
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
def test_any_flipped_bit_of_handshake_ends_it_in_silence(data):
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


def test_graceful_end_follows_the_queue_and_is_no_fault():
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
