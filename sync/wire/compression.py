"""Compression of rows on the wire: zlib (RFC 1950) at its fastest level, where it pays (ADR 0008).

Invariant: `unpack(*pack(data)) == data`, and no packed message makes this node allocate more than a bundle's limit.
"""

from __future__ import annotations

import zlib

from mycomesh.sync.codec import ItemCounter
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire.bundle import BUNDLE_BYTES_MAX

__all__ = ["PACK_BYTES_MIN", "pack", "unpack"]

# A shorter message takes one or two network packets anyway.
PACK_BYTES_MIN = 2_048
# Data that compresses less than this (images, ciphertext) is sent as it is, which saves the receiver the work.
_WORTH = 7 / 8
_STEP_BYTES = 2 << 20  # unpacked at once: more than all chunks but those with a large value
# Level 1 packs rows of a fleet to 33 % at 186 MB/s. Level 6 takes three times as long and gains 1 %.
_LEVEL = 1


def pack(data: bytes) -> tuple[int, bytes]:
    """Return (1, compressed bytes), or (0, `data`) where compression does not pay."""
    if len(data) < PACK_BYTES_MIN:
        return 0, data
    packed = zlib.compress(data, _LEVEL)
    return (1, packed) if len(packed) < _WORTH * len(data) else (0, data)


def unpack(packed: int, data: bytes) -> bytes:
    """Return the original of packed data, which is CBOR.

    Raises:
        DecodeError: damaged or trailing bytes, too large a result, or one of too many items.
    """
    if not packed:
        return data
    reader = zlib.decompressobj()
    try:
        result = reader.decompress(data, _STEP_BYTES)
        size, rest, counter = len(result), reader.unconsumed_tail, ItemCounter()
        if rest:
            counter.feed(result)
        while rest and size <= BUNDLE_BYTES_MAX:
            piece = reader.decompress(rest, _STEP_BYTES)
            counter.feed(piece)
            size += len(piece)
            rest = reader.unconsumed_tail
        if size > BUNDLE_BYTES_MAX or not reader.eof:
            raise DecodeError(f"compressed data is incomplete, or more than {BUNDLE_BYTES_MAX} bytes")
        if reader.unused_data:
            raise DecodeError("trailing bytes after the compressed data")
        # With the size known, zlib makes the result in place. Without, it joins it, which takes twice the memory.
        return result if size == len(result) else zlib.decompress(data, bufsize=size)
    except zlib.error as error:
        raise DecodeError(f"damaged compression: {error}") from error
