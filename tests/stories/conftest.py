"""The replicas of tests/sync and the bases of tests/mesh, for stories that cross rooms."""

from tests.mesh.node.gateway.conftest import three
from tests.sync.attackers import attacked, world_of
from tests.sync.conftest import equals, pair, peers, trio

__all__ = ["attacked", "equals", "pair", "peers", "three", "trio", "world_of"]
