"""The settings that say which areas a node keeps."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.config import load
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.keep import COPIES_MAX, Keep


def loaded(folder, text, words=None):
    path = folder / "config.toml"
    path.write_text(text)
    return load(path, keep=words).keep


def areas(keep, name="drone-7"):
    return {table: sorted(kept) for table, kept in keep.interest(name).areas.items()}


def test_areas_are_texts_and_self_is_the_node(tmp_path):
    keep = loaded(tmp_path, '[keep]\nTelemetry = ["self", 7, 1.5]\nlogs = []\n')
    assert areas(keep) == {"telemetry": ["1.5", "7", "drone-7"], "logs": []}
    assert keep.copies == 2
    named = loaded(tmp_path, '[keep]\nself = 12\ncopies = 3\ntelemetry = ["self"]\n')
    assert areas(named) == {"telemetry": ["12"]}
    assert named.copies == 3


def test_without_settings_all_areas_are_kept(tmp_path):
    assert areas(loaded(tmp_path, "")) == {}


def test_words_replace_the_tables_of_the_file(tmp_path):
    text = '[keep]\nself = "7"\ntelemetry = ["1"]\nlogs = ["2"]\n'
    assert areas(loaded(tmp_path, text, ["telemetry=self", "Telemetry=a=b"])) == {"telemetry": ["7", "a=b"]}
    assert areas(loaded(tmp_path, text, ["telemetry="])) == {"telemetry": []}
    assert areas(loaded(tmp_path, text, ["self=9", "telemetry=self"])) == {"telemetry": ["9"]}


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("keep = 7", None, "must be a table"),
        ("[keep]\ntelemetry = 'self'", None, "must be a list of areas"),
        ("[keep]\ntelemetry = [true]", None, "must be a list of areas"),
        ("[keep]\nself = true", None, "must be a list of areas"),
        ("[keep]\ntelemetry = ['']", None, "is no area"),
        (f"[keep]\ntelemetry = ['{'x' * 101}']", None, "1 to 100 characters"),
        (f"[keep]\n{'t' * 141} = ['7']", None, "1 to 140 characters"),
        ("[keep]\ncopies = 0", None, f"1..{COPIES_MAX}"),
        (f"[keep]\ncopies = {COPIES_MAX + 1}", None, f"1..{COPIES_MAX}"),
        (f"[keep]\nt = {[f'area {number:04}' for number in range(1400)]}", None, "keep a table whole"),
        ("", ["telemetry"], "is not TABLE=AREA"),
        ("", ["=7"], "is not TABLE=AREA"),
    ],
)
def test_settings_are_checked_in_one_line(tmp_path, text, words, said):
    with pytest.raises(ConfigError, match=said) as caught:
        loaded(tmp_path, text, words)
    assert "\n" not in str(caught.value)


def test_as_many_copies_and_areas_as_are_allowed():
    assert Keep(copies=COPIES_MAX).copies == COPIES_MAX
    assert len(Keep({"t": tuple(f"area {number:04}" for number in range(1300))}).interest("x").areas["t"]) == 1300
