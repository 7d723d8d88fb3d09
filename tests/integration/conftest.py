"""Fixtures for tests with real processes: machines and pairs of members."""

from __future__ import annotations

import shutil

import pytest

from tests.integration.machines import Machine


@pytest.fixture
def machine(tmp_path):
    """Return a function that makes machines; processes that still run at the end are killed."""
    made = []

    def make(name):
        made.append(Machine(tmp_path, name))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.kill()


@pytest.fixture(scope="session")
def joined(tmp_path_factory):
    """Make the homes of two members once: alpha, which founded the mesh and served, and bravo, which joined by a code."""
    folder = tmp_path_factory.mktemp("joined")
    alpha, bravo = Machine(folder, "alpha"), Machine(folder, "bravo")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    try:
        alpha.up()
        code = alpha.done("invite").strip()
        done = bravo.run("join", code, "--node-name", "bravo", "--no-multicast", "--peer", alpha.address)
        assert "joined mesh 'fleet' as 'bravo'" in done.stderr, done.stderr
        alpha.terminate()
    finally:
        if alpha.process is not None:
            alpha.kill()
    return folder


@pytest.fixture
def pair(machine, joined, tmp_path):
    """Two members that serve, alpha and bravo, on copies of the homes that `joined` made."""
    for name in ("alpha", "bravo"):
        shutil.copytree(joined / name, tmp_path / name)
        (tmp_path / name / "log.txt").unlink(missing_ok=True)
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.up()
    bravo.up("--port", "0", "--peer", alpha.address)
    return alpha, bravo
