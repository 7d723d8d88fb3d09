"""`mycomesh doctor`: each look finds what is wrong and says what to do, and is silent where all is well."""

from __future__ import annotations

import json
import sqlite3
from types import SimpleNamespace

import pytest

from mycomesh.mesh.node.home import Home
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


@pytest.mark.parametrize(
    ("state", "card", "floor_mb", "well"),
    [
        (doctor.HOME_BYTES_MIN, 64_000_000, None, True),
        (doctor.HOME_BYTES_MIN, 63_999_999, None, False),
        (doctor.HOME_BYTES_MIN - 1, 64_000_000, None, False),
        (doctor.HOME_BYTES_MIN, 200_000_000, 201, False),
        (doctor.HOME_BYTES_MIN, 201_000_000, 201, True),
        (doctor.HOME_BYTES_MIN, 1, 0, True),
        (doctor.HOME_BYTES_MIN, 0, 0, False),
    ],
)
def test_the_disk_is_judged_by_the_nodes_floor(tmp_path, monkeypatch, state, card, floor_mb, well):
    (tmp_path / "card").mkdir()
    free = {tmp_path: state, tmp_path / "card": card}
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=free[place]))
    finding = doctor.disk(tmp_path, tmp_path / "card" / "a.db", floor_mb)
    assert (finding.well, bool(finding.remedy)) == (well, not well)


def test_the_floor_of_the_config_is_read(tmp_path, monkeypatch):
    home = Home(tmp_path, tmp_path / "state", tmp_path / "run")
    assert doctor._floor_mb(home) is None
    home.config_file.write_text("free_mb_min = 7\n")
    assert doctor._floor_mb(home) == 7
    home.config_file.write_text("free_mb_min = no\n")
    assert doctor._floor_mb(home) is None


def test_the_exit_code_says_whether_something_failed(tmp_path, monkeypatch, capsys):
    words = ["--home", str(tmp_path / "h"), "doctor", "--json"]
    monkeypatch.setattr(doctor.time, "time", lambda: 1_800_000_000.0)
    monkeypatch.setattr(doctor, "HOME_BYTES_MIN", 0)
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
