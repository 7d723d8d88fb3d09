"""Compression of rows on the wire: zlib (RFC 1950) at its fastest, where it pays (ADR 0008).

Owns the choice and the bound of what comes out. What always holds: `unpack(*pack(data)) == data`; no packed message makes
this node hold more than a bundle's limit. It must not know what the bytes mean.
"""

from __future__ import annotations

import zlib

from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire.bundle import BUNDLE_BYTES_MAX

__all__ = ["PACK_BYTES_MIN", "pack", "unpack"]

# Below it a message is one or two packets of a network anyway.
PACK_BYTES_MIN = 2_048
# What compresses less (images, ciphertext) is sent as it is: the other side saves the work.
_WORTH = 7 / 8
_LEVEL = 1  # 186 MB/s, 33 % left of rows of a fleet; level 6 takes three times as long for 1 % more


def pack(data: bytes) -> tuple[int, bytes]:
    """Return (1 if it is compressed, else 0; the bytes to send)."""
    if len(data) < PACK_BYTES_MIN:
        return 0, data
    packed = zlib.compress(data, _LEVEL)
    return (1, packed) if len(packed) < _WORTH * len(data) else (0, data)


def unpack(packed: int, data: bytes) -> bytes:
    """Return what was packed; raises `DecodeError` for damaged data, trailing bytes or more than a bundle may be."""
    if not packed:
        return data
    reader = zlib.decompressobj()
    try:
        result = reader.decompress(data, BUNDLE_BYTES_MAX)
    except zlib.error as error:
        raise DecodeError(f"damaged compression: {error}") from error
    if reader.unconsumed_tail or not reader.eof:
        raise DecodeError(f"compressed data is cut off, or more than {BUNDLE_BYTES_MAX} bytes")
    if reader.unused_data:
        raise DecodeError("trailing bytes after the compressed data")
    return result
