"""Bundles: round trips, golden bytes, and everything hostile refused with one line."""

from __future__ import annotations

import json
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.sqlite.identifiers import NAME_MAX
from mycomesh.sync.wire import bundle as batch
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.scale import examples
from tests.sync.wirestrategies import bundles, fault, spoiled

GOLDEN = json.loads((Path(__file__).parents[2] / "vectors" / "sync-golden.json").read_text())
SITE_A, SITE_B = b"a" * 16, b"b" * 16


def sample():
    births = Group(
        SITE_A,
        Kind.INSERT,
        ("battery", "drone", "note"),
        [0x0190_0000_0000_0001, 0x0190_0000_0000_0002],
        None,
        [[0.5, "alpha", None], [-(1 << 63), "bravo", b"\x00\xff"]],
        None,
    )
    update = Group(SITE_A, Kind.UPDATE, ("battery",), [0x0190_0000_0000_0009], [17], [[1.0]], [[(None, SITE_B, 5)]])
    delete = Group(SITE_B, Kind.DELETE, (), [7, 300], [b"\x81\x01", b"\x81\x02"], [[], []], [[], [(None, SITE_A, 4)]])
    return Bundle(
        [
            Section("drones", [(SITE_A, 0, 0x0190_0000_0000_0009), (SITE_B, 6, 300)], [births, update, delete]),
            Section("empty", []),
        ]
    )


def plain(bundle):
    """The bundle's CBOR as lists, free to be spoiled."""
    return cbor2.loads(bundle.encode())


@pytest.mark.slow
@examples(100)
@given(bundles)
def test_what_is_encoded_comes_back(bundle):
    data = bundle.encode()
    back = Bundle.decode(data)
    assert back == bundle
    assert back.encode() == data


@pytest.mark.slow
@examples(150)
@given(bundles, st.data())
def test_a_spoiled_bundle_is_refused_or_still_a_bundle(bundle, data):
    value = data.draw(spoiled(plain(bundle)))
    encoded = cbor2.dumps(value)
    refused = fault(Bundle.decode, encoded)
    if refused is None:
        back = Bundle.decode(encoded)
        assert Bundle.decode(back.encode()) == back
    else:
        assert "\n" not in refused


@pytest.mark.slow
@examples(100)
@given(bundles, st.data())
def test_bundle_with_flipped_bit_never_does_more_than_fail(bundle, data):
    encoded = bytearray(bundle.encode())
    at = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[at // 8] ^= 1 << at % 8
    if fault(Bundle.decode, bytes(encoded)) is None:
        assert isinstance(Bundle.decode(bytes(encoded)), Bundle)


def test_the_bytes_are_those_of_the_golden_vector():
    assert sample().encode().hex() == GOLDEN["bundle"]
    assert Bundle.decode(bytes.fromhex(GOLDEN["bundle"])) == sample()


def by_column():
    """A delete and an insert whose writers had not seen one site as far in all columns."""
    parts = [(None, SITE_B, 9), (("note",), SITE_B, 9), (("battery", "drone", "note"), SITE_B, 5)]
    delete = Group(SITE_A, Kind.DELETE, (), [20], [b"\x81\x01"], [[]], [parts])
    insert = Group(
        SITE_A, Kind.INSERT, ("drone",), [30], [b"\x81\x02"], [["x"]], [[(None, SITE_B, 4), (("note",), SITE_B, 3)]]
    )
    return Bundle([Section("drones", [(SITE_A, 0, 30)], [delete, insert]), Section("empty", [])])


def test_columns_of_deletes_have_their_golden_bytes():
    data = by_column().encode()
    assert data.hex() == GOLDEN["seen"]
    assert Bundle.decode(data) == by_column()
    # An older version reads a table that it lacks, and the groups of the others as they always were.
    _, _, sections = plain(by_column())
    assert [section[0] for section in sections] == ["drones", "empty", batch.SEEN_PREFIX + "drones"]
    assert [group[6] for group in sections[0][2]] == [[[[None, 1, 9]]], [[[None, 1, 4]]]]


@pytest.mark.parametrize("table", ["unknown", "empty"])
def test_columns_of_absent_changes_are_ignored(table):
    found = plain(by_column())
    found[2][2][0] = batch.SEEN_PREFIX + table
    back = Bundle.decode(cbor2.dumps(found, canonical=True))
    assert [len(parts) for group in back.sections[0].groups for parts in group.priors] == [1, 1]


def test_columns_are_omitted_where_no_section_is_left():
    bundle = by_column()
    bundle.sections += [Section(f"t{number}", []) for number in range(batch.SECTIONS_MAX - 2)]
    back = Bundle.decode(bundle.encode())
    assert len(back.sections) == batch.SECTIONS_MAX
    assert [len(parts) for group in back.sections[0].groups for parts in group.priors] == [1, 1]


def test_parts_by_column_count_among_the_limited():
    found = plain(by_column())
    found[2][2][2][0][6][0] *= batch.COLUMNS_MAX // 2
    back = Bundle.decode(cbor2.dumps(found, canonical=True))
    assert len(back.sections[0].groups[0].priors[0]) == batch.COLUMNS_MAX


def test_a_section_counts_its_changes():
    assert [section.rows for section in sample().sections] == [5, 0]


def one_group(**changes):
    """A valid bundle of one birth with parts of its one group replaced."""
    group = {
        "site": 0,
        "kind": 1,
        "columns": ["a", "b"],
        "deltas": [5],
        "keys": None,
        "rows": [[1, 2]],
        "priors": None,
    } | changes
    return codec.encode([1, [SITE_A], [["t", [[0, 0, 5]], [list(group.values())]]]])


def test_groups_of_the_same_columns_share_their_names():
    """A message of 600 kB may have 20,000 groups of a row each."""
    groups = [Group(SITE_A, Kind.UPDATE, ("a", "b"), [number], [number], [[1, 2]], None) for number in range(1, 4)]
    (section,) = Bundle.decode(Bundle([Section("t", [(SITE_A, 0, 3)], groups)]).encode()).sections
    assert section.groups == groups
    assert len({id(group.columns) for group in section.groups}) == 1


def test_the_plain_group_is_accepted():
    assert Bundle.decode(one_group()).sections[0].groups[0].hlcs == [5]


@pytest.mark.parametrize(
    "changes",
    [
        {"site": 1},
        {"site": -1},
        {"site": None},
        {"kind": 3},
        {"kind": -1},
        {"kind": 2},  # a delete that owns columns
        {"columns": ["b", "a"]},
        {"columns": ["a", "a"]},
        {"columns": ["a", ""]},
        {"columns": ["a", "b" * (NAME_MAX + 1)]},
        {
            "columns": [f"c{number:05}" for number in range(batch.COLUMNS_MAX + 1)],
            "rows": [[1] * (batch.COLUMNS_MAX + 1)],
        },
        {"columns": ["a", 1]},
        {"columns": "ab"},
        {"columns": ["a"]},  # narrower than its rows
        {"deltas": []},
        {"deltas": [0]},
        {"deltas": [-1]},
        {"deltas": [5.0]},
        {"deltas": [HLC_MAX, 1], "rows": [[1, 2], [3, 4]]},
        {"deltas": [5, 0], "rows": [[1, 2], [3, 4]]},
        {"deltas": [5, 6]},  # more clocks than rows
        {"deltas": [1] * (batch.ROWS_MAX + 1), "rows": [[1, 2]] * (batch.ROWS_MAX + 1)},
        {"rows": [[1]]},
        {"rows": [[1, [2]]]},
        {"rows": [1]},
        {"rows": None},
        {"rows": []},
        {"keys": []},
        {"keys": [None]},
        {"keys": [1.5]},
        {"keys": ["text"]},
        {"keys": [1, 2]},
        {"keys": 7},
        {"priors": []},
        {"priors": [[[None, 1, 4]]]},  # a site that the bundle does not list
        {"priors": [[[None, 0, -1]]]},
        {"priors": [[[[2], 0, 4]]]},  # a column that the group does not have
        {"priors": [[[[-1], 0, 4]]]},
        {"priors": [[[0, 0, 4]]]},
        {"priors": [[[None, 0]]]},
        {"priors": [None]},
        {"priors": 1},
    ],
    ids=str,
)
def test_a_group_outside_the_protocol_is_refused(changes):
    with pytest.raises(DecodeError):
        Bundle.decode(one_group(**changes))


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1, []],
        [2, [], []],
        [0, [], []],
        [None, [], []],
        [1, None, []],
        [1, [], None],
        [1, [b"short"], []],
        [1, ["a" * 16], []],
        [1, [SITE_A] * (batch.SITES_MAX + 1), []],
        [1, [], [["t", [], []]] * (batch.SECTIONS_MAX + 1)],
        [1, [], [["", [], []]]],
        [1, [], [["t" * (NAME_MAX + 1), [], []]]],
        [1, [], [[b"t", [], []]]],
        [1, [], [["t", []]]],
        [1, [], [["t", [[0, 0, 1]], []]]],  # no such site
        [1, [SITE_A], [["t", [[0, 2, 1]], []]]],  # a range that ends before it begins
        [1, [SITE_A], [["t", [[0, -1, 1]], []]]],
        [1, [SITE_A], [["t", [[0, 0, 1 << 63]], []]]],
        [1, [SITE_A], [["t", [[0, 0]], []]]],
        [1, [SITE_A], [["t", [[0, 0, 1]] * (batch.SITES_MAX + 1), []]]],
        [1, [SITE_A], [["t", None, []]]],
        [1, [SITE_A], [["t", [], None]]],
        [1, [SITE_A], [["t", [], [[0, 1]]]]],
        7,
        None,
        "bundle",
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_bundle_outside_the_protocol_is_refused(value):
    with pytest.raises(DecodeError):
        Bundle.decode(codec.encode(value))


def test_a_refusal_is_one_short_line_whatever_was_sent():
    with pytest.raises(DecodeError) as refused:
        Bundle.decode(codec.encode(["x" * 100_000, [], []]))
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize("place", ["version", "site", "kind", "delta", "cell", "range"])
def test_a_boolean_is_not_an_integer(place):
    value = [
        True if place == "version" else 1,
        [SITE_A],
        [["t", [[0, False if place == "range" else 0, 5]], [[0, 1, ["a"], [5], None, [[1]], None]]]],
    ]
    group = value[2][0][2][0]
    if place == "site":
        group[0] = False
    elif place == "kind":
        group[1] = True
    elif place == "delta":
        group[3] = [True]
    elif place == "cell":
        group[5] = [[True]]
    with pytest.raises(DecodeError):
        Bundle.decode(codec.encode(value))


def test_a_bundle_over_the_limit_is_refused_unread():
    with pytest.raises(DecodeError, match="over the limit"):
        Bundle.decode(bytes(batch.BUNDLE_BYTES_MAX + 1))


def test_the_largest_blob_of_one_row_travels():
    """Issue 3: a 16 MiB blob is one change of one row."""
    data = one_group(rows=[[bytes(16 << 20), None]])
    assert len(Bundle.decode(data).sections[0].groups[0].rows[0][0]) == 16 << 20


@pytest.mark.parametrize("over", [-1, 0, 1, 5])
def test_priors_beyond_the_site_limit_are_left_out(over):
    others = [number.to_bytes(16, "big") for number in range(batch.SITES_MAX - 1 + over)]
    halves = len(others) // 2
    priors = [[(None, site, 1) for site in others[at : at + 1_000]] for at in range(0, len(others), 1_000)]
    hlcs = list(range(1, len(priors) + 1))
    group = Group(SITE_A, Kind.UPDATE, ("x",), hlcs, hlcs, [[1]] * len(hlcs), priors)
    back = Bundle.decode(Bundle([Section("t", [(SITE_A, 0, 99)], [group])]).encode())
    told = [part[1] for parts in back.sections[0].groups[0].priors for part in parts]
    assert told == others[: batch.SITES_MAX - 1]
    assert told[halves] == others[halves]
