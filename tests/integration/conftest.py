"""Machines that tests from outside begin with."""

from __future__ import annotations

import pytest

from tests.integration.machines import Machine


@pytest.fixture
def machine(tmp_path):
    """Make machines; whatever still runs at the end is killed."""
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
    """Two members: alpha, which made the mesh, and bravo, which joined by a code; both serve."""
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    alpha.up()
    code = alpha.done("invite").strip()
    joined = bravo.run("join", code, "--node-name", "bravo", "--no-multicast", "--peer", alpha.address)
    assert "joined mesh 'fleet' as 'bravo'" in joined.stderr, joined.stderr
    bravo.up("--port", "0", "--peer", alpha.address)
    return alpha, bravo
