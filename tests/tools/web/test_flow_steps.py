"""Steps of the page as commands: the words of each, what the console refuses, and the step that takes one back."""

from __future__ import annotations

import asyncio
import sys

import pytest

from mycomesh.mesh.node.home import Home
from mycomesh.tools.web import flow_steps
from mycomesh.tools.web.errors import BusyError, HttpError
from mycomesh.tools.web.flow_steps import OUTPUT_BYTES_MAX, SAMPLE_MAX, STEPS_MAX, Steps, listed, words_of

LOW = '[flow.low]\non = "drones"\nrun = "sql: SELECT id FROM new"\ninto = "alerts"\n'


@pytest.fixture
def home(tmp_path):
    home = Home.locate(tmp_path / "home", {})
    home.config.mkdir(mode=0o700)

    def write(text):
        home.config_file.write_text(text)
        home.config_file.chmod(0o600)
        return home

    return write


def do(home, **body):
    return asyncio.run(Steps(home).do(body))


def test_words_are_those_of_the_command():
    section = {"on": "drones", "run": "sql: SELECT '-' FROM new", "into": "alerts", "where": ""}
    assert words_of({"action": "add", "name": "low", "section": section}) == [
        "add",
        "low",
        "--on=drones",
        "--run=sql: SELECT '-' FROM new",
        "--into=alerts",
    ]
    assert words_of({"action": "pause", "name": "low", "section": section}) == ["pause", "low"]
    assert words_of({"action": "test", "name": "low", "sample": SAMPLE_MAX}) == ["test", "low", "--sample=100"]


@pytest.mark.parametrize(
    "body",
    [
        {"action": "run", "name": "low"},
        {"action": "add", "name": "--json"},
        {"action": "add", "name": "a b"},
        {"action": "add", "name": "n" * 65},
        {"action": "add", "name": 1},
        {"action": "add", "name": "low", "section": {"run": "python: os:system"}},
        {"action": "edit", "name": "low", "section": {"run": "exec: rm -r /"}},
        {"action": "test", "name": "low", "section": {"run": "http: //127.0.0.1/"}},
        {"action": "add", "name": "low", "section": {"memory_mib": "1"}},
        {"action": "add", "name": "low", "section": {"on": 1}},
        {"action": "add", "name": "low", "section": []},
        {"action": "test", "name": "low", "sample": SAMPLE_MAX + 1},
        {"action": "test", "name": "low", "sample": 0},
        {"action": "test", "name": "low", "sample": True},
    ],
)
def test_what_is_no_step_is_refused(body):
    with pytest.raises(HttpError) as raised:
        words_of(body)
    assert "\n" not in str(raised.value)


def test_flows_are_listed_with_what_is_wrong(home):
    found = listed(home(LOW + '[flow.bad]\non = "drones"\nrun = "sql: DROP TABLE x"\n'))
    assert [(each["name"], each["table"], each["into"], bool(each["error"])) for each in found] == [
        ("low", "drones", "alerts", False),
        ("bad", "", "", True),
    ]


def test_steps_change_the_file_and_are_taken_back(home):
    place = home(LOW)
    before = place.config_file.read_text()
    edited = do(place, action="edit", name="low", section={"run": "sql: SELECT id FROM new WHERE id > 1"})
    assert edited["command"] == "mycomesh flow edit low '--run=sql: SELECT id FROM new WHERE id > 1'"
    assert "id > 1" in place.config_file.read_text()
    rolled = do(place, **edited["undo"])
    assert place.config_file.read_text() == before
    do(place, **rolled["undo"])
    assert "id > 1" in place.config_file.read_text()
    removed = do(place, action="remove", name="low")
    assert listed(place) == []
    assert do(place, **removed["undo"])["undo"] == {"action": "remove", "name": "low"}
    assert "id > 1" in place.config_file.read_text()
    assert [each["name"] for each in listed(place)] == ["low"]
    with pytest.raises(HttpError, match="has a section"):
        do(place, action="add", name="low", section={"on": "drones", "run": "sql: SELECT 1", "into": "x"})


def test_few_steps_run_at_a_time(home, monkeypatch):
    place = home(LOW)

    async def many():
        steps = Steps(place)
        body = {"action": "rollback", "name": "low"}
        return await asyncio.gather(*(steps.do(body) for _ in range(STEPS_MAX + 1)), return_exceptions=True)

    kinds = [type(each) for each in asyncio.run(many())]
    assert kinds == [HttpError] * STEPS_MAX + [BusyError]


def test_answer_of_a_step_has_a_limit(home, monkeypatch, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nhead -c $SIZE /dev/zero | tr '\\0' ' '\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("SIZE", str(OUTPUT_BYTES_MAX))
    assert do(home(LOW), action="pause", name="low")["done"] == "pause low: done"
    monkeypatch.setenv("SIZE", str(OUTPUT_BYTES_MAX + 1))
    with pytest.raises(HttpError, match="more than 4 MiB"):
        do(home(LOW), action="pause", name="low")


def test_command_that_hangs_is_ended(home, monkeypatch, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(flow_steps, "STEP_S", 0.2)
    with pytest.raises(HttpError, match="took longer"):
        do(home(LOW), action="pause", name="low")
