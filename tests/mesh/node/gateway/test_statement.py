"""Statements: one canonical form, and nothing that exceeds a limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.mesh.mailbox.envelope import POSITION_MAX
from mycomesh.mesh.mailbox.mailbox import STREAMS_MAX
from mycomesh.mesh.node.gateway.statement import BASE_BYTES_MAX, STATEMENT_BYTES_MAX, Statement, decode, encode
from mycomesh.sync import codec
from mycomesh.sync.errors import DecodeError

STREAMS = st.binary(min_size=8, max_size=8)
STATEMENTS = st.builds(
    Statement,
    st.text("base-7", max_size=BASE_BYTES_MAX),
    st.lists(st.tuples(STREAMS, st.integers(0, POSITION_MAX)), max_size=5).map(tuple),
    st.lists(STREAMS, max_size=5).map(tuple),
)


@given(STATEMENTS)
def test_a_statement_survives_its_encoding(statement):
    assert decode(encode(statement)) == statement


@given(st.binary(max_size=80))
def test_other_bytes_are_an_error(data):
    with pytest.raises(DecodeError):
        decode(data)


def test_names_of_bases_are_bounded():
    for size in (BASE_BYTES_MAX - 1, BASE_BYTES_MAX):
        assert decode(encode(Statement("b" * size, (), ()))).base == "b" * size
    with pytest.raises(DecodeError, match="name"):
        decode(encode(Statement("b" * (BASE_BYTES_MAX + 1), (), ())))


def test_a_statement_has_a_largest_size():
    full = Statement("", ((b"s" * 8, POSITION_MAX),) * STREAMS_MAX, (b"s" * 8,) * STREAMS_MAX)
    assert len(encode(full)) < STATEMENT_BYTES_MAX
    assert decode(encode(full)) == full
    for more in (
        Statement("", full.receipts + full.receipts[:1], ()),
        Statement("", (), full.wanted + full.wanted[:1]),
    ):
        with pytest.raises(DecodeError, match="too many"):
            decode(encode(more))
    with pytest.raises(DecodeError):
        decode(codec.encode([1, "b" * STATEMENT_BYTES_MAX, [], []]))


@pytest.mark.parametrize(
    "value",
    [
        [2, "", [], []],
        [1, b"", [], []],
        [1, "", [[b"short", 1]], []],
        [1, "", [[b"s" * 8, -1]], []],
        [1, "", [], [b"short"]],
        [1, "", []],
    ],
)
def test_a_malformed_statement_is_an_error(value):
    with pytest.raises(DecodeError):
        decode(codec.encode(value))
