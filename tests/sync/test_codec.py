"""Strict CBOR: one form in, everything else is a DecodeError and nothing but a DecodeError."""

from __future__ import annotations

from unittest import mock

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync import codec
from mycomesh.sync.errors import DecodeError
from tests.sync.scale import examples
from tests.sync.wirestrategies import fault

values = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
nested = st.recursive(values, lambda inner: st.lists(inner, max_size=4), max_leaves=20)


def decode(data, bytes_max=1 << 20):
    return codec.decode(data, bytes_max=bytes_max)


@pytest.mark.slow
@examples(500)
@given(nested)
def test_what_is_encoded_comes_back(value):
    data = codec.encode(value)
    back = decode(data)
    assert back == value
    assert codec.encode(back) == data  # types too: 1 and 1.0 are different bytes


@examples(1_500)
@given(st.binary(max_size=40))
def test_hostile_bytes_are_decoded_or_refused_and_nothing_else(data):
    refused = fault(decode, data)
    if refused is None:
        assert repr(decode(data)) == repr(cbor2.loads(data))
    else:
        assert "\n" not in refused


@pytest.mark.slow
@examples(500)
@given(nested, st.data())
def test_a_truncated_item_is_refused(value, data):
    whole = codec.encode(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DecodeError):
        decode(whole[:cut])


REFUSED = {
    "tag 0, a date": "c074323031332d30332d32315432303a30343a30305a",
    "tag 2, a bignum": "c249010000000000000000",
    "tag 3, a negative bignum": "c349010000000000000000",
    "tag 4, a decimal": "c48221196ab3",
    "tag 28, shareable": "d81c80",
    "tag 29, a shared reference": "d81d00",
    "tag 35, a regular expression": "d823612e",
    "tag 55799, self-described": "d9d9f700",
    "an unknown tag": "d9ffff00",
    "a map": "a0",
    "a map with an item": "a10102",
    "an indefinite array": "9fff",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "an indefinite map": "bfff",
    "a break": "ff",
    "a reserved length": "1c",
    "text that is not UTF-8": "62c328",
    "a surrogate as text": "63eda080",
    "trailing bytes": "0000",
    "nothing": "",
    "bytes longer than the message": "5bffffffffffffffff",
    "an array longer than the message": "9bffffffffffffffff",
    "text longer than the message": "7b7fffffffffffffff",
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("wrap", [b"", b"\x81", b"\x81\x81"], ids=["bare", "inside", "deep inside"])
def test_everything_outside_the_subset_is_refused(what, wrap):
    with pytest.raises(DecodeError):
        decode(wrap + bytes.fromhex(REFUSED[what]))


@pytest.mark.parametrize("simple", ["f4", "f5", "f7", "f0", "f8ff"])
def test_simple_values_are_no_values_of_sqlite(simple):
    """`decode` does not walk what it decodes; its readers compare types with `PLAIN`."""
    assert type(decode(bytes.fromhex(simple))) not in codec.PLAIN


def test_nesting_is_bounded():
    deepest = b"\x81" * codec.DEPTH_MAX + b"\x80"
    assert decode(deepest)
    with pytest.raises(DecodeError):
        decode(b"\x81" + deepest)
    with pytest.raises(DecodeError):
        decode(b"\x81" * 100_000 + b"\x80")


def test_an_oversized_message_is_refused_before_reading():
    with pytest.raises(DecodeError, match="11 bytes is over the limit of 10"):
        decode(b"\x4a" + bytes(10), bytes_max=10)


@pytest.mark.parametrize(
    ("value", "fits"),
    [(0, True), (9, True), (10, False), (-1, False), (True, False), (1.0, False), ("1", False), (None, False)],
)
def test_only_plain_integers_within_bounds_are_integers(value, fits):
    assert codec.is_int(value, 0, 9) is fits


def test_shapes_are_told_apart():
    assert codec.is_bytes(b"12", 2)
    assert not codec.is_bytes(b"12", 3)
    assert not codec.is_bytes("12", 2)
    assert codec.is_array([1], 1)
    assert codec.is_array([])
    assert not codec.is_array([1], 2)
    assert not codec.is_array((1,), 1)
    assert not codec.is_array("1", 1)
    assert not codec.is_array(b"1")


def test_one_value_has_one_form():
    for value, form in [
        (0, "00"),
        (-1, "20"),
        ((1 << 63) - 1, "1b7fffffffffffffff"),
        (-(1 << 63), "3b7fffffffffffffff"),
        (1.5, "f93e00"),
        (0.1, "fb3fb999999999999a"),
        (float("inf"), "f97c00"),
        ("é", "62c3a9"),
        (b"\x00", "4100"),
        (None, "f6"),
        ([[]], "8180"),
    ]:
        assert codec.encode(value).hex() == form


@pytest.mark.slow
@examples(200)
@given(st.lists(nested, max_size=30), st.integers(1, 20), st.integers(-200, 200))
def test_items_in_pieces_count_as_whole(values, width, spare):
    data = codec.encode(values)
    walk = codec.Walk(data)
    walk.skip()
    taken = codec.OBJECTS_BYTES_MAX - walk._left
    with mock.patch.object(codec, "OBJECTS_BYTES_MAX", max(taken + spare, 0)):
        counter = codec.ItemCounter()

        def feed():
            for at in range(0, len(data), width):
                counter.feed(data[at : at + width])
            counter.feed(bytes(8))  # heads of zeros, behind the last head

        if spare >= 8 * 8:
            feed()
        elif spare < 0:
            with pytest.raises(DecodeError, match="more items"):
                feed()


def test_string_is_cut_out_as_decoder_makes_it():
    for value in ("", "é" * 300, b"", b"x" * 70_000, "w" * 23, 7, None, [b"x"]):
        data = codec.encode([value])
        found = codec.string_at(data, 1, len(data))
        assert found == (value if isinstance(value, str | bytes) else None)
    with pytest.raises(DecodeError, match="malformed"):
        codec.string_at(b"\x62\xff\xff", 0, 3)
