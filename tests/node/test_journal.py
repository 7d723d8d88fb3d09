"""The journal: one line an event, by level, which nobody's text can turn into a command to the terminal."""

from __future__ import annotations

import io
import socket

import pytest

from mesh.events import Notice
from mesh.node.journal import Journal, notify_manager


def lines(level, *notices):
    stream = io.StringIO()
    journal = Journal(level, stream)
    for notice in notices:
        journal.say(notice)
    return stream.getvalue().splitlines()


def test_each_event_is_one_line_with_its_time():
    (line,) = lines("info", Notice("link.up", "link with bravo", {"link": 1}))
    clock, text = line.split("  ", 1)
    assert len(clock) == 8
    assert clock[2] == clock[5] == ":"
    assert text == "link with bravo"


def test_what_is_less_severe_than_asked_for_stays_unsaid():
    every = [Notice("x", level, level=level) for level in ("debug", "info", "warning", "error")]
    assert len(lines("info", *every)) == 3
    assert [line.split("  ", 1)[1] for line in lines("warning", *every)] == [
        "warning: warning  [x]",
        "error: error  [x]",
    ]


def test_with_every_event_shown_the_details_are_too():
    (line,) = lines("debug", Notice("link.up", "link", {"peer": "bravo", "link": 1}))
    assert line.endswith("link  [link.up peer=bravo link=1]")


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "a\rb", "a\u202eb", "\x00"])
def test_no_text_of_a_peer_steers_the_terminal(text):
    (line,) = lines("debug", Notice("x", text, {"peer": text}))
    assert line.isprintable()


def test_an_endless_text_is_cut():
    (line,) = lines("info", Notice("x", "y" * 100_000))
    assert len(line) <= 2_000


def test_a_reader_that_left_does_not_end_the_node():
    stream = io.StringIO()
    stream.close()
    Journal("info", stream).say(Notice("x", "y"))


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_what_it_asked_for(tmp_path, monkeypatch, abstract):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"mycomesh-test-{tmp_path.name}-{id(tmp_path)}" if abstract else str(tmp_path / "notify")
        manager.bind("\0" + name if abstract else name)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        notify_manager("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_service_manager_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify_manager("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify_manager("READY=1")
