"""Rows of the table of shared flows: whose they are, and which of them run."""

from __future__ import annotations

import json

import pytest

from mycomesh.mesh.node.home import Home
from mycomesh.tools.flows import accepting as module
from mycomesh.tools.flows.accepted import ACCEPTED_MAX, SECTION_CHARS_MAX, Acceptance
from mycomesh.tools.flows.accepting import NAME_CHARS_MAX, WHY_CHARS_MAX, Accepting

SECTION = {"on": "drones", "run": "sql: SELECT id AS drone FROM new", "into": "alerts"}


class Recorded:
    def __init__(self):
        self.notices = []

    def notify(self, event, text, level):
        self.notices.append((event, text))


@pytest.fixture
def accepting(tmp_path):
    return Accepting(Home.locate(tmp_path, {}), Acceptance(("alpha",)), Recorded())


def row(name, section=SECTION, who="alpha", columns=("name", "section")):
    text = section if isinstance(section, str) else json.dumps(section)
    return {"values": {"name": name, "section": text}, "key": {"name": name}, "who": who, "columns": columns}


def taken(accepting, *changes):
    for change in changes:
        accepting._take(change)
    return [(each.name, each.author) for each in accepting._accepted()]


def test_the_writer_of_the_section_is_its_author(accepting):
    assert taken(accepting, row("low"), row("high", who="bravo")) == [("low", "alpha")]
    assert taken(accepting, row("low", who="bravo", columns=("name",))) == [("low", "alpha")], "he wrote no section"
    assert taken(accepting, row("low", who="bravo", columns=("section",))) == []
    assert taken(accepting, row("low", columns=("section",))) == [("low", "alpha")]
    assert taken(accepting, {"values": None, "key": {"name": "low"}}) == []


def test_a_row_that_is_no_flow_is_refused(accepting):
    for section in ("", "{", "7", "[" * 100_000, json.dumps(SECTION) + " " * SECTION_CHARS_MAX):
        assert taken(accepting, row("low", section)) == []
    (_, text), *_ = accepting._reports.notices
    assert text.startswith("[flow.low] needs 'on'")
    assert text.endswith("(shared by alpha)")
    assert taken(accepting, row("low", json.dumps(SECTION).ljust(SECTION_CHARS_MAX))) == [("low", "alpha")]
    assert taken(accepting, row("x" * (NAME_CHARS_MAX + 1)), row(7), row("a b")) == [("low", "alpha")]
    assert taken(accepting, row("x" * NAME_CHARS_MAX)) == [("low", "alpha"), ("x" * NAME_CHARS_MAX, "alpha")]


def test_a_refused_flow_is_noticed_once(accepting):
    taken(accepting, row("low", {**SECTION, "run": "exec: true"}))
    taken(accepting, row("low", {**SECTION, "run": "exec: true"}))
    assert [event for event, _ in accepting._reports.notices] == ["flow.refused"]


def test_no_more_flows_run_than_the_limit(accepting):
    names = [f"f{number:02}" for number in range(ACCEPTED_MAX + 1)]
    assert len(taken(accepting, *map(row, names[:-1]))) == ACCEPTED_MAX
    assert len(taken(accepting, row(names[-1]))) == ACCEPTED_MAX
    assert "more than 16 shared flows" in accepting._reports.notices[-1][1]


def test_rows_beyond_the_limit_are_not_looked_at(accepting, monkeypatch):
    monkeypatch.setattr(module, "ROWS_MAX", 2)  # where it is used
    assert len(taken(accepting, row("a"), row("b"), row("c"))) == 2
    assert taken(accepting, {"values": None, "key": {"name": "a"}}, row("c")) == [("b", "alpha"), ("c", "alpha")]


def test_members_whom_nobody_accepts_take_no_room(accepting, monkeypatch):
    """They may write any number of rows, also over those of others."""
    monkeypatch.setattr(module, "ROWS_MAX", 2)
    junk = [row(f"a{number}", who="mallory") for number in range(5)]
    assert taken(accepting, *junk, row("low"), *junk) == [("low", "alpha")]
    assert taken(accepting, row("low", who="mallory")) == []
    assert taken(accepting, row("low")) == [("low", "alpha")]


def test_one_author_leaves_room_for_others(tmp_path):
    accepting = Accepting(Home.locate(tmp_path, {}), Acceptance(("*",)), Recorded())
    greedy = [row(f"a{number:03}", who="mallory") for number in range(3 * ACCEPTED_MAX)]
    found = taken(accepting, *greedy, row("low"), row("zero", who="bravo"))
    assert len(found) == ACCEPTED_MAX
    assert {("low", "alpha"), ("zero", "bravo")} <= set(found)


def test_a_table_with_other_columns_has_no_flows(accepting):
    """A member may make the table before this node does, as it likes."""
    for values in ({"x": 1}, {"name": "low"}, {"section": json.dumps(SECTION)}, {"name": None, "section": None}):
        change = {"values": values, "key": {}, "who": "alpha", "columns": tuple(values)}
        assert taken(accepting, change) == []
    assert taken(accepting, {"values": None, "key": {"x": 1}}) == []


def test_why_a_flow_is_refused_is_one_short_line(accepting):
    webhook = {**SECTION, "run": "https://host/x"}
    taken(accepting, row("a", {**SECTION, "where": ["x" * 9_000]}), row("b", {**webhook, "ca": "~no such user/x"}))
    taken(accepting, row("c", {**webhook, "run": "https://ho\nst/x"}), row("d", {**SECTION, "from": "\x1b" * 9_000}))
    texts = [text for _, text in accepting._reports.notices]
    assert [text[:8] for text in texts] == ["[flow.b]", "[flow.c]", "[flow.d]"]
    assert all(len(text) < 2 * WHY_CHARS_MAX and text.isprintable() for text in texts)
