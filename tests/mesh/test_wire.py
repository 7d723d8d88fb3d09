"""Strict CBOR: one encoding a value, and one error for everything else that a peer may send."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mycomesh.mesh import wire
from mycomesh.mesh.errors import DecodeError, LimitError
from mycomesh.mesh.wire import ITEMS_MAX

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(wire.INT_MIN, wire.INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=40)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
).filter(lambda value: _depth(value) <= wire.DEPTH_MAX)

HOSTILE = {
    "empty": "",
    "break alone": "ff",
    "reserved additional information": "1c",
    "truncated integer": "19ff",
    "trailing byte": "0000",
    "long integer": "1800",
    "long length": "580161",
    "long float": "fb3ff8000000000000",
    "undefined": "f7",
    "undefined in a list": "81f7",
    "undefined as key": "a1f700",
    "simple value 16": "f0",
    "simple value 255": "f8ff",
    "false as two bytes": "f814",
    "nan": "f97e00",
    "nan with payload": "fb7ff8000000000001",
    "infinity": "f97c00",
    "integer below int64": "3b8000000000000000",
    "indefinite list": "9f00ff",
    "indefinite map": "bf616100ff",
    "indefinite bytes": "5f4100ff",
    "indefinite text": "7f6161ff",
    "duplicate keys": "a2616100616101",
    "unsorted keys": "a2616200616100",
    "integer key": "a10000",
    "bytes key": "a1410000",
    "list key": "a18000",
    "null key": "a1f600",
    "bad utf-8": "62c328",
    "utf-8 of a surrogate": "63eda080",
    "overlong utf-8": "62c080",
    "date tag": "c074323032362d31312d32335430303a30303a30305a",
    "epoch tag": "c100",
    "bignum": "c249010000000000000000",
    "negative bignum": "c349010000000000000000",
    "decimal 1E+999999999": "c4821a3b9ac9ff01",
    "bigfloat": "c5821a3b9ac9ff01",
    "shared value": "d81c80",
    "cycle": "d81c81d81d00",
    "rational": "d81e820102",
    "regular expression": "d8236328612b",
    "mime message": "d8246161",
    "uuid": "d82550" + "00" * 16,
    "string reference": "d9010081d81900",
    "set": "d9010281" + "01",
    "ip address": "d9010444c0a80001",
    "self-described": "d9d9f700",
    "unknown tag": "dbffffffffffffffff00",
    "list of 2^62": "9b4000000000000000",
    "list of 2^64 - 1": "9bffffffffffffffff",
    "map of 2^62": "bb4000000000000000",
    "bytes of 2^62": "5b4000000000000000",
    "text of 2^40": "7b0000010000000000",
    "one level too deep": "81" * 9 + "00",
    "maps too deep": "a16161" * 9 + "00",
    "100,000 deep": "81" * 100_000 + "00",
    "tags 100,000 deep": "c1" * 100_000 + "00",
    "bignum of 60 KB": "c259ea60" + "ff" * 60_000,
}


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((_depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    return 0


def check_outcome(data: bytes) -> None:
    with contextlib.suppress(DecodeError):  # any other exception fails the test
        assert wire.encode(wire.decode(data, bytes_max=1_000)) == data


@given(VALUES)
@example([-0.0, 1.5, 65504.0, 1e308, 5e-324])
@example({"b": 1, "aa": 2, "": None, "é": [True, False]})
@example([wire.INT_MIN, wire.INT_MAX, 23, 24, -24, -25])
def test_what_is_encoded_decodes_to_the_same_value(value):
    data = wire.encode(value)
    decoded = wire.decode(data, bytes_max=len(data))
    assert decoded == value
    assert wire.encode(decoded) == data


@settings(max_examples=1_000)
@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_a_decode_error(data):
    check_outcome(data)


@pytest.mark.slow
@settings(max_examples=500)
@given(VALUES, st.data())
def test_damaged_encodings_give_a_value_or_a_decode_error(value, data):
    encoded = bytearray(wire.encode(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255))
    check_outcome(bytes(encoded))


@pytest.mark.parametrize("data", [bytes.fromhex(text) for text in HOSTILE.values()], ids=list(HOSTILE))
def test_hostile_bytes_cost_one_line_and_little_memory(data):
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError) as caught:
            wire.decode(data, bytes_max=200_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("tag", [*range(300), 1_000, 43_000, 55_799, 2**16, 2**32, 2**64 - 1])
def test_no_tag_reaches_a_decoder_whatever_it_holds(tag):
    for content in (0, "a+", b"\x01", [1, 2], {"a": 1}):
        with pytest.raises(DecodeError, match=r"tag|nesting|valid CBOR"):
            wire.decode(cbor2.dumps(cbor2.CBORTag(tag, content)), bytes_max=1_000)


def test_a_mime_tag_does_not_import_the_mail_parser(monkeypatch):
    for name in [name for name in sys.modules if name == "email.parser"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DecodeError):
        wire.decode(bytes.fromhex("d8246161"), bytes_max=10)
    assert "email.parser" not in sys.modules


def test_more_bytes_than_allowed_are_refused_unread():
    with pytest.raises(DecodeError, match="3 bytes, at most 2"):
        wire.decode(b"\xff\xff\xff", bytes_max=2)
    assert wire.decode(b"\x41a", bytes_max=2) == b"a"


@pytest.mark.parametrize("depth", [0, 1, 3, wire.DEPTH_MAX])
def test_depth_is_counted_in_containers(depth):
    assert _depth(wire.decode(b"\x81" * depth + b"\x00", bytes_max=100, depth_max=depth)) == depth
    with pytest.raises(DecodeError):
        wire.decode(b"\x81" * (depth + 1) + b"\x00", bytes_max=100, depth_max=depth)


def test_worst_growth_in_memory_is_what_module_states():
    data = b"\x99\xea\x60" + b"\x80" * 60_000
    tracemalloc.start()
    try:
        wire.decode(data, bytes_max=len(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 70 * len(data)


@pytest.mark.parametrize(("item", "size"), [(b"\x80", 1), (b"\x61a", 2), (b"\x41" + b"\x80", 2), (b"\x19\xff\xff", 3)])
def test_items_of_a_large_message_are_limited(item, size):
    def listed(count):
        head = b"\x99" + count.to_bytes(2, "big") if count < 1 << 16 else b"\x9a" + count.to_bytes(4, "big")
        return head + item * count

    for count in (ITEMS_MAX - 2, ITEMS_MAX - 1):  # and the list itself
        assert len(wire.decode(listed(count), bytes_max=1 << 20)) == count
    data = listed((1 << 24) // size)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="more than 65536 items"):
            wire.decode(data, bytes_max=1 << 25)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16
    with pytest.raises(DecodeError, match="more than 65536 items"):
        wire.decode(listed(ITEMS_MAX), bytes_max=1 << 20)


def test_contents_of_strings_are_no_items():
    large = b"\x80" * (1 << 20)
    assert wire.decode(wire.encode([large, "x" * (1 << 20)]), bytes_max=1 << 22)[0] == large


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ({1: 2}, "map key"),
        ({"a": {1, 2}}, "type set"),
        ([bytearray(b"x")], "type bytearray"),
        ("\ud800", "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        ([[[[[[[[[0]]]]]]]]], "too deeply"),
    ],
)
def test_unreadable_values_of_this_node_are_refused(value, fault):
    with pytest.raises(LimitError, match=fault):
        wire.encode(value)


def test_a_tuple_is_written_as_a_list():
    assert wire.encode((1, ("a", b"b"))) == wire.encode([1, ["a", b"b"]]) == bytes.fromhex("8201826161" + "4162")


# ---- records


def record(data: bytes) -> list:
    return wire.decode_record(data, what="position", version=3, kinds=(int, str), bytes_max=100)


def test_a_record_yields_its_fields_without_the_version():
    assert record(wire.encode((3, 7, "x"))) == [7, "x"]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ((4, 7, "x"), "version 4, this node reads version 3"),
        ((3, 7), "1 fields instead of 2"),
        ((3, 7, "x", 0), "3 fields instead of 2"),
        ((3, True, "x"), "field 1 is not integer"),
        ((3, 7, b"x"), "field 2 is not text"),
        ((True, 7, "x"), "begins with its version"),
        ((), "begins with its version"),
        ({"a": 1}, "begins with its version"),
        (3, "begins with its version"),
    ],
)
def test_another_shape_is_refused_by_name_of_record(value, fault):
    with pytest.raises(DecodeError, match=f"position.*{fault}"):
        record(wire.encode(value))
