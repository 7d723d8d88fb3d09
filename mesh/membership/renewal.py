"""Renewals: a member's certificate with another time, signed by an admin while the root key stays offline.

Owns the second form of a certificate: the one that the root signed, and an admin's decree with nothing but a new time and
serial. What always holds: name, keys, roles and grants of a renewed certificate are those that the root has signed, by
construction, so a renewal raises nothing; it lasts at most RENEWED_S_MAX and no longer than the admin's own certificate;
an admin is renewed by the root alone. Must not know: who is revoked.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

from mycomesh.mesh import wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.membership.certificate import LIFETIME_S_DEFAULT, SERIAL_BYTES, Certificate
from mycomesh.mesh.membership.decree import Authority, Decree

__all__ = ["CERTIFICATE_CHAIN_BYTES_MAX", "RENEWED_S_MAX", "base_of", "read_certificate", "renew"]

CERTIFICATE_CHAIN_BYTES_MAX = (
    1_792  # member's and admin's certificates and a decree, with room in a handshake message of 2 KiB
)
RENEWED_S_MAX = LIFETIME_S_DEFAULT  # what an admin may give at once: a captured admin's back-dated gift ends with it

_PLAIN = 1
_RENEWED = 2
_DOMAIN = b"renewal"
_BODY_VERSION = 1
_BODY = (bytes, int, int, bytes)  # digest of the root's certificate, not before, not after, serial
_DIGEST_BYTES = 16


def read_certificate(raw: bytes, *, root_public: bytes) -> Certificate:
    """The certificate in `raw`, as the root signed it or renewed by an admin, whatever the time; else CertificateError."""
    if len(raw) > CERTIFICATE_CHAIN_BYTES_MAX:
        raise CertificateError("too-long", f"certificate has {len(raw)} bytes of {CERTIFICATE_CHAIN_BYTES_MAX}")
    if raw[:2] != bytes((0x83, _RENEWED)):  # the CBOR of a list of three that begins with 2
        return Certificate.decode_signed(raw, root_public=root_public)
    base_raw, decree_raw = _fields(raw, "renewed certificate", _RENEWED, (bytes, bytes))
    base = Certificate.decode_signed(base_raw, root_public=root_public)
    decree = Decree.decode(decree_raw, domain=_DOMAIN, root_public=root_public)
    digest, not_before_s, not_after_s, serial = _fields(decree.body, "renewal", _BODY_VERSION, _BODY)
    if digest != _digest(base_raw) or len(serial) != SERIAL_BYTES:
        raise CertificateError("renewal", f"certificate of {base.name} is renewed by a decree for another certificate")
    if not decree.issuer or "admin" in base.roles:
        raise CertificateError("renewal", f"certificate of {base.name} is one that the root alone renews, by a new one")
    if not (
        decree.at_s == not_before_s < not_after_s <= not_before_s + RENEWED_S_MAX and base.not_before_s <= not_before_s
    ):
        raise CertificateError("renewal", f"certificate of {base.name} is renewed for a time that no admin may give")
    return replace(
        base,
        not_before_s=not_before_s,
        not_after_s=not_after_s,
        serial=serial,
        raw=raw,
        renewed_by=decree.issuer,
        issued_s=base.not_before_s,
    )


def renew(certificate: Certificate, authority: Authority, *, at_s: int, serial: bytes) -> Certificate:
    """An admin's renewal of a member's certificate, from `at_s` on. CertificateError where an admin may not."""
    base_raw = base_of(certificate)
    until_s = min(at_s + RENEWED_S_MAX, authority.until_s)
    body = wire.encode((_BODY_VERSION, _digest(base_raw), at_s, until_s, serial))
    raw = wire.encode((_RENEWED, base_raw, authority.decree(_DOMAIN, body, at_s)))
    return read_certificate(raw, root_public=authority.root_public)


def base_of(certificate: Certificate) -> bytes:
    """The form that the root has signed."""
    if not certificate.renewed_by:
        return certificate.raw
    base: bytes = _fields(certificate.raw, "renewed certificate", _RENEWED, (bytes, bytes))[0]
    return base


def _fields(raw: bytes, what: str, version: int, kinds: tuple[type, ...]) -> list[Any]:
    try:
        return wire.decode_record(raw, what=what, version=version, kinds=kinds, bytes_max=CERTIFICATE_CHAIN_BYTES_MAX)
    except DecodeError as error:
        raise CertificateError("malformed", str(error)) from None


def _digest(raw: bytes) -> bytes:
    return blake2b(raw, digest_size=_DIGEST_BYTES, person=b"mycomesh renewal").digest()
