"""The members of a simulated mesh: their identities, and the mesh machine of each.

Identities are made once in a process. They do not depend on the seed, since no behaviour under test depends on the keys.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.mesh.core import MeshConfig, MeshCore
from mycomesh.mesh.link_budget import Budget
from mycomesh.mesh.membership.certificate import GRANTS_ALL
from mycomesh.mesh.membership.identity import Identity, create_mesh, make_identity
from mycomesh.mesh.node.authority import NodeAuthority
from mycomesh.mesh.relay.circuits import Circuits
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.network import PORT
from mycomesh.simulations.plain import PlainMesh
from mycomesh.simulations.workload import CUT
from mycomesh.simulations.world import EPOCH_MS
from mycomesh.sync.wire.messages import kind_of
from mycomesh.sync.wire.units import topic_of

if TYPE_CHECKING:
    from mycomesh.mesh.events import MembershipChanged
    from mycomesh.mesh.node.core import MeshMachine
    from mycomesh.mesh.versions import Versions
    from mycomesh.simulations.scenario import Scenario

__all__ = ["MESHES", "Entropy", "Member", "grants_of", "member"]

MESHES = ("real", "plain")
LIFETIME_S = 10 * 365 * 86_400  # longer than any scenario
MADE_BEFORE_MS = 86_400_000  # the certificates are a day old, so that clocks that are a little slow accept them

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its node id, the digest key that all members share, a function that makes its mesh machine, and its keys.

    The function takes what an earlier run of the member has stored, None in the first.
    """

    node_id: bytes
    digest_key: bytes
    machine: Callable[[Entropy, random.Random, Versions, MembershipChanged | None, bool], MeshMachine]
    authority: NodeAuthority | None = None


def member(
    index: int,
    mesh: str,
    heartbeat_ms: int = 1_000,
    budget: Budget | None = None,
    grants: tuple[tuple[str, str], ...] = GRANTS_ALL,
) -> Member:
    """Return the member with this index. All but its kind of mesh apply to a `real` one only.

    Args:
        index: of the node.
        mesh: one of `MESHES`.
        heartbeat_ms: of its links.
        budget: of its links.
        grants: the rights that its certificate gives it.

    Raises:
        ScenarioError: there is no such kind of mesh.
    """
    if mesh == "real":
        return _real(index, heartbeat_ms, budget, grants)
    if mesh == "plain":
        return _plain(index)
    raise ScenarioError(f"there is no mesh {mesh!r}; choose one of {', '.join(MESHES)}")


def grants_of(scenario: Scenario, index: int) -> tuple[tuple[str, str], ...]:
    """Return the rights of a node: all, or to write some areas of the table that is cut and read the rest.

    Every other one of these writes other tables too, and so the facts about them.
    """
    areas = scenario.writes[index] if scenario.writes else None
    if areas is None:
        return GRANTS_ALL
    return (*((f"{CUT}[{area}]", "rw") for area in areas), (CUT, "r"), ("*", "rw" if index % 2 else "r"))


@cache
def _founder() -> tuple[Identity, bytes]:
    entropy = random.Random("the founder of the simulated mesh").randbytes
    return create_mesh("simulation", "node0", entropy=entropy, wall_ms=EPOCH_MS - MADE_BEFORE_MS, lifetime_s=LIFETIME_S)


@cache
def _real(index: int, heartbeat_ms: int, budget: Budget | None, grants: tuple[tuple[str, str], ...]) -> Member:
    founder, root_seed = _founder()
    identity = founder
    authority = None if index else root_seed  # only node 0 can revoke members
    if index:
        identity = make_identity(
            root_seed,
            mesh_name=founder.mesh_name,
            node_name=f"node{index}",
            secret=founder.secret,
            roles=("member",),
            entropy=random.Random(f"member {index} of the simulated mesh").randbytes,
            not_before_s=(EPOCH_MS - MADE_BEFORE_MS) // 1_000,
            lifetime_s=LIFETIME_S,
            grants=grants,
        )

    def machine(
        entropy: Entropy, rng: random.Random, versions: Versions, stored: MembershipChanged | None, partial: bool
    ) -> MeshMachine:
        config = MeshConfig(
            heartbeat_ms=heartbeat_ms,
            versions=versions,
            topic_of=topic_of,
            partial=partial,
            kind_of=kind_of,
            budget=budget,
        )
        own, known = (identity, b"") if stored is None else (Identity.decode(stored.identity), stored.membership)
        core = MeshCore(own, entropy=entropy, rng=rng, config=config, root_seed=authority, membership=known)
        core.advertise_port(PORT)
        return Circuits(core)

    return Member(identity.node_id, identity.digest_key, machine, NodeAuthority(identity))


@cache
def _plain(index: int) -> Member:
    node_id = blake2b(f"node {index}".encode(), digest_size=16).digest()

    def machine(
        _entropy: Entropy, rng: random.Random, _versions: Versions, _stored: object, _partial: bool
    ) -> MeshMachine:
        return PlainMesh(node_id, rng)

    return Member(node_id, blake2b(b"the key of the digests", digest_size=32).digest(), machine)
