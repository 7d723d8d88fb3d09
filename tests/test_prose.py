"""The prose ratchet: no phrase of tests/prose.py in docstrings, comments, messages and documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import prose


def _shown(path, found):
    return [f"{path}:{line}: {words!r}: write {instead}" for line, words, instead in found]


@pytest.mark.slow
def test_no_avoided_phrase_is_left():
    hits = [line for path in prose.tracked() for line in _shown(path.relative_to(prose.ROOT), prose.occurrences(path))]
    assert hits == []


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.py", '"""It is made anew."""', 1),
        ("a.py", "x = 1  # of ours", 1),
        ("a.py", '"""Whoever asks."""', 2),
        ("a.py", '"""Return it. What is sent is kept."""', 1),
        ("a.py", 'raise ValueError("the table stands for nothing")', 1),
        ("a.py", 'anew = "stands"', 0),  # names and single words are no prose
        ("a.md", "What happens in a split?\n\nWho wins?", 0),
        ("a.md", "```\nanew\n```\n\n`mycomesh stands`", 0),
        ("a.md", "It goes\nby its name.", 1),
        ("a.md", "Plain English: an actor and a verb.", 0),
    ],
)
def test_the_search_finds_phrases_in_prose_alone(tmp_path: Path, name, text, count):
    path = tmp_path / name
    path.write_text(text + "\n")
    assert len(prose.occurrences(path)) == count
