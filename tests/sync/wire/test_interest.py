"""The fact that states which areas a member keeps."""

from __future__ import annotations

import pytest

from mycomesh.sync.wire.interest import INTEREST_BYTES_MAX, Interest, interest_fact, interest_of


def test_a_statement_has_one_form():
    interest = Interest({"u": frozenset(), "t": frozenset({"ä", "7"})})
    name, kind, sql = interest_fact(b"\x01" * 8, interest)
    assert (name, kind) == ('interest:["0101010101010101"]', "interest")
    assert sql == '{"keeps":{"t":["7","ä"],"u":[]}}'
    assert interest_of(sql) == (interest, 0)
    again = interest_fact(b"\x01" * 8, interest, 3)[2]
    assert again == '{"keeps":{"t":["7","ä"],"u":[]},"again":3}'
    assert interest_of(again) == (interest, 3)


@pytest.mark.parametrize("size", [INTEREST_BYTES_MAX - 1, INTEREST_BYTES_MAX, INTEREST_BYTES_MAX + 1])
def test_a_statement_has_a_limited_length(size):
    assert (interest_of('{"keeps":{"t":["7"]}}'.ljust(size)) is None) == (size > INTEREST_BYTES_MAX)


@pytest.mark.parametrize(
    "text",
    [None, "", "[", "[]", "{}", '{"keeps":[]}', '{"keeps":{"t":7}}', '{"keeps":{"t":[7]}}', '{"keeps":{},"again":"1"}'],
)
def test_statements_of_other_forms_are_ignored(text):
    assert interest_of(text) is None


def test_tables_that_are_not_named_are_kept_whole():
    interest = Interest({"t": frozenset({"7"})})
    assert interest.keeps("t", "7")
    assert not interest.keeps("t", "8")
    assert interest.keeps("u", "8")
