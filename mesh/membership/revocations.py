"""Revocations and epochs: which nodes are revoked, and which mesh secret opens a handshake.

Every member stores these decrees and passes them on. An epoch, that is a new mesh secret, follows each revocation, so that the
secret that the revoked node knows goes out of use.

An admin cannot revoke another admin; otherwise two captured admins could fight over the mesh. The root can. The decrees of a
revoked admin have no effect from the time of its own revocation on, and its epochs have no effect at all: the root draws
another secret in the same step.

Invariants: the root or an admin signed each decree. The same decrees have the same effect on every node, in any order of
arrival. A node accepts an epoch only if it knows the revocation that the epoch follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.mesh import wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.membership.decree import DECREE_BYTES_MAX, Authority, Decree
from mycomesh.mesh.membership.renewal import base_of, read_certificate
from mycomesh.mesh.primitives import ID_BYTES, KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mycomesh.mesh.membership.certificate import Certificate

__all__ = ["EPOCHS_KEPT", "EPOCH_BYTES_MAX", "OVERLAP_S", "REVOCATIONS_MAX", "Epoch", "Revocation", "Revocations"]

REVOCATIONS_MAX = 1_024  # as many as members: a mesh that needs more should be replaced by a new one
EPOCHS_KEPT = 4  # the secret in use and the three before it: a member that missed more joins again
EPOCH_NUMBER_MAX = 2**31
EPOCH_BYTES_MAX = DECREE_BYTES_MAX + 64
OVERLAP_S = 7 * 86_400  # how long a member that was away may still fetch the new secret with the old one
TAG_BYTES = 8

_VERSION = 1
_REVOCATION = b"revocation"
_EPOCH = b"epoch"
_EPOCH_BODY = (int, bytes, bytes)  # number, tag of the secret, node id whose revocation it follows


@dataclass(frozen=True, slots=True)
class Revocation:
    """The removal of a member at `at_s` (unix seconds). `issuer` is the admin's node id, or empty for the root.

    `certificate` is one certificate of the removed node, as the root signed it.
    """

    certificate: Certificate
    at_s: int
    issuer: bytes
    raw: bytes

    @property
    def node_id(self) -> bytes:
        """The revoked node: all certificates for its key are invalid."""
        return self.certificate.node_id

    @classmethod
    def decode(cls, raw: bytes, *, root_public: bytes) -> Revocation:
        """Return the revocation in `raw`; CertificateError unless its issuer may revoke that node."""
        decree = Decree.decode(raw, domain=_REVOCATION, root_public=root_public)
        certificate = read_certificate(decree.body, root_public=root_public)
        if decree.issuer and "admin" in certificate.roles:
            raise CertificateError("issuer", f"{certificate.name} is an admin, which only the root can revoke")
        return cls(certificate, decree.at_s, decree.issuer, raw)

    @classmethod
    def issue(cls, certificate: Certificate, authority: Authority, *, at_s: int) -> Revocation:
        """Sign a revocation of the certificate's holder."""
        return cls.decode(authority.decree(_REVOCATION, base_of(certificate), at_s), root_public=authority.root_public)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One secret of the mesh, in use since `at_s`. `raw` contains the secret, so it goes to members only.

    `because` is the node id whose revocation this epoch follows.
    """

    number: int
    at_s: int
    because: bytes
    issuer: bytes
    secret: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def tag(self) -> bytes:
        """A hash that two members compare to find out whether they use the same secret, without revealing it."""
        return _tag(self.secret)

    @property
    def rank(self) -> tuple[int, int, bytes]:
        """The order of epochs: the greatest is in use, so that members agree when two were issued at once."""
        return self.number, self.at_s, self.tag

    @classmethod
    def decode(cls, raw: bytes, *, root_public: bytes) -> Epoch:
        """Return the epoch in `raw`; CertificateError unless its issuer may sign it and it contains the signed secret."""
        try:
            decree_raw, secret = wire.decode_record(
                raw, what="epoch", version=_VERSION, kinds=(bytes, bytes), bytes_max=EPOCH_BYTES_MAX
            )
            decree = Decree.decode(decree_raw, domain=_EPOCH, root_public=root_public)
            number, tag, because = wire.decode_record(
                decree.body, what="epoch body", version=_VERSION, kinds=_EPOCH_BODY, bytes_max=DECREE_BYTES_MAX
            )
        except DecodeError as error:
            raise CertificateError("malformed", str(error)) from None
        if len(secret) != KEY_BYTES or tag != _tag(secret) or len(because) != ID_BYTES:
            raise CertificateError("malformed", "epoch contains a secret other than the signed one")
        if not 0 < number <= EPOCH_NUMBER_MAX:
            raise CertificateError("malformed", f"epoch has number {number}, which is not in 1 to {EPOCH_NUMBER_MAX}")
        return cls(number, decree.at_s, because, decree.issuer, secret, raw)

    @classmethod
    def issue(cls, number: int, secret: bytes, because: bytes, authority: Authority, *, at_s: int) -> Epoch:
        """Sign a new secret for the mesh."""
        body = wire.encode((_VERSION, number, _tag(secret), because))
        raw = wire.encode((_VERSION, authority.decree(_EPOCH, body, at_s), secret))
        return cls.decode(raw, root_public=authority.root_public)


class Revocations:
    """The revocations and epochs that one node knows; `first` is the secret with which the mesh was created."""

    __slots__ = ("_epochs", "_first", "_revocations", "_root_public")

    def __init__(self, root_public: bytes, first: bytes, epochs: Iterable[bytes] = ()) -> None:
        self._root_public = root_public
        self._first = first
        self._revocations: dict[tuple[bytes, bytes], Revocation] = {}  # (node id, issuer)
        self._epochs: list[Epoch] = [Epoch.decode(raw, root_public=root_public) for raw in epochs]

    # ---- revocations

    def revocation(self, node_id: bytes) -> Revocation | None:
        """Return the effective revocation of a node, the earliest if there are several, or None."""
        found = [each for each in self._revocations.values() if each.node_id == node_id and self._is_effective(each)]
        return min(found, key=lambda each: (each.at_s, each.issuer), default=None)

    def effective(self) -> tuple[Revocation, ...]:
        """Return the effective revocations, one a node, ordered by name."""
        nodes = dict.fromkeys(each.node_id for each in self._revocations.values())
        found = [each for each in map(self.revocation, nodes) if each is not None]
        return tuple(sorted(found, key=lambda each: (each.certificate.name, each.node_id)))

    def encoded_revocations(self) -> tuple[bytes, ...]:
        """Return all known revocations in the form that members exchange."""
        return tuple(each.raw for each in self._revocations.values())

    def add_revocation(self, raw: bytes) -> Revocation | None:
        """Record a revocation; return it if it is new, else None. CertificateError unless its issuer may revoke that node."""
        known = next((each for each in self._revocations.values() if each.raw == raw), None)
        if known is not None:
            return None
        made = Revocation.decode(raw, root_public=self._root_public)
        key = (made.node_id, made.issuer)
        older = self._revocations.get(key)
        if older is not None and (older.at_s, older.raw) <= (made.at_s, made.raw):
            return None
        if older is None and len(self._revocations) >= REVOCATIONS_MAX:
            return None
        self._revocations[key] = made
        return made

    def check(self, certificate: Certificate) -> None:
        """Raise CertificateError if the certificate's node is revoked, or if an admin renewed it after its own revocation."""
        made = self.revocation(certificate.node_id)
        if made is not None:
            raise CertificateError("revoked", f"{certificate.name} was revoked: it can join again only with new keys")
        if certificate.renewed_by:
            issuer = self.revocation(certificate.renewed_by)
            if issuer is not None and issuer.at_s <= certificate.not_before_s:
                raise CertificateError("revoked-issuer", f"{certificate.name} was renewed by a revoked admin")

    def _is_effective(self, made: Revocation) -> bool:
        if not made.issuer:
            return True
        above = self._revocations.get((made.issuer, b""))  # only the root revokes admins
        return above is None or made.at_s < above.at_s

    # ---- epochs

    @property
    def epoch(self) -> Epoch | None:
        """The epoch in use; None while the mesh still has its first secret."""
        return max(self._valid_epochs(), key=lambda each: each.rank, default=None)

    @property
    def secret(self) -> bytes:
        """The secret in use."""
        epoch = self.epoch
        return self._first if epoch is None else epoch.secret

    @property
    def tag(self) -> bytes:
        """A hash of the secret in use, which members compare."""
        return _tag(self.secret)

    def secrets(self, wall_s: int, *, all_current: bool) -> tuple[bytes, ...]:
        """Return the secret in use, then the earlier ones while members may still come with one of them.

        Earlier secrets are left out if `all_current` (every member uses the current one), or OVERLAP_S after the change.
        """
        epoch = self.epoch
        if epoch is None:
            return (self._first,)
        if all_current or wall_s >= epoch.at_s + OVERLAP_S:
            return (epoch.secret,)
        before = [each.secret for each in sorted(self._epochs, key=lambda each: each.rank, reverse=True)]
        return tuple(dict.fromkeys((epoch.secret, *before, self._first)))

    def add_epoch(self, raw: bytes) -> bool:
        """Record an epoch; return whether it changed the secret in use. CertificateError unless its issuer may sign it."""
        if any(each.raw == raw for each in self._epochs):
            return False
        made = Epoch.decode(raw, root_public=self._root_public)
        if self.revocation(made.because) is None:
            # The revocation that this epoch follows is unknown here: the sender may be the revoked node itself.
            return False
        before = self.secret
        self._epochs.append(made)
        self._epochs.sort(key=lambda each: each.rank)
        del self._epochs[:-EPOCHS_KEPT]
        return self.secret != before

    def next_epoch(self, secret: bytes, because: bytes, authority: Authority, *, at_s: int) -> Epoch:
        """Return a new epoch whose number is above those of all valid epochs."""
        number = 1 + max((each.number for each in self._valid_epochs()), default=0)
        return Epoch.issue(number, secret, because, authority, at_s=at_s)

    def encoded_epochs(self) -> tuple[bytes, ...]:
        """Return the known epochs in their stored form, oldest first."""
        return tuple(each.raw for each in self._epochs)

    def epochs_for_joiner(self) -> tuple[bytes, ...]:
        """Return the epoch in use, if there is one: a joining node needs it besides the mesh's first secret."""
        epoch = self.epoch
        return () if epoch is None else (epoch.raw,)

    def _valid_epochs(self) -> list[Epoch]:
        return [each for each in self._epochs if not each.issuer or (each.issuer, b"") not in self._revocations]


def _tag(secret: bytes) -> bytes:
    return blake2b(secret, digest_size=TAG_BYTES, person=b"mycomesh epoch").digest()
