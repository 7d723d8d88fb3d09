"""The README's blocks are run; what its other words name is tested with all docs (tests/test_docs.py)."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.integration.machines import MYCOMESH, ROOT, SQLITE, WAIT_S, Machine, eventually

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.strip().splitlines()]


def test_every_make_target_in_readme_is_in_makefile():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {line.split()[1] for line in LINES if line.startswith("make ")} | set(re.findall(r"`make (\w+)`", README))
    assert named
    assert named <= set(targets)


@pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")
def test_the_two_laptops_of_the_readme(tmp_path, multicast):
    """Runs the section's lines in their order, on two homes; the foreground `up` in the background."""
    laptops = [Machine(tmp_path, name, net=("--loopback", "--port", "0")) for name in ("first", "second")]
    first, second = laptops
    try:
        first.done("init")
        first.up()
        code = first.done("invite").strip()
        assert "joined mesh" in second.run("join", code, "--loopback").stderr
        second.up()
        statements = [re.findall(r'"(.*)"', line)[0] for line in LINES if line.startswith("sqlite3 fleet.db")]
        assert len(statements) == 3
        for statement in statements[:2]:
            assert first.sql(statement) == ""
        second.shows(statements[2], "1|40.7128|-74.006|500|2023-09-11 12:34:56\n")
        eventually(lambda: first.run("wait", "--replicas", "2", "--timeout", "5").returncode == 0, "both hold it")
    finally:
        for laptop in laptops:
            if laptop.process is not None and laptop.process.poll() is None:
                laptop.kill()


@pytest.mark.slow
def test_the_simulation_of_the_readme_holds():
    line = re.findall(r"`mycomesh (simulate [^`]*)`", README)[0]
    done = subprocess.run(
        [*MYCOMESH, *line.split()], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S * 3, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
