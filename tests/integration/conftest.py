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
