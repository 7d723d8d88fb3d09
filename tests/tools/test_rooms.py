"""The measured structure: no import cycle, few modules at the top, and every way to import counted."""

from __future__ import annotations

import pytest

from mycomesh.tools import rooms


@pytest.mark.slow
def test_the_source_tree_keeps_the_rules(capsys):
    assert rooms.main([]) == 0
    assert "broken" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "from mycomesh.sync import b",
        "from mycomesh.sync.b import x",
        "import mycomesh.sync.b",
        "def f():\n    from mycomesh.sync.b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mycomesh.sync.b import x",
    ],
)
def test_a_cycle_is_found_however_it_is_imported(tmp_path, capsys, text):
    (tmp_path / "sync").mkdir()
    (tmp_path / "sync" / "__init__.py").write_text("")
    (tmp_path / "sync" / "a.py").write_text(text)
    (tmp_path / "sync" / "b.py").write_text("from mycomesh.sync.a import y")
    assert rooms.main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "broken: import cycle of 2: sync.a, sync.b" in out
    assert "2 arrows, 1 up, 1 cycles" in out


def test_an_import_without_the_package_name_is_refused(tmp_path, capsys):
    (tmp_path / "sync").mkdir()
    (tmp_path / "sync" / "a.py").write_text("from sync.b import x")
    assert rooms.main([str(tmp_path)]) == 1
    assert "write mycomesh.sync.b" in capsys.readouterr().out


def test_more_modules_than_one_look_takes_are_refused(tmp_path, capsys):
    (tmp_path / "sync").mkdir()
    for number in range(rooms.MODULES_MAX["sync"] + 1):
        (tmp_path / "sync" / f"m{number}.py").write_text("")
    assert rooms.main([str(tmp_path)]) == 1
    assert "at most 10" in capsys.readouterr().out
