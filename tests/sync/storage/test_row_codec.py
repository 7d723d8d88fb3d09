"""The compiled row codec and the one in Python give the same bytes and digests, for every value."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mycomesh.sync import codec
from mycomesh.sync.storage import row_codec
from mycomesh.sync.storage.row_codec import Prefix, encode_rows, sum_halves

KEY, PERSON = bytes(range(32)), b"mycomesh-change"
GOLDEN = [-620967409083989350, 2589257795915777723]
INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1)
HALVES = st.integers(0, 0xFFFF).map(lambda bits: struct.unpack("<e", bits.to_bytes(2, "little"))[0])
SINGLES = st.integers(0, 0xFFFF_FFFF).map(lambda bits: struct.unpack("<f", bits.to_bytes(4, "little"))[0])
FLOATS = st.floats() | HALVES | SINGLES
RAW = st.binary(min_size=1, max_size=4).map(lambda content: [b"\xff" + content])
VALUES = st.none() | INTEGERS | FLOATS | st.text(st.characters(codec="utf-8")) | st.binary(max_size=300) | RAW
ROWS = st.lists(st.lists(VALUES, max_size=30) | st.tuples(VALUES, VALUES), max_size=8)
EDGES = [0, 23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, -1, -24, -25, -257, 65_504.0, 65_520.0, 2.0**-24]
EDGES += [2.0**-25, 3 * 2.0**-24, 2.0**-14, 2.0**-149, 0.0, -0.0, 1.1, 1e308, float("inf"), float("-inf"), float("nan")]

needs_compiler = pytest.mark.skipif(row_codec.COMPILED is None, reason="the row codec is not compiled here")


@pytest.fixture(params=["compiled", "pure"])
def path(request, monkeypatch):
    """One of the two, in turn."""
    if request.param == "pure":
        monkeypatch.setattr(row_codec, "COMPILED", None)
    elif row_codec.COMPILED is None:
        pytest.skip("the row codec is not compiled here")
    return request.param


@given(rows=ROWS)
@example(rows=[EDGES, [-edge for edge in EDGES], [b"x" * 70_000, "y" * 300], [], list(range(-30, 300))])
@needs_compiler
def test_rows_have_one_encoding(rows):
    assert row_codec.COMPILED.encode_rows(rows) == [codec.encode(row) for row in rows] == encode_rows(tuple(rows))


@given(
    data=st.binary(max_size=300),
    entries=st.lists(
        st.tuples(st.integers(0, (1 << 63) - 1), INTEGERS | st.binary(max_size=300), st.binary(max_size=300))
    ),
    named=st.booleans(),
)
@needs_compiler
def test_digests_are_those_of_hashlib(data, entries, named):
    hlcs, keys, rows = ([*column] for column in zip(*entries, strict=True)) if entries else ([], [], [])
    expected = []
    for hlc, key, row in entries:
        content = data + hlc.to_bytes(8, "big") + codec.encode(key if named else None) + row
        state = hashlib.blake2b(content, digest_size=8, key=KEY, person=PERSON)
        expected.append(int.from_bytes(state.digest(), "big", signed=True))
    assert Prefix(KEY, PERSON, data).digests(hlcs, keys if named else None, rows) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_codec, "COMPILED", None)
        assert Prefix(KEY, PERSON, data).digests(hlcs, keys if named else None, rows) == expected


@given(numbers=st.lists(INTEGERS))
@needs_compiler
def test_halves_have_one_sum(numbers):
    found = sum_halves(numbers)
    assert found == (
        sum(number & 0xFFFF_FFFF for number in numbers),
        sum(number >> 32 & 0xFFFF_FFFF for number in numbers),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_codec, "COMPILED", None)
        assert sum_halves(numbers) == found


def test_digest_of_many_blocks_stays(path):
    prefix = Prefix(KEY, PERSON, b"x" * 128)
    assert prefix.digests([1, 2], [7, b"key"], [b"y" * 1_000, b""]) == GOLDEN


def test_value_that_c_refuses_is_left_to_python(path):
    assert encode_rows([[1 << 64]]) == [codec.encode([1 << 64])]
    assert encode_rows([[True]]) == [codec.encode([True])]
    assert encode_rows([[[[b"x"]]]]) == [codec.encode([[[b"x"]]])]
    with pytest.raises(UnicodeError):
        encode_rows([["\ud800"]])


def test_variable_chooses_the_pure_path():
    program = "from mycomesh.sync.storage.row_codec import COMPILED; print(bool(COMPILED))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"MYCOMESH_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


@needs_compiler
def test_malformed_arguments_are_errors():
    compiled = row_codec.COMPILED
    prefix = compiled.prefix(KEY, PERSON, b"")
    for call in (
        lambda: compiled.encode_rows("text"),
        lambda: compiled.encode_rows([7]),
        lambda: compiled.sum_halves(7),
        lambda: compiled.sum_halves(["a"]),
        lambda: compiled.digests(prefix, [1], None, ["text"]),
        lambda: compiled.digests(prefix, ["a"], None, [b""]),
        lambda: compiled.digests(prefix, 7, None, []),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError):
        compiled.prefix(b"", PERSON, b"")
    with pytest.raises(ValueError):
        compiled.digests(prefix, [1], [1, 2], [b""])
    with pytest.raises(ValueError):
        compiled.digests(object(), [], None, [])
