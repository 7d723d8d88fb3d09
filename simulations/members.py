"""The members of a simulated mesh: who they are, and the machine that speaks for each.

Owns the making of identities, once a process: keys do not depend on the seed of a run, since nothing that a scenario shows
depends on them. Must not know scenarios or networks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

from mesh.node.core import MeshMachine
from simulations.plain import PlainMesh

__all__ = ["Entropy", "Member", "members"]

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its node id, the secret that all share, and how to make its mesh machine."""

    node_id: bytes
    secret: bytes
    machine: Callable[[Entropy, random.Random], MeshMachine]


@cache
def members(count: int, kind: str) -> tuple[Member, ...]:
    """The first `count` members of the one simulated mesh."""
    assert kind == "plain"
    return tuple(_plain(index) for index in range(count))


def _plain(index: int) -> Member:
    node_id = blake2b(f"node {index}".encode(), digest_size=16).digest()

    def machine(_entropy: Entropy, rng: random.Random) -> MeshMachine:
        return PlainMesh(node_id, rng)

    return Member(node_id, blake2b(b"secret", digest_size=32).digest(), machine)
