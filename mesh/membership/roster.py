"""Roster: the certificates of all members that this node knows.

Members that are down stay in the roster until their certificate expires.

Invariants: the mesh's root signed every certificate here, or an admin renewed it, and its holder is not revoked. Of two
certificates of one node the roster keeps the one of greater rank. The newest signed time (`newest_seen_s`) only grows, and
replaces a clock that is behind it.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.mesh.membership.certificate import GRANTS_ALL
from mycomesh.mesh.membership.purges import Purges
from mycomesh.mesh.membership.renewal import base_of, read_certificate
from mycomesh.mesh.membership.revocations import Revocations
from mycomesh.mesh.messages import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.identity import Identity

__all__ = ["MEMBERS_MAX", "Roster", "digest_of"]

MEMBERS_MAX = 1_024  # certificates kept: a large mesh; each needs the root's signature, so outsiders cannot fill it


class Roster:
    """Certificates by node id, this node's own among them."""

    __slots__ = (
        "_admitted",
        "_by_digest",
        "_by_node",
        "_restricted",
        "identity",
        "newest_seen_s",
        "own_id",
        "purges",
        "revocations",
        "version",
    )

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.own_id = identity.node_id  # this node's; a renewed certificate has the same
        self.revocations = Revocations(identity.root_public, identity.secret, identity.epochs)
        self.purges = Purges(identity.root_public)
        self.newest_seen_s = 0
        self.version = 0  # of the members' rights and the purges; grows with each certificate
        self._by_node: dict[bytes, Certificate] = {}
        self._by_digest: dict[bytes, Certificate] = {}
        self._restricted: dict[bytes, tuple[tuple[str, str], ...]] = {}  # rights of members that lack some
        self._admitted: list[Certificate] = []  # recorded since the last `take_admitted`
        self._keep(identity.certificate)

    def verify(self, raw: bytes, wall_ms: int) -> Certificate:
        """Return the certificate in `raw` if it is one of this mesh and valid at `wall_ms`; else CertificateError.

        Nothing is recorded.
        """
        certificate = self._by_digest.get(digest_of(raw))
        if certificate is None or certificate.raw != raw:
            certificate = read_certificate(raw, root_public=self.identity.root_public)
        self.revocations.check(certificate)
        certificate.check_time(wall_ms=wall_ms, newest_seen_s=self.newest_seen_s)
        return certificate

    def add(self, certificate: Certificate) -> bool:
        """Record a verified certificate; return whether it is new. One for this node's keys becomes this node's certificate."""
        known = self._by_node.get(certificate.node_id)
        if known is None:
            if len(self._by_node) >= MEMBERS_MAX:
                return False
        elif known.rank >= certificate.rank:
            return False
        else:
            del self._by_digest[digest_of(known.raw)]
        self._keep(certificate)
        if certificate.node_id == self.identity.node_id and certificate.static_key == self.identity.static_public:
            self.identity = replace(self.identity, certificate=certificate, epochs=self.revocations.encoded_epochs())
        return True

    def drop(self, node_id: bytes) -> None:
        """Remove a member."""
        known = self._by_node.pop(node_id, None)
        if known is not None:
            del self._by_digest[digest_of(known.raw)]
            self._restricted.pop(node_id, None)

    def get(self, node_id: bytes) -> Certificate | None:
        """Return the certificate of a node, or None."""
        return self._by_node.get(node_id)

    def expire(self, wall_ms: int) -> list[bytes]:
        """Remove members whose certificate has expired; return their node ids.

        This node's own certificate remains, so that people can see it.
        """
        wall_s = max(wall_ms // 1_000, self.newest_seen_s)
        own = self.identity.node_id
        gone = [key for key, known in self._by_node.items() if known.not_after_s <= wall_s and key != own]
        for node_id in gone:
            self.drop(node_id)
        return gone

    def restricted_rights(self) -> tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]:
        """Return (node id, table rights) of the members that lack some right, ordered by node id."""
        return tuple(sorted(self._restricted.items()))

    def take_admitted(self) -> tuple[bytes, ...]:
        """Return the certificates recorded since the last call, as the root has signed them."""
        found, self._admitted = self._admitted, []
        return tuple(map(base_of, found))

    def purge_orders(self) -> tuple[tuple[bytes, int], ...]:
        """Return (node id, Unix milliseconds) of the revoked nodes whose writes since then are dropped, by node id."""
        return self.purges.orders(each.node_id for each in self.revocations.effective())

    def members(self) -> tuple[Certificate, ...]:
        """Return every member's certificate, ordered by name and then node id."""
        return tuple(sorted(self._by_node.values(), key=lambda known: (known.name, known.node_id)))

    def items(self) -> Iterable[tuple[bytes, Certificate]]:
        """Return every member's node id and certificate, in the order in which they came: nothing is sorted or computed."""
        return self._by_node.items()

    def node_ids(self) -> Iterable[bytes]:
        """Return every member's node id, in the order in which they came."""
        return self._by_node.keys()

    def __len__(self) -> int:
        return len(self._by_node)

    def digests(self) -> tuple[bytes, ...]:
        """Return the digests of all certificates that this node has."""
        return tuple(self._by_digest)

    def missing_from(self, digests: Iterable[bytes]) -> list[bytes]:
        """Return the certificates that a peer with `digests` lacks."""
        theirs = dict.fromkeys(digests)
        return [known.raw for digest, known in self._by_digest.items() if digest not in theirs]

    def _keep(self, certificate: Certificate) -> None:
        self._by_node[certificate.node_id] = certificate
        if certificate.table_rights == GRANTS_ALL:
            self._restricted.pop(certificate.node_id, None)
        else:
            self._restricted[certificate.node_id] = certificate.table_rights
        self.version += 1
        self._admitted.append(certificate)
        self._by_digest[digest_of(certificate.raw)] = certificate
        self.newest_seen_s = max(self.newest_seen_s, certificate.not_before_s)


def digest_of(raw: bytes) -> bytes:
    """Return the short hash by which members compare their records."""
    return blake2b(raw, digest_size=DIGEST_BYTES).digest()
