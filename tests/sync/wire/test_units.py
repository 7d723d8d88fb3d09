"""Names of units: an area of a table under a name that no table can have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.sqlite.identifiers import NAME_MAX, is_reserved
from mycomesh.sync.wire.bundle import Bundle, Section
from mycomesh.sync.wire.units import (
    AREA_CHARS_MAX,
    CUT_NAME_CHARS_MAX,
    area_of,
    pattern_fault,
    split_unit,
    topic_of,
    unit_name,
)
from tests.sync.scale import examples

names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=40)


@examples(100)
@given(names, names)
def test_a_name_splits_into_table_and_area(table, area):
    name = unit_name(table, area)
    assert split_unit(name) == (table, area)
    assert is_reserved(name)
    assert split_unit(unit_name(table, None)) is None


@examples(60)
@given(names, names, st.integers(0, 300), st.integers(0, 3))
def test_a_batch_is_about_its_first_area(table, area, sites, more):
    ranges = [(number.to_bytes(16, "big"), 0, 1) for number in range(sites)]
    sections = [Section(unit_name(table, area), ranges), *(Section(f"t{number}", []) for number in range(more))]
    assert topic_of(Bundle(sections).encode()) == (table, area)
    assert topic_of(Bundle(sections[1:]).encode()) is None


@examples(200)
@given(st.binary(max_size=80), st.integers(0, 400))
def test_junk_is_about_nothing_or_some_area(junk, cut):
    whole = Bundle([Section(unit_name("t", "a" * 90), [(bytes(16), 0, 1)])]).encode()
    for payload in (junk, b"\x83\x01" + junk, whole[:cut], whole[:20] + junk):
        found = topic_of(payload)
        assert found is None or (isinstance(found, tuple) and len(found) == 2)


@pytest.mark.parametrize(
    "name", ["t", "mycomesh_area\0t", "mycomesh_area\0t\0", "mycomesh_area\0\0x", "mycomesh_area\0t\0a\0b"]
)
def test_other_names_are_of_no_area(name):
    assert split_unit(name) is None


def test_values_are_compared_as_text():
    assert [area_of(value) for value in (7, "7", 7.5, -1)] == ["7", "7", "7.5", "-1"]


@pytest.mark.parametrize("value", [None, b"7", "", "a\0b", [b"\xff"]])
def test_some_values_name_no_area(value):
    assert area_of(value) is None


def test_values_beyond_the_limit_name_no_area():
    for count in (AREA_CHARS_MAX - 1, AREA_CHARS_MAX):
        assert area_of("x" * count) == "x" * count
        assert split_unit(unit_name("t", "x" * count)) == ("t", "x" * count)
    assert area_of("x" * (AREA_CHARS_MAX + 1)) is None
    assert split_unit(unit_name("t", "x" * (AREA_CHARS_MAX + 1))) is None


def test_the_longest_names_fit_a_message():
    assert len(unit_name("t" * CUT_NAME_CHARS_MAX, "x" * AREA_CHARS_MAX)) <= NAME_MAX


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("telemetry[7]:rw", "write 'telemetry[7]'"),
        ("telemetry[7]:r", "write 'telemetry[7]'"),
        ("alerts*:rw", "write 'alerts*'"),
        ("telemetry[7", "write 'telemetry[7]'"),
        ("telemetry[", "write 'telemetry[7]'"),
        ("telemetry[]", "telemetry[*] for all areas"),
        ("[7]", "needs a table and an area"),
        ("telemetry[7]x", "goes on after the bracket"),
        ("*", ""),
        ("alerts*", ""),
        ("a:b", ""),
        ("telemetry[7]", ""),
        ("telemetry[a:rw]", ""),
        ("t*[a]b]", ""),
    ],
)
def test_patterns_that_match_nothing_get_advice(pattern, advice):
    fault = pattern_fault(pattern)
    assert (fault == "") is (advice == "")
    assert advice in fault


def test_settings_may_have_sets_of_characters():
    assert pattern_fault("sensor_[ab]_x", classes=True) == ""
    assert pattern_fault("a:r", classes=True) == ""
    assert "closing bracket" in pattern_fault("sensor_[ab", classes=True)
    assert "does not belong to a pattern" in pattern_fault("telemetry[7]:rw", classes=True)
