"""Two replicas and the way from one to the other."""

from __future__ import annotations

import pytest

from tests.sync.peers import Peer, assert_equal


@pytest.fixture
def both(tmp_path):
    peers = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


def handed_over(first, second):
    """Everything goes over live; the files and the digests must be equal."""
    second.take(first.drain(), first.node_id)
    assert_equal(first, second)
