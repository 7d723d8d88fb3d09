"""Progress bars: nothing in a pipe, nothing for what is quick, a bar for what is slow, and nothing of it left behind."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from mycomesh.tools import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "patience_s"), [(io.StringIO(), 0.0), (Terminal(), 60.0)])
def test_a_pipe_and_a_quick_command_see_nothing(monkeypatch, stream, patience_s):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE_S", patience_s)
    with progress.progress("copying"):
        pass
    assert stream.getvalue() == ""


def test_progress_without_a_known_total_shows_no_share(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    monkeypatch.setattr(progress, "STEP_S", 0.01)
    asked = threading.Semaphore(0)

    def measure():
        asked.release()
        return 0, None

    with progress.progress("comparing", measure):
        for _ in range(30):
            assert asked.acquire(timeout=30)
    assert "comparing" in stream.getvalue()
    assert "%" not in stream.getvalue()


def test_a_slow_command_shows_its_progress_and_leaves_nothing(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    monkeypatch.setattr(progress, "STEP_S", 0.01)
    asked = threading.Semaphore(0)

    def measure():
        asked.release()
        return 40, 100

    with progress.progress("copying [bold]", measure):
        for _ in range(30):
            assert asked.acquire(timeout=30)
    shown = stream.getvalue()
    assert "copying [bold]" in shown
    assert "40 %" in shown
    assert shown.rstrip("\r").endswith("\x1b[2K")  # the line is erased
