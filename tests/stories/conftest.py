"""The replicas of tests/sync, for stories that cross its rooms."""

from tests.sync.attackers import attacked, world_of
from tests.sync.conftest import equals, pair, peers, trio

__all__ = ["attacked", "equals", "pair", "peers", "trio", "world_of"]
