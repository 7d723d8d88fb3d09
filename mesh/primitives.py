"""The only door to libsodium, and the hashes of the mesh: every call checks lengths and fails in one known way.

What always holds: bytes of the wrong length never reach libsodium, whose bindings read past short buffers
(`crypto_scalarmult` takes a public key of any length). Bytes from outside fail with HandshakeError or False; a wrong
length of our own is an assertion. Python cannot wipe `bytes`: secrets are dropped early, not zeroed.
Must not know: what is being encrypted or signed.
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

KEY_BYTES = 32  # X25519, Ed25519 seeds and public keys, ChaCha20-Poly1305: all of them
TAG_BYTES = 16  # Poly1305
SIGNATURE_BYTES = 64  # Ed25519
IDENTIFIERS_MAX = 2_048  # remembered: those of a large mesh, asked for again with every message; 300 bytes each
ID_BYTES = 16  # BLAKE2b-128: a second key with the same identifier costs 2^128 tries

_SIGN_PREFIX = b"mycomesh signature 1\0"  # no signature of the mesh is valid in any other protocol
_NONCE = struct.Struct("<4xQ")  # Noise section 12.3: 32 zero bits, then the counter in little-endian


def draw(entropy: Callable[[int], bytes], count: int) -> bytes:
    """`count` bytes of `entropy`, the one place where a source that returns too little is caught."""
    drawn = entropy(count)
    assert len(drawn) == count, f"the entropy source returned {len(drawn)} of {count} bytes"
    return bytes(drawn)


def static_public(private: bytes) -> bytes:
    """The X25519 public key of a private one."""
    assert len(private) == KEY_BYTES
    public: bytes = bindings.crypto_scalarmult_base(private)
    return public


def agree(private: bytes, public: bytes) -> bytes:
    """The X25519 shared secret. HandshakeError for a public key of another length or of low order (RFC 7748, 6.1)."""
    assert len(private) == KEY_BYTES
    if len(public) != KEY_BYTES:
        raise HandshakeError(f"public key has {len(public)} bytes instead of {KEY_BYTES}")
    try:
        shared: bytes = bindings.crypto_scalarmult(private, public)
    except RuntimeError:  # libsodium's answer to an all-zero shared secret
        raise HandshakeError("public key is a point of low order") from None
    return shared


def aead_seal(key: bytes, counter: int, associated: bytes, plaintext: bytes) -> bytes:
    """ChaCha20-Poly1305 (RFC 8439): the ciphertext and its tag."""
    assert len(key) == KEY_BYTES
    sealed: bytes = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, associated, _NONCE.pack(counter), key)
    return sealed


def aead_open(key: bytes, counter: int, associated: bytes, ciphertext: bytes) -> bytes:
    """The plaintext, or HandshakeError if one bit of ciphertext, tag, key, counter or associated data differs."""
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
    """The Ed25519 public key of a 32-byte seed, and libsodium's 64-byte secret form that `sign` takes."""
    assert len(seed) == KEY_BYTES
    pair: tuple[bytes, bytes] = bindings.crypto_sign_seed_keypair(seed)
    return pair


def sign(secret: bytes, domain: bytes, data: bytes) -> bytes:
    """The Ed25519 signature over `data` in `domain`: one signature can never stand for data of another domain."""
    assert len(secret) == 2 * KEY_BYTES
    signed: bytes = bindings.crypto_sign(_in_domain(domain, data), secret)
    return signed[:SIGNATURE_BYTES]


def verify(public: bytes, domain: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `public` over `data` in `domain`; any length of any input is fine."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + _in_domain(domain, data), public)
    except CryptoError:
        return False
    return True


@functools.lru_cache(maxsize=IDENTIFIERS_MAX)
def identifier(public: bytes) -> bytes:
    """The 16-byte identifier of an Ed25519 public key: a node id, or a mesh id when it is the root's."""
    return hashlib.blake2b(public, digest_size=ID_BYTES).digest()


def derive(secret: bytes, purpose: bytes, context: bytes = b"") -> bytes:
    """A 32-byte key for one purpose (at most 16 bytes of BLAKE2b personalisation) from a secret of 16..64 bytes."""
    assert 16 <= len(secret) <= hashlib.blake2b.MAX_KEY_SIZE
    return hashlib.blake2b(context, key=secret, person=purpose, digest_size=KEY_BYTES).digest()


def _in_domain(domain: bytes, data: bytes) -> bytes:
    assert domain
    assert b"\0" not in domain, "a domain ends at its first NUL"
    return b"%b%b\0%b" % (_SIGN_PREFIX, domain, data)
