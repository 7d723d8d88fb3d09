"""The demo as a newcomer runs it: real processes, and its own proof of equality."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess

from tests.integration.machines import MYCOMESH, ROOT


def test_the_demo_ends_with_three_equal_databases(tmp_path):
    place = tmp_path / "demo"
    done = subprocess.run(
        [*MYCOMESH, "demo", "--quick", "--keep", str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERENT" not in done.stdout
    assert len(re.findall(r"rows  hash [0-9a-f]+  equal", done.stdout)) >= 3, done.stdout
    assert "conflict kept: missions 1" in done.stdout
    contents = []
    for name in ("ground", "humvee", "drone"):
        with contextlib.closing(sqlite3.connect(place / f"{name}.db")) as db:
            contents.append(sorted(map(repr, db.execute("SELECT * FROM drones"))))
    assert len(contents[0]) == 1_990
    assert contents[0] == contents[1] == contents[2]


def test_a_directory_with_an_earlier_demo_is_refused(tmp_path):
    (tmp_path / "ground.db").touch()
    done = subprocess.run(
        [*MYCOMESH, "demo", "--keep", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "earlier demo" in done.stdout
    assert "Traceback" not in done.stderr
