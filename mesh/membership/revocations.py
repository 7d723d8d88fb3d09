"""What stands in this mesh: who is revoked, and which secret opens a handshake.

Owns the decrees that every member keeps and hands on: revocations and epochs. What always holds: each was signed by the
root or an admin; the same decrees give the same answers on every node, in whatever order they came; a secret of an epoch is
told only together with the revocation that it follows. Must not know: links, certificates of members, files.

An admin cannot revoke an admin (else two captured ones could fight for the mesh), the root can. What a revoked admin decreed from
its revocation on does not count, its epochs not at all: the root makes another one in the same step.
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

REVOCATIONS_MAX = 1_024  # as many as members: beyond, a new mesh is due
EPOCHS_KEPT = 4  # the secret in use and three before it: a member that missed more joins again
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
    """A member is one no more since `at_s`; `certificate` says who it was, `issuer` is the admin's node id or empty."""

    certificate: Certificate
    at_s: int
    issuer: bytes
    raw: bytes

    @property
    def node_id(self) -> bytes:
        """Whom it names: a key, whatever certificates it has."""
        return self.certificate.node_id

    @classmethod
    def decode(cls, raw: bytes, *, root_public: bytes) -> Revocation:
        """The revocation in `raw`; CertificateError if it was not made by one who may."""
        decree = Decree.decode(raw, domain=_REVOCATION, root_public=root_public)
        certificate = read_certificate(decree.body, root_public=root_public)
        if decree.issuer and "admin" in certificate.roles:
            raise CertificateError("issuer", f"{certificate.name} is an admin, whom the root alone revokes")
        return cls(certificate, decree.at_s, decree.issuer, raw)

    @classmethod
    def issue(cls, certificate: Certificate, authority: Authority, *, at_s: int) -> Revocation:
        """Revoke the holder of a certificate."""
        return cls.decode(authority.decree(_REVOCATION, base_of(certificate), at_s), root_public=authority.root_public)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One secret of the mesh, in use since `at_s`. `raw` holds the secret: only members may see it."""

    number: int
    at_s: int
    because: bytes
    issuer: bytes
    secret: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def tag(self) -> bytes:
        """What two members compare: says nothing about the secret."""
        return _tag(self.secret)

    @property
    def rank(self) -> tuple[int, int, bytes]:
        """The greatest of all is in use, so two that were made at once give way to one."""
        return self.number, self.at_s, self.tag

    @classmethod
    def decode(cls, raw: bytes, *, root_public: bytes) -> Epoch:
        """The epoch in `raw`; CertificateError if it was not made by one who may, or holds another secret."""
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
            raise CertificateError("malformed", "epoch holds another secret than it was signed for")
        if not 0 < number <= EPOCH_NUMBER_MAX:
            raise CertificateError("malformed", f"epoch has number {number}")
        return cls(number, decree.at_s, because, decree.issuer, secret, raw)

    @classmethod
    def issue(cls, number: int, secret: bytes, because: bytes, authority: Authority, *, at_s: int) -> Epoch:
        """Make a secret the mesh's."""
        body = wire.encode((_VERSION, number, _tag(secret), because))
        raw = wire.encode((_VERSION, authority.decree(_EPOCH, body, at_s), secret))
        return cls.decode(raw, root_public=authority.root_public)


class Revocations:
    """Decrees of one mesh; `first` is the secret that the mesh was made with."""

    __slots__ = ("_epochs", "_first", "_revocations", "_root_public")

    def __init__(self, root_public: bytes, first: bytes, epochs: Iterable[bytes] = ()) -> None:
        self._root_public = root_public
        self._first = first
        self._revocations: dict[tuple[bytes, bytes], Revocation] = {}  # (node id, issuer)
        self._epochs: list[Epoch] = [Epoch.decode(raw, root_public=root_public) for raw in epochs]

    # ---- revocations

    def revocation(self, node_id: bytes) -> Revocation | None:
        """The revocation of a node that counts, the earliest of several."""
        found = [each for each in self._revocations.values() if each.node_id == node_id and self._counts(each)]
        return min(found, key=lambda each: (each.at_s, each.issuer), default=None)

    def revoked(self) -> tuple[Revocation, ...]:
        """Every revocation that counts, one a node, by name."""
        nodes = dict.fromkeys(each.node_id for each in self._revocations.values())
        found = [each for each in map(self.revocation, nodes) if each is not None]
        return tuple(sorted(found, key=lambda each: (each.certificate.name, each.node_id)))

    def revocations(self) -> tuple[bytes, ...]:
        """What is handed to others."""
        return tuple(each.raw for each in self._revocations.values())

    def add_revocation(self, raw: bytes) -> Revocation | None:
        """Take a revocation; itself if it is news. CertificateError if it was not made by one who may."""
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

    def refuse(self, certificate: Certificate) -> None:
        """CertificateError if this certificate is that of a revoked node, or renewed by an admin after its own revocation."""
        made = self.revocation(certificate.node_id)
        if made is not None:
            raise CertificateError(
                "revoked", f"{certificate.name} was revoked: it joins again only with keys of its own"
            )
        if certificate.renewed_by:
            issuer = self.revocation(certificate.renewed_by)
            if issuer is not None and issuer.at_s <= certificate.not_before_s:
                raise CertificateError("revoked-issuer", f"{certificate.name} was renewed by an admin who was revoked")

    def _counts(self, made: Revocation) -> bool:
        if not made.issuer:
            return True
        above = self._revocations.get((made.issuer, b""))  # admins are revoked by the root alone
        return above is None or made.at_s < above.at_s

    # ---- epochs

    @property
    def epoch(self) -> Epoch | None:
        """The epoch in use; None while the mesh has the secret that it was made with."""
        return max(self._standing(), key=lambda each: each.rank, default=None)

    @property
    def secret(self) -> bytes:
        """The secret that members use."""
        epoch = self.epoch
        return self._first if epoch is None else epoch.secret

    @property
    def tag(self) -> bytes:
        """What members compare."""
        return _tag(self.secret)

    def secrets(self, wall_s: int, *, all_met: bool) -> tuple[bytes, ...]:
        """The secret in use, then those before it while members may still be on their way (not if `all_met`)."""
        epoch = self.epoch
        if epoch is None:
            return (self._first,)
        if all_met or wall_s >= epoch.at_s + OVERLAP_S:
            return (epoch.secret,)
        before = [each.secret for each in sorted(self._epochs, key=lambda each: each.rank, reverse=True)]
        return tuple(dict.fromkeys((epoch.secret, *before, self._first)))

    def add_epoch(self, raw: bytes) -> bool:
        """Take an epoch; whether another secret is in use now. CertificateError if it was not made by one who may."""
        if any(each.raw == raw for each in self._epochs):
            return False
        made = Epoch.decode(raw, root_public=self._root_public)
        if self.revocation(made.because) is None:
            return False  # told without the revocation that it follows: whoever tells it may be the revoked one
        before = self.secret
        self._epochs.append(made)
        self._epochs.sort(key=lambda each: each.rank)
        del self._epochs[:-EPOCHS_KEPT]
        return self.secret != before

    def next_epoch(self, secret: bytes, because: bytes, authority: Authority, *, at_s: int) -> Epoch:
        """An epoch above all that are known."""
        number = 1 + max((each.number for each in self._standing()), default=0)
        return Epoch.issue(number, secret, because, authority, at_s=at_s)

    def epochs(self) -> tuple[bytes, ...]:
        """What is stored, oldest first."""
        return tuple(each.raw for each in self._epochs)

    def handed(self) -> tuple[bytes, ...]:
        """What a newcomer needs besides the secret that the mesh was made with: the epoch in use, if there is one."""
        epoch = self.epoch
        return () if epoch is None else (epoch.raw,)

    def _standing(self) -> list[Epoch]:
        return [each for each in self._epochs if not each.issuer or (each.issuer, b"") not in self._revocations]


def _tag(secret: bytes) -> bytes:
    return blake2b(secret, digest_size=TAG_BYTES, person=b"mycomesh epoch").digest()
