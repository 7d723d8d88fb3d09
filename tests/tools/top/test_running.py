"""`mycomesh simulate --watch`: the run that the screen shows is the run of its seed, and ends when the person leaves."""

from __future__ import annotations

import time

import pytest

from mycomesh.simulations.request import Request
from mycomesh.tools import cli
from mycomesh.tools.top.running import RunSource

REQUEST = Request("split-brain", 4, 10.0)
PATIENCE_S = 60


def looks(source, until):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        picture = source.picture(paused=False)
        if until(picture):
            return picture
        time.sleep(0.01)
    raise AssertionError("it never came")


def paused_at(source):
    """Return the title at which a paused run stops: a slow run first catches up with the time of the screen."""
    end = time.monotonic() + PATIENCE_S
    title = None
    while time.monotonic() < end:
        title, before = source.picture(paused=True).title, title
        if title == before:
            return title
        time.sleep(0.3)
    raise AssertionError("it goes on while paused")


def test_the_screen_follows_the_run_to_its_end():
    source = RunSource(REQUEST, 3, speed=9_000)
    picture = looks(source, lambda picture: picture.note)
    source.leave()
    assert picture.note == "the run has ended: all checks passed"
    assert picture.title.startswith("split-brain (seed 3), t = ")
    assert len(picture.nodes) == 4
    assert any("splits" in event.text for event in picture.events)
    assert source.result.trace == REQUEST.run(3).trace


def test_a_watched_run_keeps_pace_and_pauses():
    source = RunSource(REQUEST, 3, speed=4)
    try:
        looks(source, lambda picture: picture.edges)
        assert paused_at(source).startswith("split-brain (seed 3), t = ")
        assert source.result is None
    finally:
        source.leave()
    assert source.result is None  # it ended because the person left


def test_what_breaks_a_run_is_said_on_the_screen(monkeypatch):
    def broken(_cluster):
        raise AssertionError("planted")

    monkeypatch.setattr("mycomesh.simulations.runner.violations", broken)
    source = RunSource(REQUEST, 3, speed=9_000)
    note = looks(source, lambda picture: picture.note).note
    assert note.startswith("the run has ended: the run ended at top/test_running.py:")
    assert note.endswith("AssertionError: planted")
    source.leave()


def test_a_run_that_cannot_be_says_why():
    source = RunSource(Request("captured-drone", 4, 10.0, "plain"), 3, speed=9_000)
    assert "a plain mesh has no members to revoke" in looks(source, lambda picture: picture.note).note
    source.leave()
    assert "a plain mesh has no members to revoke" in source.refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulate", "two-nodes", "--watch", "--json"], "--watch: shows one run on a terminal; leave out --json"),
        (["simulate", "two-nodes", "--watch"], "--watch: needs a terminal"),
        (["simulate", "two-nodes", "--speed", "3"], "--speed: needs --watch"),
        (["top", "--speed", "3"], "--speed: needs --replay TRACE"),
        (["simulate", "two-nodes", "--watch", "--speed", "0"], "not a speed in virtual seconds"),
    ],
)
def test_what_cannot_be_watched_is_one_line(words, message, capsys):
    try:
        code = cli.main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
