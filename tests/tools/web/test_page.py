"""The bundle of the page: when it is made, and what is said where it cannot be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mycomesh.tools.release import page


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Bundle into another folder, with npm's work in a third."""
    monkeypatch.setattr(page, "TARGET", tmp_path / "static")
    monkeypatch.setattr(page, "WORK", tmp_path / "work")
    return tmp_path


def test_missing_npm_is_one_line_with_the_remedy(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(page.shutil, "which", lambda _: None)
    assert page.main() == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "npm is missing" in said
    assert "make web" in said
    assert not (elsewhere / "static").exists()


def test_failing_npm_leaves_the_old_bundle(elsewhere, monkeypatch):
    (elsewhere / "static").mkdir()
    (elsewhere / "static" / "built.txt").write_text("of other sources\n")
    monkeypatch.setattr(page.shutil, "which", lambda _: "npm")

    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "\nnpm error network\nmore\n")

    monkeypatch.setattr(page.subprocess, "run", run)
    with pytest.raises(
        page.BuildError, match=r"^npm failed, so the web console has no page: npm error network; then: make web$"
    ):
        page.build()
    assert (elsewhere / "static" / "built.txt").exists()


def test_bundle_of_the_same_sources_is_kept(elsewhere, monkeypatch):
    (elsewhere / "static").mkdir()
    (elsewhere / "static" / "built.txt").write_text(page._stamp())
    monkeypatch.setattr(page.shutil, "which", lambda _: pytest.fail("it asks for npm"))
    assert not page.build()


def test_versions_of_the_libraries_are_pinned():
    text = (Path(page.SOURCE) / "package.json").read_text()
    assert "^" not in text
    assert "~" not in text
    assert (Path(page.SOURCE) / "package-lock.json").is_file()
