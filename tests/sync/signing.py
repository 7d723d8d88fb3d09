"""Peers with keys, as signed tables need them: each is a member that the root of one mesh has admitted."""

from __future__ import annotations

import functools
import random

from mycomesh.mesh.membership.identity import create_mesh, make_identity
from mycomesh.mesh.node.authority import NodeAuthority
from tests.sync.peers import WALL_MS, Peer

LIFETIME_S = 10 * 365 * 86_400


@functools.cache
def _founder():
    entropy = random.Random("the founder of signing peers").randbytes
    return create_mesh("signing", "node0", entropy=entropy, wall_ms=WALL_MS, lifetime_s=LIFETIME_S)


@functools.cache
def identity(number):
    """Return the identity of a member; 0 is the founder's."""
    founder, root_seed = _founder()
    if not number:
        return founder
    return make_identity(
        root_seed,
        mesh_name=founder.mesh_name,
        node_name=f"node{number}",
        secret=founder.secret,
        roles=("member",),
        entropy=random.Random(f"signing peer {number}").randbytes,
        not_before_s=WALL_MS // 1_000,
        lifetime_s=LIFETIME_S,
    )


def signing_peers(directory, count, first=0, wall_ms=WALL_MS):
    """Return peers who know each other's keys, on files of their own; those before `first` are known and not made."""
    identities = [identity(number) for number in range(count)]
    certificates = tuple(NodeAuthority(each).certificate for each in identities)
    peers = [
        Peer(directory / f"signing{number}.db", number, wall_ms=wall_ms, identity=identities[number])
        for number in range(first, count)
    ]
    for peer in peers:
        for certificate in certificates:
            peer.replica.store.signers.learn(certificate)
    return peers
