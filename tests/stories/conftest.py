"""The replicas of tests/sync, for stories that cross its rooms."""

from tests.sync.conftest import equals, pair, peers, trio

__all__ = ["equals", "pair", "peers", "trio"]
