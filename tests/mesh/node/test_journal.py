"""The journal: one line an event, by level, which nobody's text can turn into a command to the terminal."""

from __future__ import annotations

import io
import json
import socket
from datetime import UTC, datetime, timedelta

import pytest

from mycomesh.mesh.events import Notice
from mycomesh.mesh.node.journal import LINES_AT_ONCE, Journal
from mycomesh.mesh.node.progress_bar import draw, shows_unicode
from mycomesh.mesh.node.systemd import notify_manager


def lines(level, *notices):
    stream = io.StringIO()
    journal = Journal(level, stream)
    for notice in notices:
        journal.write(notice)
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


def test_no_event_fills_the_disk_with_lines(monkeypatch):
    """A member may link and leave twenty times a second, for ever."""
    stream, clock = io.StringIO(), [0]
    monkeypatch.setattr("mycomesh.mesh.node.journal.time.monotonic_ns", lambda: clock[0])
    journal = Journal("info", stream)
    for _ in range(20 * 3_600):
        clock[0] += 50_000_000
        journal.write(Notice("link.up", "link with mallory"))
    written = stream.getvalue().splitlines()
    assert len(written) <= LINES_AT_ONCE + 3_600 + 1
    assert written[-1].endswith("link with mallory (and 19 more before)")
    journal.write(Notice("clock.wrong", "this node's clock is wrong", level="warning"))
    assert "clock is wrong" in stream.getvalue()
    assert len(lines("debug", *[Notice("x", "y")] * (2 * LINES_AT_ONCE))) == 2 * LINES_AT_ONCE


def test_with_every_event_shown_the_details_are_too():
    (line,) = lines("debug", Notice("link.up", "link", {"peer": "bravo", "link": 1}))
    assert line.endswith("link  [link.up peer=bravo link=1]")


def test_as_json_each_event_is_one_object():
    stream = io.StringIO()
    journal = Journal("info", stream, "json")
    before = datetime.now(UTC)
    journal.write(Notice("link.up", "link with\nbravo", {"link": 1, "peer": b"x"}))
    journal.write(Notice("x", "unsaid", level="debug"))
    (line,) = stream.getvalue().splitlines()
    found = json.loads(line)
    moment = datetime.fromisoformat(found.pop("time"))
    assert abs(moment - before) < timedelta(seconds=30)
    assert found == {
        "level": "info",
        "event": "link.up",
        "text": "link with\nbravo",
        "detail": {"link": 1, "peer": "b'x'"},
    }


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "a\rb", "a\u202eb", "\x00"])
def test_no_text_of_a_peer_steers_the_terminal(text):
    (line,) = lines("debug", Notice("x", text, {"peer": text}))
    assert line.isprintable()


def test_an_endless_text_is_cut():
    (line,) = lines("info", Notice("x", "y" * 100_000))
    assert len(line) <= 2_000


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_incoming_rows_are_bar_on_terminals_and_lines_elsewhere():
    notices = [
        Notice("round.progress", "catching up: 500 of about 1,000 rows", {"rows": 500, "expected": 1_000}),
        Notice("round.progress", "catching up: 900 rows\x1b", {"rows": 900, "expected": 0}),
        Notice("round.done", "caught up"),
        Notice("link.up", "link"),
    ]
    screen = Terminal()
    journal = Journal("info", screen)
    for notice in notices:
        journal.write(notice)
    first, second, rest = screen.getvalue().split("\r\x1b[K", 3)[1:]
    assert first.startswith("█" * 12 + "░" * 12 + "  50 %  catching up")
    assert second.startswith("░" * 24 + "   ? %")
    assert "\x1b" not in second
    assert [line.split("  ", 1)[1] for line in rest.splitlines()] == ["caught up", "link"]
    assert [line.split("  ", 1)[1] for line in lines("info", *notices)] == [
        "catching up: 500 of about 1,000 rows", "catching up: 900 rows?", "caught up", "link"
    ]  # fmt: skip


def test_a_bar_fits_its_line_and_needs_no_unicode():
    notice = Notice("round.progress", "words " * 50, {"rows": 2_000, "expected": 1_000})
    assert draw(notice, 80, unicode=False).startswith("100 %  words")
    assert len(draw(notice, 80, unicode=False)) == 79
    assert draw(notice, 80, unicode=False).isascii()


def test_bar_leaves_room_for_time_that_is_left():
    words = "catching up with drone1: 65,536 of about 600,001 rows, 0.5 MB, 13 s left"
    notice = Notice("round.progress", words, {"rows": 1_000, "expected": 2_000})
    assert draw(notice, 80, unicode=False) == f"50 %  {words}"
    assert draw(notice, 90, unicode=False) == f"####....  50 %  {words}"
    assert draw(notice, 100, unicode=False) == f"########........  50 %  {words}"
    assert draw(notice, 200, unicode=False) == f"############............  50 %  {words}"


def test_a_reader_that_left_does_not_end_the_node():
    stream = io.StringIO()
    stream.close()
    Journal("info", stream).write(Notice("x", "y"))


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


@pytest.mark.parametrize(
    ("encoding", "environ", "shown"),
    [
        ("utf-8", {}, True),
        ("UTF8", {"LANG": "C.UTF-8"}, True),
        ("utf-8", {"LC_ALL": "de_DE.UTF-8", "LANG": "C"}, True),
        ("utf-8", {"LC_ALL": "C"}, False),
        ("utf-8", {"LANG": "POSIX"}, False),
        ("iso-8859-1", {}, False),
        (None, {}, False),
    ],
)
def test_whoever_asks_for_the_c_locale_gets_ascii(encoding, environ, shown):
    assert shows_unicode(encoding, environ) is shown
