"""The example of a fleet runs both ways, its copies are equal, and its page gives the counts that it has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.machines import ROOT

FLEET = ROOT / "examples" / "fleet"
BROKER = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def test_page_gives_the_lines_of_both_ways():
    done = subprocess.run([sys.executable, FLEET / "lines.py"], capture_output=True, text=True, check=True)
    page = (FLEET / "README.md").read_text()
    for line in done.stdout.splitlines():
        number, name = line.split()
        assert re.search(rf"{re.escape(name)}\S* \| {number} \|", page), f"{name} has {number} lines"


@pytest.mark.slow
@pytest.mark.skipif(not Path(BROKER).exists(), reason="needs mosquitto (apt-get install mosquitto)")
def test_fleet_runs_both_ways_with_equal_copies():
    pytest.importorskip("paho.mqtt")
    done = subprocess.run(
        [sys.executable, FLEET / "run.py"], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for way in ("MQTT", "mycomesh"):
        equal = [line for line in lines if line.startswith(f"{way}: ") and line.endswith("all copies equal")]
        assert len(equal) == 4, done.stdout
    lost = next(line for line in lines if line.startswith("MQTT without") and "not at all" in line)
    assert re.search(r"copies differ, [\d,]+ rows are missing", lost)
