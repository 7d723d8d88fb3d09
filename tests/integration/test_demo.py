"""The demo as a new user runs it: real processes, mDNS on the loopback, and databases that are compared row by row."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mycomesh.tools.data import quadcopter, wildfire
from mycomesh.tools.demo import NAMES, TABLES

ROOT = Path(__file__).parents[2]
DEMO_S_MAX = 100


def demo(*words, env=None):
    return subprocess.run(
        [sys.executable, "-m", "tools", "demo", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEMO_S_MAX,
        check=False,
        env=env,
    )


def rows(file, sql):
    with contextlib.closing(sqlite3.connect(file)) as db:
        return db.execute(sql).fetchall()


@pytest.fixture(scope="module")
def played(alone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "kept"
    with alone():
        done = demo("--quick", "--keep", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_three_databases_are_equal(played):
    folder, _ = played
    for table in TABLES:
        contents = [sorted(map(repr, rows(folder / f"{name}.db", f"SELECT * FROM {table}"))) for name in NAMES]
        assert contents[0] == contents[1] == contents[2]
        assert contents[0], f"{table} is empty"


def test_both_sides_of_the_split_are_there(played):
    folder, _ = played
    file = folder / "humvee.db"
    assert rows(file, "SELECT count(*) FROM drones WHERE drone_id <> 99") == [(len(quadcopter()),)]
    assert rows(file, "SELECT count(*) FROM drones WHERE drone_id = 99") == [(200,)]
    last = {each.icao24: each for each in wildfire()}
    found = rows(folder / "ground.db", "SELECT icao24, latitude, longitude, at FROM aircraft ORDER BY icao24")
    assert found == [(key, last[key].latitude, last[key].longitude, last[key].at) for key in sorted(last)]


def test_the_conflict_has_one_winner_and_keeps_the_loser(played):
    folder, _ = played
    won = {name: rows(folder / f"{name}.db", "SELECT status FROM missions WHERE mission_id = 1") for name in NAMES}
    assert len(set(map(str, won.values()))) == 1
    assert won["ground"][0][0] in ("aborted", "flying")
    lost = [found for name in NAMES for found in rows(folder / f"{name}.db", "SELECT lost FROM mycomesh_conflicts")]
    assert lost
    assert all(won["ground"][0][0] not in text for (text,) in lost)


def test_it_says_what_happened_in_plain_lines(played):
    folder, text = played
    assert "\x1b" not in text
    assert "found each other by mDNS" in text
    assert re.search(r"all three equal after [0-9.]+ s and [0-9,]+ bytes on the drone's links", text)
    assert "conflict kept: missions 1" in text
    assert text.count("equal on all three") == len(TABLES)
    assert f"sqlite3 {folder / 'ground.db'}" in text


def test_its_processes_are_gone_and_the_files_are_sound(played):
    folder, _ = played
    for name in NAMES:
        status = subprocess.run(
            [sys.executable, "-m", "tools", "--home", str(folder / name), "status"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEMO_S_MAX,
            check=False,
        )
        assert status.returncode == 69, status.stdout
        assert rows(folder / f"{name}.db", "PRAGMA integrity_check") == [("ok",)]


def test_an_earlier_demo_is_not_overwritten(played):
    folder, _ = played
    before = (folder / "ground.db").read_bytes()
    done = demo("--quick", "--keep", str(folder))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "contains an earlier demo" in done.stderr
    assert (folder / "ground.db").read_bytes() == before


def test_without_keep_nothing_is_left(tmp_path, multicast):
    done = demo("--quick", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
