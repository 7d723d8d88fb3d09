"""Replicas that most tests begin with."""

from __future__ import annotations

import pytest

from tests.sync.attackers import attacked, world_of  # noqa: F401
from tests.sync.fleets import fleet_of  # noqa: F401
from tests.sync.migrations import migrating  # noqa: F401
from tests.sync.pairs import both  # noqa: F401
from tests.sync.peers import Peer, converge
from tests.sync.scans import scanned, shape  # noqa: F401
from tests.sync.templates import equal_peers


@pytest.fixture
def peers(tmp_path):
    """Make so many replicas on new files; they are closed at the end."""
    made = []

    def make(count):
        made.extend(Peer(tmp_path / f"{number}.db", number, wall_ms=1_000) for number in range(count))
        return made

    yield make
    for peer in made:
        peer.close()


@pytest.fixture
def pair(peers):
    return peers(2)


@pytest.fixture
def trio(peers):
    return peers(3)


@pytest.fixture
def equals(tmp_path):
    """Make so many equal replicas of what some SQL makes, and more of them at each further call."""
    made = []

    def make(count, sql):
        if not made:
            made.extend(equal_peers(tmp_path, count, sql))
            return made
        made.extend(Peer(tmp_path / f"{number}.db", number) for number in range(len(made), len(made) + count))
        converge(made)
        return made

    yield make
    for peer in made:
        peer.close()
