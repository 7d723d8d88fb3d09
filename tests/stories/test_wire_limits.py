"""Each limit of a bundle and of a message of a round: what is below and at it is read, what is above is refused."""

from __future__ import annotations

import tracemalloc

import pytest

from mycomesh.sync import codec
from mycomesh.sync.codec import DEPTH_MAX, OBJECTS_BYTES_MAX
from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.crdt.version_vector import RANGES_MAX
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.sqlite.identifiers import NAME_MAX
from mycomesh.sync.storage.area_tree import NODES_MAX
from mycomesh.sync.wire.bundle import (
    BUNDLE_BYTES_MAX,
    COLUMNS_MAX,
    GROUPS_MAX,
    ROWS_MAX,
    SECTIONS_MAX,
    SITES_MAX,
    Bundle,
    Group,
    Kind,
    Section,
)
from mycomesh.sync.wire.messages import (
    AREAS_READ_MAX,
    MESSAGE_BYTES_MAX,
    RUNS_MAX,
    SITES_READ_MAX,
    TABLES_READ_MAX,
    decode,
)
from tests.sync.scale import sweep

SITE = b"a" * 16


def sites(count):
    return [number.to_bytes(16, "big") for number in range(count)]


def columns(count):
    return [f"c{number:05}" for number in range(count)]


def group(*, names=(), rows=1, first=1, priors=None, width=None):
    cells = [[1] * (len(names) if width is None else width)] * rows
    return [0, 0, list(names), [first, *[1] * (rows - 1)], [1] * rows, cells, priors]


BUNDLES = {
    "sites": (SITES_MAX, lambda count: [1, sites(count), []]),
    "ranges": (SITES_MAX, lambda count: [1, [SITE], [["t", [[0, 0, 1]] * count, []]]]),
    "sections": (SECTIONS_MAX, lambda count: [1, [], [["t", [], []]] * count]),
    "groups": (GROUPS_MAX, lambda count: [1, [SITE], [["t", [], [group(names=["x"])] * count]]]),
    "rows": (ROWS_MAX, lambda count: [1, [SITE], [["t", [], [group(names=["x"], rows=count)]]]]),
    "columns": (COLUMNS_MAX, lambda count: [1, [SITE], [["t", [], [group(names=columns(count))]]]]),
    "priors": (COLUMNS_MAX, lambda n: [1, [SITE], [["t", [], [group(names=["x"], priors=[[[None, 0, 1]] * n])]]]]),
    "a table's name": (NAME_MAX, lambda count: [1, [], [["t" * count, [], []]]]),
    "a column's name": (NAME_MAX, lambda count: [1, [SITE], [["t", [], [group(names=["c" * count])]]]]),
    "a clock": (HLC_MAX, lambda hlc: [1, [SITE], [["t", [], [group(names=["x"], first=hlc)]]]]),
}
MESSAGES = {
    "tables": (TABLES_READ_MAX, lambda count: [0, [["t", bytes(8), bytes(16)]] * count, 0]),
    "tables of vectors": (TABLES_READ_MAX, lambda count: [1, [], [["t", []]] * count]),
    "tables of a coverage reply": (TABLES_READ_MAX, lambda count: [12, SITE, [["t", 1]] * count]),
    "sites": (SITES_READ_MAX, lambda count: [1, sites(count), []]),
    "ranges of a site": (RANGES_MAX, lambda count: [1, [SITE], [["t", [[0, [1] * (2 * count)]]]]]),
    "ranges of a site that is listed twice": (
        RANGES_MAX,
        lambda count: [1, [SITE, SITE], [["t", [[0, [1] * (2 * count - 2)], [1, [1_000, 1]]]]]],
    ),
    "areas": (AREAS_READ_MAX, lambda count: [14, "t", [], [], [], [["a", bytes(8), bytes(16)]] * count, 0]),
    "nodes of areas": (NODES_MAX - 1, lambda node: [14, "t", [], [], [node], [], 0]),
    "runs": (RUNS_MAX, lambda count: [10, "t", SITE, 0, 1 << 62, [2, 1] * count]),
    "a table's name": (NAME_MAX, lambda count: [6, "t" * count, b""]),
    "acknowledged bytes": (MESSAGE_BYTES_MAX, lambda size: [3, size]),
}
LIMITS = [
    pytest.param(read, *each, id=f"{kind}, {name}", marks=[pytest.mark.slow] * (name == "groups"))
    for kind, read, found in (("bundle", Bundle.decode, BUNDLES), ("message", decode, MESSAGES))
    for name, each in found.items()
]


@pytest.mark.parametrize(("read", "limit", "value_of"), LIMITS)
def test_limit_is_read_below_and_at_and_refused_above(read, limit, value_of):
    for count in (limit - 1, limit):
        read(codec.encode(value_of(count)))
    with pytest.raises(DecodeError):
        read(codec.encode(value_of(limit + 1)))


@pytest.mark.parametrize(("read", "limit"), [(Bundle.decode, BUNDLE_BYTES_MAX), (decode, MESSAGE_BYTES_MAX)])
def test_a_limit_in_bytes_is_refused_unread(read, limit):
    for size in (limit - 1, limit):
        with pytest.raises(DecodeError, match=r"^(?!.*over the limit)"):
            read(bytes(size))
    with pytest.raises(DecodeError, match="over the limit"):
        read(bytes(limit + 1))


ITEMS = {  # an item, and the memory that it counts for
    "lists": (b"\x80", 96),
    "numbers": (b"\x19\x40\x01", 40),
    "floats": (b"\xfb" + bytes(8), 40),
    "strings": (b"\x62ab", 80),
    "nulls": (b"\xf6", 8),
    "lists in a list": (b"\x81" * 4 + b"\x80", 5 * 96),
}


@pytest.mark.parametrize(("item", "memory"), ITEMS.values(), ids=ITEMS)
def test_objects_up_to_the_limit_are_made(item, memory):
    most = (OBJECTS_BYTES_MAX - 96) // memory  # and the list itself

    def listed(count):
        return codec.array_head(count) + item * count

    assert len(codec.decode(listed(most), bytes_max=1 << 25)) == most
    with pytest.raises(DecodeError, match="more items than"):
        codec.decode(listed(most + 1), bytes_max=1 << 25)
    assert len(codec.decode(listed(most + 1), bytes_max=1 << 25, own=True)) == most + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(ITEMS, 1))
def test_message_of_items_without_end_makes_no_object(name):
    item, _ = ITEMS[name]
    data = codec.array_head((1 << 24) // len(item)) + item * ((1 << 24) // len(item))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="more items than"):
            codec.decode(data, bytes_max=1 << 25)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16


def test_contents_of_a_value_are_no_items():
    large = b"\x80" * (20 << 20)
    bundle = Bundle([Section("t", [(SITE, 0, 1)], [Group(SITE, Kind.INSERT, ("x",), [1], None, [[large]], None)])])
    assert Bundle.decode(bundle.encode()) == bundle


@pytest.mark.parametrize("tail", [b"\x00", b"\x80" * 100, b"\x5b" + b"\xff" * 8])
def test_bytes_after_a_large_message_are_refused(tail):
    with pytest.raises(DecodeError, match="trailing bytes"):
        codec.decode(codec.encode([bytes(2 << 20), ["x"]]) + tail, bytes_max=1 << 25)


@pytest.mark.parametrize("cut", [1, 2, 3, 1 << 20])
def test_a_truncated_large_message_is_refused(cut):
    with pytest.raises(DecodeError, match="malformed"):
        codec.decode(codec.encode(["x", bytes(2 << 20), ["x"]])[:-cut], bytes_max=1 << 25)


def test_widest_honest_chunk_of_small_values_is_read():
    rows = [["ab"] * 170 for _ in range(2_048)]  # a MiB
    group = Group(SITE, Kind.INSERT, tuple(columns(170)), list(range(1, 2_049)), None, rows, None)
    bundle = Bundle([Section("t", [(SITE, 0, 1)], [group])])
    assert Bundle.decode(bundle.encode()) == bundle


@pytest.mark.parametrize("depth", [DEPTH_MAX - 1, DEPTH_MAX])
def test_nesting_up_to_the_limit_is_read(depth):
    assert codec.decode(b"\x81" * depth + b"\x01", bytes_max=100)


def test_nesting_beyond_the_limit_is_refused():
    with pytest.raises(DecodeError):
        codec.decode(b"\x81" * (DEPTH_MAX + 1) + b"\x01", bytes_max=100)
