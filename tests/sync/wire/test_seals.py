"""Seals on the wire: golden bytes, round trips, limits, and leaves that tell changes apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire.bundle import SEALS, SIGNERS_MAX, Bundle, Group, Kind, Section
from mycomesh.sync.wire.seals import (
    LEAF_BYTES,
    RESIDUE_COLUMNS_MAX,
    SEAL_ROWS_MAX,
    TOKEN_BYTES_MAX,
    Seal,
    leaves,
    token,
    tokens_of,
)
from tests.sync.scale import examples

GOLDEN = json.loads((Path(__file__).parents[2] / "vectors" / "sync-golden.json").read_text())
SITE = b"a" * 16
VALUES = st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | st.text() | st.binary()


def seal_of(count, **more):
    return Seal(SITE, tuple(range(1, count + 1)), bytes(LEAF_BYTES * count), b"s" * 64, **more)


def sealed_bundle():
    group = Group(SITE, Kind.INSERT, ("id", "note"), [5, 7], None, [[1, "x" * 40], [2, None]], None)
    tokens = tokens_of(group.columns, group.hlcs, group.rows, {7: {"gone": b"\x01"}})
    made = leaves(group.kind, [1, 2], tokens.values())
    seal = Seal(SITE, (5, 7), b"".join(made), b"s" * 64, {7: {"gone": b"\x01"}})
    return Bundle([Section("t", [(SITE, 0, 7)], [group], [seal])], [b"certificate"])


def test_a_sealed_bundle_has_its_golden_bytes():
    bundle = sealed_bundle()
    assert bundle.encode().hex() == GOLDEN["sealed"]
    assert Bundle.decode(bundle.encode()) == bundle


def test_an_older_version_reads_seals_as_unknown_table():
    value = codec.decode(sealed_bundle().encode(), bytes_max=10_000)
    assert [section[0] for section in value[2]] == ["t", SEALS]
    assert [group[1] for group in value[2][1][2]] == [Kind.INSERT, Kind.UPDATE]


def test_a_bundle_without_seals_has_no_such_section():
    bundle = replace(sealed_bundle(), signers=[])
    bundle.sections[0].seals = []
    assert SEALS.encode() not in bundle.encode()


@examples(100)
@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=3), VALUES),
        min_size=2,
        max_size=4,
        unique_by=lambda each: each[0],
    )
)
def test_changes_that_differ_have_other_leaves(cells):
    cells.sort(key=lambda each: each[0])
    names, row = [name for name, _ in cells], [value for _, value in cells]
    found = {
        leaves(kind, [key], tokens_of(columns, [1], [values], {}).values())[0]
        for kind in (0, 1)
        for key in (1, b"1", 2)
        for columns, values in ((names, row), (names, [*row[:-1], [b"other"]]), (names[:-1], row[:-1]))
    }
    assert len(found) == 18


@examples(100)
@given(VALUES, VALUES)
def test_values_have_one_token_each(one, two):
    same = codec.encode(one) == codec.encode(two)
    assert (token(one) == token(two)) is same
    assert len(token(one)) <= TOKEN_BYTES_MAX


def test_a_leaf_is_the_same_with_columns_lost():
    whole = tokens_of(("a", "b", "c"), [1], [[1, "x" * 99, None]], {})
    part = tokens_of(("b",), [1], [["x" * 99]], {1: {"a": token(1), "c": token(None)}})
    assert leaves(1, [7], whole.values()) == leaves(1, [7], part.values())


def test_what_is_stored_comes_back():
    seal = seal_of(3)
    tokens = {1: {"a": b"\x01"}, 3: {"a": b"\x02", "b": b"\xf6"}}
    assert Seal.from_stored(SITE, seal.stored(tokens)) == (seal, tokens)


@pytest.mark.parametrize("count", [SEAL_ROWS_MAX - 1, SEAL_ROWS_MAX, SEAL_ROWS_MAX + 1])
def test_a_seal_has_so_many_changes(count):
    encoded = seal_of(count).encode()
    if count > SEAL_ROWS_MAX:
        with pytest.raises(DecodeError):
            Seal.decode(SITE, encoded)
    else:
        assert Seal.decode(SITE, encoded) == seal_of(count)


@pytest.mark.parametrize("count", [RESIDUE_COLUMNS_MAX, RESIDUE_COLUMNS_MAX + 1])
def test_a_residue_has_so_many_columns(count):
    seal = seal_of(1, residues={1: {f"c{number:05}": b"\x01" for number in range(count)}})
    if count > RESIDUE_COLUMNS_MAX:
        with pytest.raises(DecodeError):
            Seal.decode(SITE, seal.encode())
    else:
        assert Seal.decode(SITE, seal.encode()) == seal


@pytest.mark.parametrize("count", [SIGNERS_MAX, SIGNERS_MAX + 1])
def test_a_bundle_has_so_many_signers(count):
    bundle = replace(sealed_bundle(), signers=[b"%d" % number for number in range(count)])
    if count > SIGNERS_MAX:
        with pytest.raises(DecodeError):
            Bundle.decode(bundle.encode())
    else:
        assert Bundle.decode(bundle.encode()) == bundle


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[1], bytes(16), b"s" * 64],
        [[], b"", b"s" * 64, []],
        [[0], bytes(16), b"s" * 64, []],
        [[HLC_MAX + 1], bytes(16), b"s" * 64, []],
        [[1], bytes(15), b"s" * 64, []],
        [[1], bytes(16), b"s" * 63, []],
        [[1], bytes(16), b"s" * 64, [[2, [["a", b"x"]]]]],
        [[1], bytes(16), b"s" * 64, [[1, []]]],
        [[1], bytes(16), b"s" * 64, [[1, [["a", b"x" * (TOKEN_BYTES_MAX + 1)]]]]],
        [[1], bytes(16), b"s" * 64, [[1, [["b", b"x"], ["a", b"x"]]]]],
        [[1], bytes(16), b"s" * 64, [[1, [["a", b"x"], ["a", b"x"]]]]],
        [[1], bytes(16), b"s" * 64, [[1, [[1, b"x"]]]]],
    ],
)
def test_what_is_no_seal_is_refused(value):
    with pytest.raises(DecodeError):
        Seal.decode(SITE, codec.encode(value))


@pytest.mark.parametrize("kind", [Kind.INSERT, Kind.UPDATE])
def test_a_group_of_seals_holds_bytes_in_one_column(kind):
    for columns, row in ((("a", "b"), [b"x", b"y"]), (("a",), ["text"])):
        section = Section(SEALS, [], [Group(SITE, kind, columns, [1], [1], [row], None)])
        with pytest.raises(DecodeError):
            Bundle.decode(Bundle([section]).encode())


def test_signers_of_no_seal_are_left_out():
    """Seals of a table that the bundle lacks prove nothing, and neither do the certificates beside them."""
    value = codec.decode(sealed_bundle().encode(), bytes_max=10_000)
    inserts = value[2][1][2][0]
    assert inserts[2] == ["t"]
    inserts[2] = ["u"]
    found = Bundle.decode(codec.encode(value))
    assert (found.sections[0].seals, found.signers) == ([], [])
    assert Bundle.decode(found.encode()) == found
