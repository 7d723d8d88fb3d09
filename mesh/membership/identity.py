"""Node identity: a node's private keys, its certificate and the mesh's secret, with one encoded form for all.

The root's private key is not part of an identity, so it can stay offline. The shell stores the encoded form in a file of
mode 0600.

Invariants: the certificate is for these keys and carries a valid signature of `root_public`. No secret appears in a repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.errors import CertificateError, DecodeError, EnrolmentError
from mycomesh.mesh.membership import certificate as certificates
from mycomesh.mesh.membership.certificate import Certificate, name_fault
from mycomesh.mesh.membership.renewal import CERTIFICATE_CHAIN_BYTES_MAX, read_certificate
from mycomesh.mesh.membership.revocations import EPOCH_BYTES_MAX, EPOCHS_KEPT, Revocations
from mycomesh.mesh.primitives import KEY_BYTES, draw

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["IDENTITY_BYTES_MAX", "SECRET_BYTES", "Identity", "create_mesh", "make_identity", "verify"]

SECRET_BYTES = 32  # the psk of Noise section 9
# Four keys, a mesh name and their CBOR heads need about 230 bytes.
IDENTITY_BYTES_MAX = CERTIFICATE_CHAIN_BYTES_MAX + EPOCHS_KEPT * EPOCH_BYTES_MAX + 512

_VERSION = 1
_WHAT = "node identity"
_KINDS = (bytes, str, bytes, bytes, bytes, bytes, bytes, list)
_DIGEST_PURPOSE = b"mycomesh digest"

verify = primitives.verify


@dataclass(frozen=True, slots=True)
class Identity:
    """A member node. `node_seed` is an Ed25519 seed, `static_private` an X25519 private key.

    `secret` was drawn when the mesh was created. It is the pre-shared key until the first of `epochs`, and the digest key is
    always derived from it. `epochs` are those that this node received with its certificate; later ones are in its
    `Revocations`.
    """

    mesh_id: bytes
    mesh_name: str
    root_public: bytes
    secret: bytes = field(repr=False)
    node_seed: bytes = field(repr=False)
    static_private: bytes = field(repr=False)
    certificate: Certificate
    epochs: tuple[bytes, ...] = field(default=(), repr=False)
    _signing_secret: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert len(self.secret) == SECRET_BYTES
        assert self.mesh_id == primitives.identifier(self.root_public) == self.certificate.mesh_id
        node_key, signing_secret = primitives.signing_pair(self.node_seed)
        assert self.certificate.node_key == node_key
        assert self.certificate.static_key == primitives.static_public(self.static_private)
        # Derived once, which halves the cost of a signature; the class is frozen, so it is set this way.
        object.__setattr__(self, "_signing_secret", signing_secret)

    @property
    def node_id(self) -> bytes:
        """The 16 bytes that identify this node everywhere."""
        return self.certificate.node_id

    @property
    def name(self) -> str:
        """The label that people see; two nodes may have the same label, but never the same node id."""
        return self.certificate.name

    @property
    def static_public(self) -> bytes:
        """The X25519 public key whose private key handshakes prove."""
        return self.certificate.static_key

    @property
    def digest_key(self) -> bytes:
        """The 32-byte key of the digests that replicas compare; all members share it, and no one else knows it."""
        return primitives.derive(self.secret, _DIGEST_PURPOSE, self.mesh_id)

    def sign(self, domain: bytes, data: bytes) -> bytes:
        """Return this node's Ed25519 signature over `data` in `domain` (bytes without NUL); `verify` checks it."""
        return primitives.sign(self._signing_secret, domain, data)

    def encode(self) -> bytes:
        """Return the stored form, which contains every secret of the node."""
        return wire.encode(
            (
                _VERSION,
                self.mesh_id,
                self.mesh_name,
                self.root_public,
                self.secret,
                self.node_seed,
                self.static_private,
                self.certificate.raw,
                self.epochs,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        """Return the identity that `encode` wrote; DecodeError if it is damaged.

        An identity with an expired certificate loads, because it can be renewed.
        """
        fields = wire.decode_record(data, what=_WHAT, version=_VERSION, kinds=_KINDS, bytes_max=IDENTITY_BYTES_MAX)
        mesh_id, mesh_name, root_public, secret, node_seed, static_private, raw, epochs = fields
        if any(len(key) != KEY_BYTES for key in (root_public, secret, node_seed, static_private)):
            raise DecodeError(f"{_WHAT} has a key that is not {KEY_BYTES} bytes long: restore the file, or join again")
        try:
            certificate = read_certificate(raw, root_public=root_public)
            Revocations(root_public, secret, _epochs(epochs))
        except CertificateError as error:
            raise DecodeError(
                f"{_WHAT} has an invalid certificate ({error}): restore the file, or join again"
            ) from None
        own_keys = (primitives.signing_pair(node_seed)[0], primitives.static_public(static_private))
        if mesh_id != certificate.mesh_id or own_keys != (certificate.node_key, certificate.static_key):
            raise DecodeError(f"{_WHAT} mixes keys of two nodes: restore the file, or join again")
        if name_fault(mesh_name):
            raise DecodeError(f"{_WHAT} has an unusable mesh name: restore the file, or join again")
        return cls(mesh_id, mesh_name, root_public, secret, node_seed, static_private, certificate, tuple(epochs))


def create_mesh(
    mesh_name: str,
    node_name: str,
    *,
    entropy: Callable[[int], bytes],
    wall_ms: int,
    lifetime_s: int = certificates.LIFETIME_S_DEFAULT,
) -> tuple[Identity, bytes]:
    """Create a mesh of one node; return the node's identity and the seed of the root key.

    The holder of the seed can admit any node, so it belongs offline. EnrolmentError if a name cannot be used.
    """
    fault = name_fault(mesh_name)
    if fault:
        raise EnrolmentError(f"mesh cannot be named {mesh_name[:80]!r}: {fault}")
    root_seed = draw(entropy, KEY_BYTES)
    identity = make_identity(
        root_seed,
        mesh_name=mesh_name,
        node_name=node_name,
        secret=draw(entropy, SECRET_BYTES),
        roles=("member", "admin"),
        entropy=entropy,
        not_before_s=wall_ms // 1_000,
        lifetime_s=lifetime_s,
    )
    return identity, root_seed


def make_identity(  # noqa: PLR0913, keyword-only: what differs between a founder's and a ticket's identity
    root_seed: bytes,
    *,
    mesh_name: str,
    node_name: str,
    secret: bytes,
    roles: tuple[str, ...],
    entropy: Callable[[int], bytes],
    not_before_s: int,
    lifetime_s: int,
    grants: tuple[tuple[str, str], ...] = certificates.GRANTS_ALL,
    epochs: tuple[bytes, ...] = (),
) -> Identity:
    """Return an identity with fresh keys, certified by the root; EnrolmentError if the name cannot be used."""
    fault = name_fault(node_name)
    if fault:
        raise EnrolmentError(f"node cannot be named {node_name[:80]!r}: {fault}")
    node_seed = draw(entropy, KEY_BYTES)
    static_private = draw(entropy, KEY_BYTES)
    certificate = certificates.issue(
        root_seed,
        name=node_name,
        node_key=primitives.signing_pair(node_seed)[0],
        static_key=primitives.static_public(static_private),
        roles=roles,
        grants=grants,
        not_before_s=not_before_s,
        not_after_s=not_before_s + lifetime_s,
        serial=draw(entropy, certificates.SERIAL_BYTES),
    )
    root_public = primitives.signing_pair(root_seed)[0]
    return Identity(certificate.mesh_id, mesh_name, root_public, secret, node_seed, static_private, certificate, epochs)


def _epochs(raws: list[object]) -> list[bytes]:
    if len(raws) > EPOCHS_KEPT or any(type(raw) is not bytes for raw in raws):
        raise CertificateError("malformed", f"epochs must be a list of at most {EPOCHS_KEPT} records")
    return [raw for raw in raws if isinstance(raw, bytes)]
