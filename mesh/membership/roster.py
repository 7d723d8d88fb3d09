"""The members of the mesh as far as this node knows: their certificates.

Owns the certificate of each node that counts. What always holds: every certificate here was signed by the mesh's root, or
renewed by an admin, and its holder is not revoked; of two certificates of one node the greater in rank stays; the newest time
that was signed only grows, and stands in for a clock that is behind it. Members that are down are never forgotten while
their certificate lives.
Must not know: links, who is reachable.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.mesh.membership.certificate import GRANTS_ALL
from mycomesh.mesh.membership.renewal import read_certificate
from mycomesh.mesh.membership.revocations import Revocations
from mycomesh.mesh.messages import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.identity import Identity

__all__ = ["MEMBERS_MAX", "Roster", "digest_of"]

MEMBERS_MAX = 1_024  # certificates kept: a large mesh; the root signs each, so a stranger cannot fill it


class Roster:
    """Certificates by node id, this node's own among them."""

    __slots__ = ("_by_digest", "_by_node", "_limited", "identity", "newest_seen_s", "standing", "version")

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.standing = Revocations(identity.root_public, identity.secret, identity.epochs)
        self.newest_seen_s = 0
        self.version = 0  # of the members' rights: grows with each certificate
        self._by_node: dict[bytes, Certificate] = {}
        self._by_digest: dict[bytes, Certificate] = {}
        self._limited: dict[bytes, tuple[tuple[str, str], ...]] = {}  # the rights of those who have not all
        self._keep(identity.certificate)

    def judge(self, raw: bytes, wall_ms: int) -> Certificate:
        """The certificate in `raw` if it is one of this mesh and valid now; else CertificateError. Nothing is kept."""
        certificate = self._by_digest.get(digest_of(raw))
        if certificate is None or certificate.raw != raw:
            certificate = read_certificate(raw, root_public=self.identity.root_public)
        self.standing.refuse(certificate)
        certificate.check_time(wall_ms=wall_ms, newest_seen_s=self.newest_seen_s)
        return certificate

    def add(self, certificate: Certificate) -> bool:
        """Keep a judged certificate; whether it is news. One of our own keys becomes ours."""
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
            self.identity = replace(self.identity, certificate=certificate, epochs=self.standing.epochs())
        return True

    def drop(self, node_id: bytes) -> None:
        """Forget a member."""
        known = self._by_node.pop(node_id, None)
        if known is not None:
            del self._by_digest[digest_of(known.raw)]
            self._limited.pop(node_id, None)

    def get(self, node_id: bytes) -> Certificate | None:
        """The certificate of a node."""
        return self._by_node.get(node_id)

    def expire(self, wall_ms: int) -> list[bytes]:
        """Forget members whose certificate has run out; their node ids. Our own stays, for people to see."""
        wall_s = max(wall_ms // 1_000, self.newest_seen_s)
        own = self.identity.node_id
        gone = [key for key, known in self._by_node.items() if known.not_after_s <= wall_s and key != own]
        for node_id in gone:
            self.drop(node_id)
        return gone

    @property
    def own_id(self) -> bytes:
        """This node's id."""
        return self.identity.node_id

    def limited(self) -> tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]:
        """Who may not do everything with every table, and what they may; by node id."""
        return tuple(sorted(self._limited.items()))

    def members(self) -> tuple[Certificate, ...]:
        """Every member, by name and then node id, for people."""
        return tuple(sorted(self._by_node.values(), key=lambda known: (known.name, known.node_id)))

    def __len__(self) -> int:
        return len(self._by_node)

    def digests(self) -> tuple[bytes, ...]:
        """What this node holds, in short."""
        return tuple(self._by_digest)

    def besides(self, digests: Iterable[bytes]) -> list[bytes]:
        """The certificates that someone who holds `digests` lacks."""
        theirs = dict.fromkeys(digests)
        return [known.raw for digest, known in self._by_digest.items() if digest not in theirs]

    def _keep(self, certificate: Certificate) -> None:
        self._by_node[certificate.node_id] = certificate
        if certificate.table_rights == GRANTS_ALL:
            self._limited.pop(certificate.node_id, None)
        else:
            self._limited[certificate.node_id] = certificate.table_rights
        self.version += 1
        self._by_digest[digest_of(certificate.raw)] = certificate
        self.newest_seen_s = max(self.newest_seen_s, certificate.not_before_s)


def digest_of(raw: bytes) -> bytes:
    """What members tell each other of a record that they hold."""
    return blake2b(raw, digest_size=DIGEST_BYTES).digest()
