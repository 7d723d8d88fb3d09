"""Rows of large bundles stay in the message until they are read: the same values, and the same refusals."""

from __future__ import annotations

import contextlib
import tracemalloc
import zlib
from unittest import mock

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync import codec
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire import unread_rows
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section, filtered
from mycomesh.sync.wire.unread_rows import UnreadRows
from tests.sync import lock_holds
from tests.sync.scale import examples
from tests.sync.wirestrategies import bundles, fault, spoiled

SITE = b"a" * 16


@contextlib.contextmanager
def as_large(small=0, large=4, block=20):
    """Read every bundle as a large one, with small limits."""
    limits = {"_SMALL": small, "_LARGE": large, "_BLOCK_BYTES": block}
    with mock.patch.multiple(unread_rows, **limits), mock.patch.object(codec, "is_small", return_value=False):
        yield


@pytest.mark.slow
@examples(100)
@given(bundles, st.sampled_from([(0, 4, 20), (0, 4, 1), (30, 1 << 14, 1 << 18)]))
def test_large_bundle_reads_as_small_one(bundle, limits):
    data = bundle.encode()
    with as_large(*limits):
        back = Bundle.decode(data)
        assert back == bundle
        assert back.encode() == data


@pytest.mark.slow
@examples(150)
@given(bundles, st.data())
def test_large_bundle_is_refused_as_small_one(bundle, data):
    value = cbor2.loads(bundle.encode())
    encoded = cbor2.dumps(data.draw(spoiled(value)))
    encoded = encoded[: data.draw(st.sampled_from([None, -1]))] + data.draw(st.sampled_from([b"", b"\x00"]))
    with as_large():
        refused = fault(Bundle.decode, encoded)
    assert (refused is None) == (fault(Bundle.decode, encoded) is None)
    assert refused is None or "\n" not in refused


def large(rows, keys=None, kind=Kind.UPDATE):
    """A bundle that is large, of one column."""
    hlcs = list(range(1, len(rows) + 1))
    return Bundle([Section("d", [], [Group(SITE, kind, ("v",), hlcs, keys, rows, None)])])


VALUES = ["w" * 700_000, b"x" * 900_000, [b"\xff" * 500_000], "é" * 300_000, None, 7, "small"]


def test_values_of_all_kinds_come_back():
    bundle = large([[value] for value in VALUES], [*range(5), b"k" * 100_000, b"k"])
    data = bundle.encode()
    back = Bundle.decode(data)
    group = back.sections[0].groups[0]
    assert isinstance(group.rows, UnreadRows)
    assert back == bundle
    assert back.encode() == data
    kept = filtered(group, [number in (0, 3, 6) for number in range(7)])
    assert list(kept.rows) == [[VALUES[0]], [VALUES[3]], [VALUES[6]]]
    assert list(group.rows[2:4]) == [[VALUES[2]], [VALUES[3]]]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"w" * 10, b"\xff" + b"w" * 9),  # text that is not UTF-8 as text
        (b"\xff" * 10, b"a" * 10),  # text that is UTF-8 as raw text
        (b"\x81\x07", b"\x82\x07"),  # a row of two
        (b"\x81\x07", b"\x81\xf5"),
        (b"\x81\x07", b"\xa0\x07"),
        (b"\x81\x07", b"\xc1\x07"),
        (b"\x81\x07", b"\x81\x1f"),
    ],
)
def test_malformed_rows_are_refused_before_any_is_read(old, new):
    whole = large([["w" * 1_300_000], [b"\xff" * 20], [[b"\xff" * 10]], [7]], [1, 2, 3, 4]).encode()
    at = whole.rindex(old) if old[:1] != b"w" else whole.index(old)
    with pytest.raises(DecodeError):
        Bundle.decode(whole[:at] + new + whole[at + len(old) :])


def test_held_rows_are_made_once_until_released():
    rows = Bundle.decode(large([[value] for value in VALUES], list(range(7))).encode()).sections[0].groups[0].rows
    assert rows[0][0] is not rows[0][0]
    held = rows.holding()
    held.fill()
    assert held[0][0] is held[:2][0][0] is held.only([True] + [False] * 6)[0][0]
    value = held[0][0]
    held.release()
    assert held[0] == [value]
    assert held[0][0] is not value


def traced(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("value", "count", "most"),
    [("w" * 350_000, 64, 1 << 20), (b"w" * (16 << 20), 1, 17 << 20), ("w" * 1_000, 20_000, 4 << 20)],
)
def test_decoding_takes_memory_of_largest_row(value, count, most):
    data = large([[value]] * count, list(range(count))).encode()
    assert traced(lambda: Bundle.decode(data)) < most


def test_unpacking_stops_at_too_many_items():
    packer = zlib.compressobj()
    lists = packer.compress(codec.array_head(24 << 20) + b"\x80" * (24 << 20)) + packer.flush()
    message = codec.encode([2, 1, lists])

    def refused():
        with pytest.raises(DecodeError, match="more items"):
            wire.decode(message)

    assert traced(refused) < 6 << 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edits_of_350_kb", "large_values_of_many_column_sets"])
def test_merging_takes_memory_of_one_step(name):
    file, bundle = lock_holds.CASES[name]()
    data = bundle.encode()
    del bundle
    assert traced(lambda: file.take_bytes(data)) < 8 << 20
    assert file.app.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    file.close()
