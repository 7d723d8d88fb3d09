"""Writes the first files of a home: a mesh made here, a pending join, or the identity of a ticket."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from mycomesh.mesh.membership.enrolment import TICKET_BYTES_MAX, Candidate, ticket_decode
from mycomesh.mesh.membership.identity import create_mesh
from mycomesh.mesh.membership.membership import Membership
from mycomesh.mesh.node.keystore import Keystore, PendingJoin

if TYPE_CHECKING:
    from pathlib import Path

    from mycomesh.mesh.membership.enrolment import JoinCode
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.node.home import Home

__all__ = ["found", "node_name_default", "read_ticket", "store_code", "use_ticket"]

# Of the first member's certificate. Its renewal needs the root key, which is on the same machine: a long life costs no safety.
LIFETIME_S = 10 * 365 * 24 * 3600


def found(home: Home, name: str, node_name: str | None) -> Identity:
    """Create and store a mesh and its first member; raise `MeshError` for a wrong name, `KeystoreError` for a used home."""
    store = Keystore(home)
    with home.locked():
        identity, root_seed = create_mesh(
            name,
            node_name or node_name_default(),
            entropy=os.urandom,
            wall_ms=time.time_ns() // 1_000_000,
            lifetime_s=LIFETIME_S,
        )
        store.store_mesh(identity, root_seed)
        store.forget_join()
    return identity


def store_code(store: Keystore, code: JoinCode, node_name: str | None) -> Candidate:
    """Store a join that `enrol` or the next run of the node completes; return the candidate. The caller has locked the home.

    A member of that mesh, whose certificate expired or that was away for too long, keeps its keys, unless it was revoked.
    """
    candidate = Candidate.fresh(node_name or node_name_default(), entropy=os.urandom)
    known = store.identity()
    if known is not None and known.mesh_id == code.mesh_id:
        if Membership(known, None, os.urandom, store.membership()).is_revoked:
            candidate = Candidate.fresh(node_name or known.name, entropy=os.urandom)
        else:
            candidate = Candidate(known.name, known.node_seed, known.static_private)
    store.store_join(PendingJoin(code, candidate))
    return candidate


def read_ticket(path: Path) -> Identity:
    """Return the identity that a ticket's file holds; raise `OSError`, or `EnrolmentError` if it is not a ticket."""
    with path.open("rb") as file:
        return ticket_decode(file.read(TICKET_BYTES_MAX + 1))


def use_ticket(home: Home, identity: Identity) -> Identity | None:
    """Store the identity of a ticket; return the one that it replaced, if any.

    Raises:
        KeystoreError: the home belongs to another mesh, or has the root key of this one.
    """
    store = Keystore(home)
    with home.locked():
        before = store.identity()
        store.store_identity(identity)
        store.forget_join()
    return before


def node_name_default() -> str:
    """Return the host name without its domain."""
    return socket.gethostname().partition(".")[0] or "node"
