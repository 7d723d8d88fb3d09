"""Frames of circuits have one encoding, and every other is refused."""

from __future__ import annotations

import pytest

from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.relay.circuit_frame import RELAYS_MAX, CircuitFrame, FrameKind

ROUTE = (b"a" * 16, b"r" * 16, b"b" * 16)


@pytest.mark.parametrize(
    "frame",
    [
        CircuitFrame(FrameKind.OPEN, 1, ROUTE, 1),
        CircuitFrame(FrameKind.DATA, 2**32 - 1, ROUTE[::-1], 2, b"sealed"),
        CircuitFrame(FrameKind.CLOSE, 0, (ROUTE[0], b"1" * 16, b"2" * 16, ROUTE[2]), 3),
    ],
)
def test_a_frame_has_one_encoding(frame):
    raw = frame.encode()
    assert CircuitFrame.decode(raw) == frame
    for end in range(len(raw) - len(frame.data)):
        with pytest.raises(DecodeError):
            CircuitFrame.decode(raw[:end])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02" + CircuitFrame(FrameKind.DATA, 1, ROUTE, 1).encode()[1:],
        b"\x01\x05" + CircuitFrame(FrameKind.DATA, 1, ROUTE, 1).encode()[2:],
        CircuitFrame(FrameKind.DATA, 1, ROUTE, 0).encode(),
        CircuitFrame(FrameKind.DATA, 1, ROUTE, 3).encode(),
        CircuitFrame(FrameKind.DATA, 1, ROUTE[:2], 1).encode(),
        CircuitFrame(FrameKind.DATA, 1, (*ROUTE, ROUTE[0]), 1).encode(),
        CircuitFrame(FrameKind.DATA, 1, tuple(bytes((n,)) * 16 for n in range(RELAYS_MAX + 3)), 1).encode(),
        CircuitFrame(FrameKind.OPEN, 1, ROUTE[::-1], 1).encode(),
        CircuitFrame(FrameKind.OPEN, 1, ROUTE, 1).encode() + b"x",
        CircuitFrame(FrameKind.DATA, 1, ROUTE, 1, bytes((1 << 17) + 1)).encode(),
    ],
)
def test_frames_that_nobody_honest_sends_are_refused(raw):
    with pytest.raises(DecodeError):
        CircuitFrame.decode(raw)
