"""Strategies for hypothesis that yield hostile bytes: valid input damaged in ways that parsers get wrong, or junk."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["cuts", "damaged", "hostile"]

JUNK_BYTES_MAX = 400
# Lengths, counts and CBOR heads that parsers often get wrong.
EDGES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", bytes(4), b"\x9f", b"\xbf\xff", b"\xf7", b"\xc1")
EDGES += (b"\xd9\x01\x02", b"\x1b" + b"\xff" * 8, b"\x9b" + b"\xff" * 8, b"\x5b\x7f" + b"\xff" * 7, b"\x81" * 40)
EDGES += (b"\xfb\x7f\xf8" + bytes(6),)


@st.composite
def damaged(draw, samples):
    """Draw one of the samples after one to four changes, which may cancel each other out."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(1, 4))):
        at, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        match draw(st.sampled_from(("flip", "cut", "drop", "twice", "insert", "edge", "splice"))):
            case "flip" if at < len(data):
                data = data[:at] + bytes((data[at] ^ 1 << draw(st.integers(0, 7)),)) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[end:]
            case "twice":
                data = data[:end] + data[at:end] + data[end:]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
            case "edge":
                edge = draw(st.sampled_from(EDGES))
                data = data[:at] + edge + data[at + len(edge) :]
            case "splice":
                data = data[:at] + draw(st.sampled_from(samples))[at:]
    return data


def hostile(samples):
    """Return a strategy for damaged samples and junk."""
    return damaged(samples) | st.binary(max_size=JUNK_BYTES_MAX)


@st.composite
def cuts(draw, data):
    """Draw the bytes split into pieces, as a stream may deliver them."""
    ends = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[left:right] for left, right in zip([0, *ends], [*ends, len(data)], strict=True)]
