"""The keys behind the seals of signed tables: this node's own, and those that the mesh's root has admitted.

A certificate counts here whenever it was signed, also after its time and after a revocation: what a member has written stays
its own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mycomesh.mesh import primitives
from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.membership.certificate import Certificate
from mycomesh.mesh.membership.renewal import base_of

if TYPE_CHECKING:
    from mycomesh.mesh.membership.identity import Identity

__all__ = ["NodeAuthority"]

_DOMAIN = b"seal"
# Certificates whose signatures are remembered; each that is checked again costs some 60 us.
ADMITTED_MAX = 4_096


class NodeAuthority:
    """The keys of one node and of the members of its mesh."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.admitted = functools.lru_cache(maxsize=ADMITTED_MAX)(self._admitted)

    @property
    def certificate(self) -> bytes:
        """This node's certificate, as the root has signed it."""
        return base_of(self._identity.certificate)

    def sign(self, data: bytes) -> bytes:
        """Return this node's signature, 64 bytes."""
        return self._identity.sign(_DOMAIN, data)

    def _admitted(self, certificate: bytes) -> tuple[bytes, bytes] | None:
        """Return (16-byte node id, public key) of a certificate that the root has signed, whenever that was; else None."""
        try:
            found = Certificate.decode_signed(certificate, root_public=self._identity.root_public)
        except CertificateError:
            return None
        return found.node_id, found.node_key

    def verify(self, key: bytes, data: bytes, signature: bytes) -> bool:
        """Return True if a signature is that of a public key."""
        return primitives.verify(key, _DOMAIN, data, signature)
