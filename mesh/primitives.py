"""Cryptographic primitives: X25519, ChaCha20-Poly1305, Ed25519 and BLAKE2b, with checked lengths.

This is the only module that calls libsodium. Its Python bindings do not check every length: `crypto_scalarmult` takes a public
key of any size and reads past a short one. Invariant: input of the wrong length never reaches libsodium. Bytes from a peer fail
with HandshakeError or False; a wrong length from our own code fails an assertion. Python cannot wipe `bytes`, so callers drop
secrets early instead of zeroing them.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import TYPE_CHECKING

from nacl import bindings
from nacl.exceptions import CryptoError

from mycomesh.mesh.errors import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ID_BYTES",
    "KEY_BYTES",
    "SIGNATURE_BYTES",
    "TAG_BYTES",
    "aead_open",
    "aead_seal",
    "agree",
    "derive",
    "draw",
    "identifier",
    "sign",
    "signing_pair",
    "static_public",
    "verify",
]

KEY_BYTES = 32  # X25519 keys, Ed25519 seeds and public keys, ChaCha20-Poly1305 keys
TAG_BYTES = 16  # Poly1305
SIGNATURE_BYTES = 64  # Ed25519
IDENTIFIERS_MAX = 2_048  # cached: the keys of a large mesh, needed again with every message; 300 bytes each
ID_BYTES = 16  # BLAKE2b-128: a second key with the same identifier costs 2^128 tries

_SIGN_PREFIX = b"mycomesh signature 1\0"  # a signature made here is valid in no other protocol
_NONCE = struct.Struct("<4xQ")  # Noise section 12.3: 32 zero bits, then the counter in little-endian


def draw(entropy: Callable[[int], bytes], count: int) -> bytes:
    """Return `count` bytes from `entropy`, and assert that the source returned that many."""
    drawn = entropy(count)
    assert len(drawn) == count, f"the entropy source returned {len(drawn)} of {count} bytes"
    return bytes(drawn)


def static_public(private: bytes) -> bytes:
    """Return the X25519 public key of a private key."""
    assert len(private) == KEY_BYTES
    public: bytes = bindings.crypto_scalarmult_base(private)
    return public


def agree(private: bytes, public: bytes) -> bytes:
    """Return the X25519 shared secret.

    Raises:
        HandshakeError: the public key has another length, or is a point of low order (RFC 7748, section 6.1).
    """
    assert len(private) == KEY_BYTES
    if len(public) != KEY_BYTES:
        raise HandshakeError(f"public key has {len(public)} bytes instead of {KEY_BYTES}")
    try:
        shared: bytes = bindings.crypto_scalarmult(private, public)
    except RuntimeError:  # libsodium raises it for an all-zero shared secret
        raise HandshakeError("public key is a point of low order") from None
    return shared


def aead_seal(key: bytes, counter: int, associated: bytes, plaintext: bytes) -> bytes:
    """Encrypt with ChaCha20-Poly1305 (RFC 8439); return the ciphertext and its tag."""
    assert len(key) == KEY_BYTES
    sealed: bytes = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, associated, _NONCE.pack(counter), key)
    return sealed


def aead_open(key: bytes, counter: int, associated: bytes, ciphertext: bytes) -> bytes:
    """Return the plaintext.

    Raises:
        HandshakeError: one bit of ciphertext, tag, key, counter or associated data differs.
    """
    assert len(key) == KEY_BYTES
    if len(ciphertext) < TAG_BYTES:
        raise HandshakeError(f"ciphertext of {len(ciphertext)} bytes is shorter than its tag")
    try:
        plaintext: bytes = bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
            ciphertext, associated, _NONCE.pack(counter), key
        )
    except CryptoError:
        raise HandshakeError("message is not authentic") from None
    return plaintext


def signing_pair(seed: bytes) -> tuple[bytes, bytes]:
    """Return the Ed25519 public key of a 32-byte seed, and the 64-byte secret key, in libsodium's form, that `sign` takes."""
    assert len(seed) == KEY_BYTES
    pair: tuple[bytes, bytes] = bindings.crypto_sign_seed_keypair(seed)
    return pair


def sign(secret: bytes, domain: bytes, data: bytes) -> bytes:
    """Return the Ed25519 signature over `data` in `domain`; it is valid in no other domain."""
    assert len(secret) == 2 * KEY_BYTES
    signed: bytes = bindings.crypto_sign(_in_domain(domain, data), secret)
    return signed[:SIGNATURE_BYTES]


def verify(public: bytes, domain: bytes, data: bytes, signature: bytes) -> bool:
    """Return True if `signature` is that of `public` over `data` in `domain`; inputs may have any length."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + _in_domain(domain, data), public)
    except CryptoError:
        return False
    return True


@functools.lru_cache(maxsize=IDENTIFIERS_MAX)
def identifier(public: bytes) -> bytes:
    """Return the 16-byte identifier of an Ed25519 public key: a node id, or the mesh id if it is the root key."""
    return hashlib.blake2b(public, digest_size=ID_BYTES).digest()


def derive(secret: bytes, purpose: bytes, context: bytes = b"") -> bytes:
    """Derive a 32-byte key for one purpose from a secret of 16..64 bytes.

    `purpose` is the BLAKE2b personalisation, at most 16 bytes.
    """
    assert 16 <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE
    return hashlib.blake2b(context, key=secret, person=purpose, digest_size=KEY_BYTES).digest()


def _in_domain(domain: bytes, data: bytes) -> bytes:
    assert domain
    assert b"\0" not in domain, "a domain ends at its first NUL"
    return b"%b%b\0%b" % (_SIGN_PREFIX, domain, data)
