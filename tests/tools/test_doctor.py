"""`mycomesh doctor`: each look finds what is wrong and says what to do, and is silent where all is well."""

from __future__ import annotations

import json
import sqlite3
from types import SimpleNamespace

import pytest

from mycomesh.tools import exits
from mycomesh.tools.cli import main
from mycomesh.tools.commands import doctor


@pytest.mark.parametrize(("now_s", "well"), [(0, False), (1_800_000_000, True)])
def test_a_clock_that_was_never_set_is_told(now_s, well):
    finding = doctor.clock(now_s)
    assert (finding.well, bool(finding.remedy)) == (well, not well)


@pytest.mark.parametrize(
    ("version", "well"), [((3, 6, 23), True), ((3, 7, 0), None), ((3, 51, 2), None), ((3, 51, 3), True)]
)
def test_the_wal_reset_bug_is_told_by_version(version, well):
    assert doctor.sqlite(version).well is well


@pytest.mark.parametrize(("flags", "well"), [("0x1003", True), ("0x1002", None), ("0x1009", None), ("0x3", None)])
def test_multicast_needs_an_interface_that_is_up(tmp_path, flags, well):
    (tmp_path / "eth0").mkdir()
    (tmp_path / "eth0" / "flags").write_text(f"{flags}\n")
    assert doctor.multicast(tmp_path).well is well


@pytest.mark.parametrize(("text", "well"), [("8192\n", True), ("1\n", False), (None, None)])
def test_inotify_limits_are_checked(tmp_path, text, well):
    if text is not None:
        (tmp_path / "limit").write_text(text)
    assert doctor.inotify(tmp_path / "limit").well is well


def test_a_home_that_others_can_change_is_told(tmp_path):
    home = tmp_path / "state"
    assert doctor.permissions(home).well
    home.mkdir()
    home.chmod(0o777)
    assert not doctor.permissions(home).well
    assert doctor.permissions(home).remedy.endswith(f"chmod go-w {home}")
    home.chmod(0o700)
    config = tmp_path / "config.toml"
    config.touch()
    config.chmod(0o666)
    assert doctor.permissions(home, tmp_path, config).found == f"{config} can be changed by other users (mode 0666)"


def test_a_key_that_others_can_read_is_told(tmp_path):
    for name in ("identity", "lock"):
        (tmp_path / name).touch(0o600)
    assert doctor.permissions(tmp_path).well
    (tmp_path / "identity").chmod(0o644)
    finding = doctor.permissions(tmp_path)
    assert (finding.well, finding.remedy) == (False, f"chmod 600 {tmp_path / 'identity'}")


def test_the_fuller_disk_is_told(tmp_path, monkeypatch):
    free = {tmp_path: 5_000_000_000, tmp_path / "card": 1_000}
    (tmp_path / "card").mkdir()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=free[place]))
    assert doctor.disk(tmp_path).well
    finding = doctor.disk(tmp_path, tmp_path / "card")
    assert (finding.well, finding.found) == (False, f"0.0 GB free at {tmp_path / 'card'}")


def test_the_exit_code_says_whether_something_failed(tmp_path, monkeypatch, capsys):
    words = ["--home", str(tmp_path / "h"), "doctor", "--json"]
    monkeypatch.setattr(doctor.time, "time", lambda: 1_800_000_000.0)
    monkeypatch.setattr(doctor, "FREE_BYTES_MIN", 0)
    assert main(words) == exits.DONE
    assert {"clock", "sqlite", "node"} <= {finding["name"] for finding in json.loads(capsys.readouterr().out)}
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    assert main(words) == exits.FAILED


def test_the_tables_of_a_file_are_checked(tmp_path, capsys):
    path = tmp_path / "fleet.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE crew(id INTEGER PRIMARY KEY AUTOINCREMENT, name)")
        db.execute('CREATE TABLE "bad\x1b[2Jname"(id TEXT PRIMARY KEY)')
    db.close()
    assert main(["doctor", str(path)]) == exits.DONE
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "-> once it is served: mycomesh policy crew own-ids; mycomesh policy crew keep-both" in out
    assert main(["doctor", str(path), "--json"]) == exits.DONE
    found = json.loads(capsys.readouterr().out)
    assert [(each["name"], each["well"]) for each in found] == [
        ("file", None),
        ("bad\x1b[2Jname", True),
        ("crew", None),
    ]
    assert main(["doctor", str(tmp_path / "none.db")]) == exits.FAILED
    assert capsys.readouterr().err.count("\n") == 1
