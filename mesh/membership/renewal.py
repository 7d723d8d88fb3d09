"""Certificate renewal: an admin extends a member's certificate while the root key stays offline.

A renewed certificate is the certificate that the root signed, together with an admin's decree that holds nothing but a new
time and serial.

Invariants: name, keys, roles and grants of a renewed certificate are always those that the root signed, because the decree
cannot carry any, so a renewal adds no right. It lasts at most RENEWED_S_MAX and not longer than the admin's own certificate.
Only the root renews an admin.
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

# The member's and the admin's certificates and a decree; leaves room in a handshake message of 2 KiB.
CERTIFICATE_CHAIN_BYTES_MAX = 1_792
RENEWED_S_MAX = LIFETIME_S_DEFAULT  # of one renewal, also of one that a captured admin has dated back

_PLAIN = 1
_RENEWED = 2
_DOMAIN = b"renewal"
_BODY_VERSION = 1
_BODY = (bytes, int, int, bytes)  # digest of the root's certificate, not before, not after, serial
_DIGEST_BYTES = 16


def read_certificate(raw: bytes, *, root_public: bytes) -> Certificate:
    """Return the certificate in `raw`, as the root signed it or as an admin renewed it; else CertificateError.

    The time is not checked.
    """
    if len(raw) > CERTIFICATE_CHAIN_BYTES_MAX:
        raise CertificateError(
            "too-long", f"certificate has {len(raw)} bytes, at most {CERTIFICATE_CHAIN_BYTES_MAX} are allowed"
        )
    if raw[:2] != bytes((0x83, _RENEWED)):  # the CBOR of a list of three items that begins with the integer 2
        return Certificate.decode_signed(raw, root_public=root_public)
    base_raw, decree_raw = _fields(raw, "renewed certificate", _RENEWED, (bytes, bytes))
    base = Certificate.decode_signed(base_raw, root_public=root_public)
    decree = Decree.decode(decree_raw, domain=_DOMAIN, root_public=root_public)
    digest, not_before_s, not_after_s, serial = _fields(decree.body, "renewal", _BODY_VERSION, _BODY)
    if digest != _digest(base_raw) or len(serial) != SERIAL_BYTES:
        raise CertificateError("renewal", f"certificate of {base.name} is renewed by a decree for another certificate")
    if not decree.issuer or "admin" in base.roles:
        raise CertificateError(
            "renewal", f"certificate of {base.name} can be renewed by the root alone, with a new one"
        )
    if not (
        decree.at_s == not_before_s < not_after_s <= not_before_s + RENEWED_S_MAX and base.not_before_s <= not_before_s
    ):
        raise CertificateError(
            "renewal", f"certificate of {base.name} is renewed for a time that an admin may not give"
        )
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
    """Return a member's certificate as renewed by an admin from `at_s` on; CertificateError if an admin may not renew it."""
    base_raw = base_of(certificate)
    until_s = min(at_s + RENEWED_S_MAX, authority.until_s)
    body = wire.encode((_BODY_VERSION, _digest(base_raw), at_s, until_s, serial))
    raw = wire.encode((_RENEWED, base_raw, authority.decree(_DOMAIN, body, at_s)))
    return read_certificate(raw, root_public=authority.root_public)


def base_of(certificate: Certificate) -> bytes:
    """Return the encoding that the root signed, also of a renewed certificate."""
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
