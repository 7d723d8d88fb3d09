"""Membership certificates: what the mesh's root key says about one node.

Owns the certificate's one encoded form, its signature, and the judgement of clocks. What always holds: a `Certificate`
in hand was signed by the root key it was checked against (or has just been issued by it), every field is within its
limit, and `raw` is the very bytes that were signed over, never encoded again (an altered encoding of the same signature
would be another certificate to whoever compares bytes; members are named by node key instead).
Must not know: sessions, files, revocation lists.

Clocks: drones boot in 1970 until a GPS fix, or at their image's build date. A clock behind a time that the root has
signed is known to be wrong: expiry is then judged at that signed time, and "not yet valid" is not judged at all.
A clock that is ahead cannot be told from the truth; it refuses what has expired by its own time.
"""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.primitives import ID_BYTES, KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "CERTIFICATE_BYTES_MAX",
    "GRANTS_ALL",
    "GRANTS_MAX",
    "LIFETIME_ADMIN_S",
    "LIFETIME_S_DEFAULT",
    "NAME_BYTES_MAX",
    "RIGHTS",
    "ROLES",
    "SERIAL_BYTES",
    "SKEW_S_MAX",
    "Certificate",
    "free_name",
    "issue",
    "lifetime_s",
    "name_fault",
    "rights_fault",
]

CERTIFICATE_BYTES_MAX = 1_024  # fits a handshake message with room for a root key; a member with 16 grants needs 700
NAME_BYTES_MAX = 64  # UTF-8: a call sign or a host name; longer ones break every table that shows them
GRANTS_MAX = 16  # one for each family of tables; more belongs in one pattern
PATTERN_BYTES_MAX = 64  # as long as a table's name gets in practice; bounds the work of matching
SERIAL_BYTES = 16  # drawn, not counted: several issuers need no shared counter
SKEW_S_MAX = 86_400  # a member whose clock lags a day still accepts a certificate issued a minute ago
LIFETIME_ADMIN_S = 365 * 86_400  # an admin is renewed by the root alone, which may lie in a safe
LIFETIME_S_DEFAULT = 30 * 86_400  # bounds what a stolen node can do to those that cannot hear of its revocation
ROLES = ("member", "read-only", "relay", "admin")
RIGHTS = ("rw", "r", "w", "-")  # "-" closes what a later, wider pattern would open
GRANTS_ALL = (("*", "rw"),)

_VERSION = 1
_DOMAIN = b"certificate"
_CLOCK_PLAUSIBLE_S = 1_704_067_200  # 2024-01-01: before this software; a clock behind it has never been set
_TIME_S_MAX = 2**40  # the year 36812; keeps sums far inside 64 bits
_ENVELOPE = (bytes, bytes)  # body, signature
_BODY = (bytes, str, bytes, bytes, list, list, int, int, bytes)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the root says: this name and these keys belong to the mesh, with these roles and rights, for this time.

    Times are unix seconds: valid from `not_before_s`, no more from `not_after_s` on. `grants` are (table pattern,
    rights) with `*` and `?`; the first pattern that matches decides, none means no right.
    """

    mesh_id: bytes
    name: str
    node_key: bytes
    static_key: bytes
    roles: tuple[str, ...]
    grants: tuple[tuple[str, str], ...]
    not_before_s: int
    not_after_s: int
    serial: bytes
    raw: bytes
    renewed_by: bytes = b""  # node id of the admin who gave it another time (mesh.renewal)
    issued_s: int = 0  # not_before_s as the root has signed it, where an admin gave it another time

    @property
    def node_id(self) -> bytes:
        """The 16 bytes that name this node everywhere: a hash of its signing key, the same over renewals."""
        return primitives.identifier(self.node_key)

    @property
    def table_rights(self) -> tuple[tuple[str, str], ...]:
        """Roles and grants in one: (table pattern, "rw" | "r" | "w" | "-"), the first that matches decides."""
        if "relay" in self.roles:
            return (("*", "-"),)
        if "read-only" in self.roles:
            return tuple(
                (pattern, rights.replace("w", "") if pattern == "*" else rights) for pattern, rights in self.grants
            )
        return self.grants

    @property
    def rank(self) -> tuple[int, int, int, bytes]:
        """Of two certificates of one node the greater counts: the root's latest word, then the longest life.

        So nobody's renewal brings rights back that the root has taken away since, or ends a life early.
        """
        return self.issued_s or self.not_before_s, self.not_after_s, self.not_before_s, self.serial

    @classmethod
    def decode_verified(cls, raw: bytes, *, root_public: bytes, wall_ms: int, newest_seen_s: int = 0) -> Certificate:
        """The certificate in `raw`, signed by `root_public` and valid now; else CertificateError.

        `newest_seen_s` is the newest `not_before_s` of any certificate that this node has accepted, its own included.
        """
        certificate = cls.decode_signed(raw, root_public=root_public)
        certificate.check_time(wall_ms=wall_ms, newest_seen_s=newest_seen_s)
        return certificate

    @classmethod
    def decode_signed(cls, raw: bytes, *, root_public: bytes) -> Certificate:
        """The certificate in `raw`, signed by `root_public`, whatever the time; else CertificateError."""
        if len(raw) > CERTIFICATE_BYTES_MAX:
            raise CertificateError(
                "too-long", f"certificate has {len(raw)} bytes, at most {CERTIFICATE_BYTES_MAX} are allowed"
            )
        try:
            body, signature = wire.decode_record(
                raw, what="certificate", version=_VERSION, kinds=_ENVELOPE, bytes_max=CERTIFICATE_BYTES_MAX
            )
            fields = wire.decode_record(
                body, what="certificate body", version=_VERSION, kinds=_BODY, bytes_max=CERTIFICATE_BYTES_MAX
            )
        except DecodeError as error:
            raise CertificateError("malformed", str(error)) from None
        if fields[0] != primitives.identifier(root_public):
            raise CertificateError("wrong-mesh", "certificate belongs to another mesh")
        if not primitives.verify(root_public, _DOMAIN, body, signature):
            raise CertificateError("bad-signature", "certificate was not signed by the root key of this mesh")
        certificate = _from_fields(fields, raw)
        _check(certificate)
        return certificate

    def check_time(self, *, wall_ms: int, newest_seen_s: int = 0) -> None:
        """CertificateError if the certificate has expired or is not yet valid, as far as the clock can be trusted."""
        wall_s = wall_ms // 1_000
        if max(wall_s, newest_seen_s) >= self.not_after_s:
            raise CertificateError("expired", f"certificate of {self.name} has expired: renew it, or join again")
        clock_was_set = wall_s >= max(newest_seen_s, _CLOCK_PLAUSIBLE_S)
        if clock_was_set and wall_s + SKEW_S_MAX < self.not_before_s:
            raise CertificateError(
                "not-yet-valid", f"certificate of {self.name} is not valid yet: check the clocks of both nodes"
            )

    def check_static(self, remote_static: bytes | None) -> None:
        """CertificateError unless the certificate is that of the static key which the handshake has proven."""
        if remote_static != self.static_key:
            raise CertificateError("static-key", f"certificate of {self.name} was shown by the holder of another key")


def lifetime_s(roles: tuple[str, ...]) -> int:
    """How long a certificate with these roles lasts, from the day on which the root signs it."""
    return LIFETIME_ADMIN_S if "admin" in roles else LIFETIME_S_DEFAULT


def issue(  # noqa: PLR0913, keyword-only: the fields of a certificate
    root_seed: bytes,
    *,
    name: str,
    node_key: bytes,
    static_key: bytes,
    roles: tuple[str, ...],
    not_before_s: int,
    not_after_s: int,
    serial: bytes,
    grants: tuple[tuple[str, str], ...] = GRANTS_ALL,
) -> Certificate:
    """Sign a certificate with the root key of the mesh. CertificateError if a field is beyond its limit."""
    root_public, root_secret = primitives.signing_pair(root_seed)
    mesh_id = primitives.identifier(root_public)
    body = (_VERSION, mesh_id, name, node_key, static_key, roles, grants, not_before_s, not_after_s, serial)
    unsigned = Certificate(*body[1:], raw=b"")
    _check(unsigned)
    body_raw = wire.encode(body)
    raw = wire.encode((_VERSION, body_raw, primitives.sign(root_secret, _DOMAIN, body_raw)))
    if len(raw) > CERTIFICATE_BYTES_MAX:
        raise CertificateError(
            "too-long", f"certificate would have {len(raw)} bytes of {CERTIFICATE_BYTES_MAX}: use fewer or wider grants"
        )
    return Certificate.decode_signed(raw, root_public=root_public)


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or where it is taken the first of name-2, name-3 ... that is not, at most `NAME_BYTES_MAX` bytes long."""
    numbered = (_tailed(name, f"-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain((name,), numbered) if each not in taken)


def name_fault(name: str) -> str:
    """Why `name` cannot name a node or a mesh, or an empty string.

    Names are shown in terminals and logs of other members, so nothing that moves a cursor or turns text around passes.
    """
    if not name or name != name.strip():
        return "it is empty or begins or ends with a blank"
    if len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX:
        return f"it is longer than {NAME_BYTES_MAX} bytes"
    if not name.isprintable():
        return "it holds characters that cannot be printed"
    if unicodedata.normalize("NFC", name) != name:
        return "it is not in Unicode normal form C"
    return ""


def rights_fault(roles: tuple[object, ...], grants: tuple[tuple[object, ...], ...]) -> str:
    """Why a certificate cannot hold these roles and grants, or an empty string."""
    if not roles or any(role not in ROLES for role in roles) or len(set(roles)) != len(roles):
        return f"roles are one or more of {', '.join(ROLES)}"
    if len(grants) > GRANTS_MAX:
        return f"{len(grants)} grants, at most {GRANTS_MAX} are allowed"
    if not all(_is_grant(grant) for grant in grants):
        return f"a grant is a table pattern of up to {PATTERN_BYTES_MAX} bytes and one of {', '.join(RIGHTS)}"
    return ""


def _from_fields(fields: list[Any], raw: bytes) -> Certificate:
    mesh_id, name, node_key, static_key, roles, grants, not_before_s, not_after_s, serial = fields
    pairs = tuple(tuple(grant) if isinstance(grant, list) else (grant,) for grant in grants)
    return Certificate(
        mesh_id=mesh_id,
        name=name,
        node_key=node_key,
        static_key=static_key,
        roles=tuple(roles),
        grants=pairs,
        not_before_s=not_before_s,
        not_after_s=not_after_s,
        serial=serial,
        raw=raw,
    )


def _check(certificate: Certificate) -> None:
    """CertificateError for a field that the root should never have signed; a signature does not make it safe to use."""
    if len(certificate.mesh_id) != ID_BYTES:
        raise CertificateError("malformed", "certificate names a mesh with an identifier of another length")
    if len(certificate.node_key) != KEY_BYTES or len(certificate.static_key) != KEY_BYTES:
        raise CertificateError("malformed", "certificate holds a key of another length")
    if len(certificate.serial) != SERIAL_BYTES:
        raise CertificateError("malformed", "certificate holds a serial of another length")
    fault = name_fault(certificate.name)
    if fault:
        raise CertificateError("name", f"certificate's name cannot be used: {fault}")
    fault = rights_fault(certificate.roles, certificate.grants)
    if fault:
        raise CertificateError("rights", f"certificate's rights cannot be used: {fault}")
    if not 0 <= certificate.not_before_s < certificate.not_after_s <= _TIME_S_MAX:
        raise CertificateError("times", "certificate ends before it begins, or far outside of time")


def _tailed(name: str, tail: str) -> str:
    """The name with a tail of ASCII, shortened by whole characters until both fit."""
    return name.encode()[: NAME_BYTES_MAX - len(tail)].decode(errors="ignore").rstrip() + tail


def _is_grant(grant: tuple[object, ...]) -> bool:
    match grant:
        case (str(pattern), str(rights)):
            fits = 0 < len(pattern.encode("utf-8", "replace")) <= PATTERN_BYTES_MAX and pattern.isprintable()
            return fits and rights in RIGHTS
        case _:
            return False
