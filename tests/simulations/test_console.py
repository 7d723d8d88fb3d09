"""The table of results: whole in a pipe and on wide terminals, what matters on narrow ones."""

from __future__ import annotations

import io
import sys

import pytest

from mycomesh.simulations.console import Bar, header, lines_of
from mycomesh.simulations.runner import Result

RESULT = Result(
    "rolling-upgrade", 10_000, 24, True, "ab" * 16, (), 123.4, 35_609, 19_120_000, 0.2, 48, "content", real_s=40.6
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("columns", "narrow"), [("80", True), ("139", True), ("150", False)])
def test_a_row_fits_the_terminal(monkeypatch, columns, narrow):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", columns)
    for line in (header(), lines_of(RESULT)):
        assert len(line) <= int(columns)
    assert lines_of(RESULT).split()[0] == "rolling-upgrade"
    assert lines_of(RESULT).split()[-1] == ("ab" * 4 if narrow else "ab" * 16)
    assert ("events" in header()) is not narrow
    assert header().index("trace") == lines_of(RESULT).index("abab")


def test_in_a_pipe_nothing_is_left_out(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "80")
    assert lines_of(RESULT).endswith("ab" * 16)
    assert "virtual" in header()


@pytest.mark.parametrize(("columns", "whole"), [("80", True), ("40", False)])
def test_a_bar_is_one_line_of_the_terminal(monkeypatch, columns, whole):
    monkeypatch.setenv("COLUMNS", columns)
    stream = Terminal()
    Bar("rolling-upgrade seed 1", 120.0, stream).show(113.0)
    assert len(stream.getvalue().lstrip("\r")) < int(columns)
    assert stream.getvalue().endswith("113 of 120 s, writes and faults") is whole
