"""Membership certificates: encoding, signature and validity of what the mesh's root key certifies about one node.

Clocks: drones boot in 1970 until a GPS fix, or at their image's build date. A clock behind a time that the root has signed is
certainly wrong. In that case expiry is checked at the signed time, and "not yet valid" is not checked at all. A clock that is
ahead cannot be recognised; it refuses certificates that have expired by its own time.

Invariants: every `Certificate` object carries a valid signature of the root key it was checked against, or was just issued by
it, and every field is within its limit. `raw` is the received encoding and is never encoded again: another encoding of the
same signature would be a different certificate to code that compares bytes. Members are identified by their node key instead.
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
NAME_BYTES_MAX = 64  # UTF-8: a call sign or a host name; longer names break the tables that print them
GRANTS_MAX = 16  # one for each family of tables; use a wider pattern instead of more grants
PATTERN_BYTES_MAX = 64  # as long as a table's name gets in practice; bounds the work of matching
SERIAL_BYTES = 16  # random and not counted: several issuers need no shared counter
SKEW_S_MAX = 86_400  # a member whose clock lags a day still accepts a certificate issued a minute ago
LIFETIME_ADMIN_S = 365 * 86_400  # only the root renews an admin, and the root key may be offline in a safe
LIFETIME_S_DEFAULT = 30 * 86_400  # limits how long a stolen node can harm members that its revocation cannot reach
ROLES = ("member", "read-only", "relay", "admin")
RIGHTS = ("rw", "r", "w", "-")  # "-" denies tables that a later, wider pattern would allow
GRANTS_ALL = (("*", "rw"),)

_VERSION = 1
_DOMAIN = b"certificate"
_CLOCK_PLAUSIBLE_S = 1_704_067_200  # 2024-01-01, before this software existed: a clock behind it was never set
_TIME_S_MAX = 2**40  # the year 36812; keeps sums far inside 64 bits
_ENVELOPE = (bytes, bytes)  # body, signature
_BODY = (bytes, str, bytes, bytes, list, list, int, int, bytes)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The root certifies that this name and these keys belong to the mesh, with these roles and rights, for this time.

    Times are unix seconds: valid from `not_before_s` (included) to `not_after_s` (excluded). `grants` are (table pattern,
    rights), where patterns use `*` and `?`. The first matching pattern decides; without a match there is no right.
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
    renewed_by: bytes = b""  # node id of the admin who renewed it (see renewal), else empty
    issued_s: int = 0  # of a renewed certificate: not_before_s as the root signed it

    @property
    def node_id(self) -> bytes:
        """The 16 bytes that identify this node everywhere: a hash of its signing key, unchanged by renewals."""
        return primitives.identifier(self.node_key)

    @property
    def table_rights(self) -> tuple[tuple[str, str], ...]:
        """Roles and grants combined: (table pattern, "rw" | "r" | "w" | "-"); the first matching pattern decides."""
        if "relay" in self.roles:
            return (("*", "-"),)
        if "read-only" in self.roles:
            return tuple(
                (pattern, rights.replace("w", "") if pattern == "*" else rights) for pattern, rights in self.grants
            )
        return self.grants

    @property
    def rank(self) -> tuple[int, int, int, bytes]:
        """The order of one node's certificates: the greater one applies. The root's latest issue wins, then the later expiry.

        Therefore no renewal can restore rights that the root has removed since, or shorten a certificate's life.
        """
        return self.issued_s or self.not_before_s, self.not_after_s, self.not_before_s, self.serial

    @classmethod
    def decode_verified(cls, raw: bytes, *, root_public: bytes, wall_ms: int, newest_seen_s: int = 0) -> Certificate:
        """Return the certificate in `raw` if `root_public` signed it and it is valid at `wall_ms`; else CertificateError.

        `newest_seen_s` is the newest `not_before_s` of all certificates that this node has accepted, its own included.
        """
        certificate = cls.decode_signed(raw, root_public=root_public)
        certificate.check_time(wall_ms=wall_ms, newest_seen_s=newest_seen_s)
        return certificate

    @classmethod
    def decode_signed(cls, raw: bytes, *, root_public: bytes) -> Certificate:
        """Return the certificate in `raw` if `root_public` signed it, without checking the time; else CertificateError."""
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
        """Raise CertificateError if the certificate has expired or is not yet valid, as far as the clock is reliable."""
        wall_s = wall_ms // 1_000
        if max(wall_s, newest_seen_s) >= self.not_after_s:
            raise CertificateError(
                "expired", f"certificate of {self.name} has expired: renew it or join again, if this clock is right"
            )
        clock_was_set = wall_s >= max(newest_seen_s, _CLOCK_PLAUSIBLE_S)
        if clock_was_set and wall_s + SKEW_S_MAX < self.not_before_s:
            raise CertificateError(
                "not-yet-valid", f"certificate of {self.name} is not valid yet: check the clocks of both nodes"
            )

    def check_static(self, remote_static: bytes | None) -> None:
        """Raise CertificateError unless the certificate names the static key that the handshake has proven."""
        if remote_static != self.static_key:
            raise CertificateError(
                "static-key", f"certificate of {self.name} was presented by the holder of another key"
            )


def lifetime_s(roles: tuple[str, ...]) -> int:
    """Return how many seconds a certificate with these roles is valid, counted from its issue by the root."""
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
    """Sign a certificate with the root key of the mesh; CertificateError if a field exceeds its limit."""
    root_public, root_secret = primitives.signing_pair(root_seed)
    mesh_id = primitives.identifier(root_public)
    body = (_VERSION, mesh_id, name, node_key, static_key, roles, grants, not_before_s, not_after_s, serial)
    unsigned = Certificate(*body[1:], raw=b"")
    _check(unsigned)
    body_raw = wire.encode(body)
    raw = wire.encode((_VERSION, body_raw, primitives.sign(root_secret, _DOMAIN, body_raw)))
    if len(raw) > CERTIFICATE_BYTES_MAX:
        raise CertificateError(
            "too-long",
            f"certificate would have {len(raw)} bytes, at most {CERTIFICATE_BYTES_MAX} are allowed: use fewer or wider grants",
        )
    return Certificate.decode_signed(raw, root_public=root_public)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return `name` if it is free, else the first free one of name-2, name-3 ..., at most NAME_BYTES_MAX bytes long."""
    numbered = (_tailed(name, f"-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain((name,), numbered) if each not in taken)


def name_fault(name: str) -> str:
    """Return why `name` cannot name a node or a mesh, or an empty string if it can.

    Other members print names in terminals and logs, so control characters and right-to-left marks are refused.
    """
    if not name or name != name.strip():
        return "it is empty, or begins or ends with a space"
    if len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX:
        return f"it is longer than {NAME_BYTES_MAX} bytes"
    if not name.isprintable():
        return "it contains characters that cannot be printed"
    if unicodedata.normalize("NFC", name) != name:
        return "it is not in Unicode normal form C"
    return ""


def rights_fault(roles: tuple[object, ...], grants: tuple[tuple[object, ...], ...]) -> str:
    """Return why a certificate cannot carry these roles and grants, or an empty string if it can."""
    if not roles or any(role not in ROLES for role in roles) or len(set(roles)) != len(roles):
        return f"roles must be one or more of {', '.join(ROLES)}"
    if len(grants) > GRANTS_MAX:
        return f"there are {len(grants)} grants, at most {GRANTS_MAX} are allowed"
    if not all(_is_grant(grant) for grant in grants):
        return f"a grant must be a table pattern of up to {PATTERN_BYTES_MAX} bytes and one of {', '.join(RIGHTS)}"
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
    """Raise CertificateError for a field that the root should never have signed: a signature does not make it safe."""
    if len(certificate.mesh_id) != ID_BYTES:
        raise CertificateError("malformed", f"certificate has a mesh id that is not {ID_BYTES} bytes long")
    if len(certificate.node_key) != KEY_BYTES or len(certificate.static_key) != KEY_BYTES:
        raise CertificateError("malformed", f"certificate has a key that is not {KEY_BYTES} bytes long")
    if len(certificate.serial) != SERIAL_BYTES:
        raise CertificateError("malformed", f"certificate has a serial that is not {SERIAL_BYTES} bytes long")
    fault = name_fault(certificate.name)
    if fault:
        raise CertificateError("name", f"certificate has an unusable name: {fault}")
    fault = rights_fault(certificate.roles, certificate.grants)
    if fault:
        raise CertificateError("rights", f"certificate has unusable rights: {fault}")
    if not 0 <= certificate.not_before_s < certificate.not_after_s <= _TIME_S_MAX:
        raise CertificateError("times", "certificate ends before it begins, or its times are out of range")


def _tailed(name: str, tail: str) -> str:
    """Return the name with an ASCII suffix; the name is shortened by whole characters until both fit."""
    return name.encode()[: NAME_BYTES_MAX - len(tail)].decode(errors="ignore").rstrip() + tail


def _is_grant(grant: tuple[object, ...]) -> bool:
    match grant:
        case (str(pattern), str(rights)):
            fits = 0 < len(pattern.encode("utf-8", "replace")) <= PATTERN_BYTES_MAX and pattern.isprintable()
            return fits and rights in RIGHTS
        case _:
            return False
