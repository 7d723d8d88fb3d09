"""Decrees: the signed envelope of a decision for the whole mesh (a revocation, renewal or epoch).

Invariant: every `Decree` object carries a valid signature of the root key, or of a node whose certificate the root itself
signed with the role admin and which was valid at the time of the decree. The chain has length one, so an admin cannot make
another node an admin.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.membership.certificate import CERTIFICATE_BYTES_MAX, SKEW_S_MAX, Certificate

__all__ = ["DECREE_BYTES_MAX", "Authority", "Decree"]

DECREE_BYTES_MAX = 2 * CERTIFICATE_BYTES_MAX + 256  # the subject's certificate, the issuer's, signature and heads

_VERSION = 1
_KINDS = (int, bytes, bytes, bytes)  # when (unix seconds), body, signature, the issuer's certificate or nothing


@dataclass(frozen=True, slots=True)
class Decree:
    """A decision. `body` was decided at `at_s` (unix seconds); `issuer` is the admin's node id, or empty for the root."""

    at_s: int
    body: bytes
    issuer: bytes
    raw: bytes

    @classmethod
    def decode(cls, raw: bytes, *, domain: bytes, root_public: bytes) -> Decree:
        """Return the decree in `raw`; CertificateError unless the root or an admin signed it for `domain`."""
        what = domain.decode()
        try:
            at_s, body, signature, issuer_raw = wire.decode_record(
                raw, what=what, version=_VERSION, kinds=_KINDS, bytes_max=DECREE_BYTES_MAX
            )
        except DecodeError as error:
            raise CertificateError("malformed", str(error)) from None
        key, issuer = root_public, b""
        if issuer_raw:
            admin = Certificate.decode_signed(issuer_raw, root_public=root_public)
            if "admin" not in admin.roles:
                raise CertificateError("issuer", f"{what} is signed by {admin.name}, which is not an admin")
            if not admin.not_before_s - SKEW_S_MAX <= at_s < admin.not_after_s:
                raise CertificateError(
                    "issuer", f"{what} is signed by {admin.name} at a time when its own certificate was not valid"
                )
            key, issuer = admin.node_key, admin.node_id
        if not primitives.verify(key, domain, _signed(root_public, at_s, body), signature):
            raise CertificateError("bad-signature", f"{what} was not signed by the issuer that it names")
        return cls(at_s, body, issuer, raw)


@dataclass(frozen=True, slots=True)
class Authority:
    """A key that may sign decrees: the root's secret, or an admin's secret with its certificate."""

    root_public: bytes
    certificate: bytes  # the admin's; empty for the root
    until_s: int  # expiry of the admin's certificate: later decrees are invalid
    secret: bytes = field(repr=False)

    @property
    def is_root(self) -> bool:
        """Whether this is the root's key."""
        return not self.certificate

    @classmethod
    def of(
        cls, certificate: Certificate, root_public: bytes, node_seed: bytes, root_seed: bytes | None
    ) -> Authority | None:
        """Return the key that this node may sign with: the root's if it has it, its own if it is an admin, or None."""
        if root_seed is not None:
            return cls(root_public, b"", 2**62, primitives.signing_pair(root_seed)[1])
        if "admin" in certificate.roles and not certificate.renewed_by:
            secret = primitives.signing_pair(node_seed)[1]
            return cls(root_public, certificate.raw, certificate.not_after_s, secret)
        return None

    def decree(self, domain: bytes, body: bytes, at_s: int) -> bytes:
        """Return the signed envelope of one decision; CertificateError if it would exceed DECREE_BYTES_MAX."""
        signature = primitives.sign(self.secret, domain, _signed(self.root_public, at_s, body))
        raw = wire.encode((_VERSION, at_s, body, signature, self.certificate))
        if len(raw) > DECREE_BYTES_MAX:
            raise CertificateError(
                "too-long",
                f"{domain.decode()} has {len(raw)} bytes, at most {DECREE_BYTES_MAX} are allowed: use fewer grants",
            )
        return raw


def _signed(root_public: bytes, at_s: int, body: bytes) -> bytes:
    return wire.encode((primitives.identifier(root_public), at_s, body))
