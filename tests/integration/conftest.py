"""Fixtures for tests with real processes: machines and pairs of members."""

from __future__ import annotations

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


@pytest.fixture
def pair(machine):
    """Return two serving members: alpha, which created the mesh, and bravo, which joined by a code."""
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    alpha.up()
    code = alpha.done("invite").strip()
    joined = bravo.run("join", code, "--node-name", "bravo", "--no-multicast", "--peer", alpha.address)
    assert "joined mesh 'fleet' as 'bravo'" in joined.stderr, joined.stderr
    bravo.up("--port", "0", "--peer", alpha.address)
    return alpha, bravo
