"""The examples of flows by their commands: alerts overtake telemetry on a slow link, a spoken order is in the basket."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.integration.machines import ROOT

FLOWS = ROOT / "examples" / "flows"


def run(name):
    done = subprocess.run(
        [sys.executable, FLOWS / name], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow  # the link takes 160 kB/s
def test_alerts_of_a_model_overtake_telemetry():
    pytest.importorskip("onnxruntime")
    said = run("drone.py")
    alerts, there, rows = map(int, re.search(r"ground: +(\d+) alerts after .* with (\d+) of (\d+) rows", said).groups())
    assert alerts > 0
    assert rows == 1_790
    assert there < rows / 2
    assert re.search(r"made by flow judge \(version \w+, model battery version 1 \(sha256 [0-9a-f]{64}\)\)", said)


@pytest.mark.slow  # speech is recognised
def test_spoken_order_is_in_the_basket():
    said = run("voice.py")
    assert "till:  basket has 2 milk (said: 'add two cartons of milk to my basket')" in said
    assert said.count("made by flow") == (1 if "the text is typed" in said else 2)
