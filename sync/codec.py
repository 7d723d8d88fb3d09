"""Strict CBOR (RFC 8949) for everything a peer sends about tables, and the keyed digest of one change.

Owns the accepted subset: integers of 64 bits, floats, text, byte strings, null and arrays. What always holds: no tag, map,
indefinite item or trailing byte is accepted, and nesting is bounded. Booleans and other simple values pass `decode`, which
does not walk what it decodes, and stop at the readers: each checks its values against `PLAIN` or a narrower type. It must
not know what the values mean.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cbor2

from mycomesh.sync.errors import DecodeError

__all__ = [
    "DEPTH_MAX",
    "PLAIN",
    "array",
    "bytes_head",
    "decode",
    "encode",
    "head",
    "is_array",
    "is_bytes",
    "is_int",
    "require",
]

# The deepest message (message, bundle, sections, section, groups, group, priors, prior, part, columns) is ten arrays.
DEPTH_MAX = 10
# The types of SQLite's values, as exact types: a bool is an int to Python, and not a value of SQLite's.
PLAIN = frozenset({int, float, str, bytes, type(None)})


class _NoTags(dict[int, Callable[..., Any]]):
    """A decoder table in which every tag is known and every tag is refused: no hostile tag ever runs code."""

    def get(self, _key: object, _default: object = None) -> Callable[..., Any]:
        return _refuse_tag

    def __getitem__(self, _key: int) -> Callable[..., Any]:
        return _refuse_tag

    def __contains__(self, _key: object) -> bool:
        return True


def _refuse_tag(*_args: object, **_kwargs: object) -> NoReturn:
    raise DecodeError("CBOR tags are not allowed here")


def _refuse_map(*_args: object) -> NoReturn:
    raise DecodeError("CBOR maps are not allowed here")


_NO_TAGS = _NoTags()


# Returns the canonical CBOR of nested sequences of SQLite values. One encoder for all: to make one takes a quarter of the time
# that a short row does. It runs no Python while it encodes such values, so threads do not meet in it.
encode: Callable[[object], bytes] = cbor2.CBOREncoder(io.BytesIO(), canonical=True).encode_to_bytes


def head(count: int) -> bytes:
    """Return the head of an array of `count` items (RFC 8949, section 3: major type 4)."""
    return _head(0x80, count)


@functools.lru_cache(maxsize=64)
def bytes_head(length: int) -> bytes:
    """Return the head of a byte string (RFC 8949, section 3: major type 2): with it the bytes are what `encode` gives."""
    return _head(0x40, length)


def _head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes([major | count])
    size = (count.bit_length() + 7) // 8
    width = 1 << (size - 1).bit_length()
    return bytes([major + 24 + width.bit_length() - 1]) + count.to_bytes(width, "big")


def array(items: Sequence[bytes]) -> bytes:
    """Return the array of items that are encoded already."""
    return head(len(items)) + b"".join(items)


def decode(data: bytes, *, bytes_max: int) -> Any:
    """Return the decoded value of one CBOR item that fills `data` exactly.

    Raises:
        DecodeError: too long, malformed, trailing bytes, tags, maps, or nested deeper than `DEPTH_MAX`.
    """
    if len(data) > bytes_max:
        raise DecodeError(f"message of {len(data)} bytes is over the limit of {bytes_max}")
    stream = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        stream,
        max_depth=DEPTH_MAX,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        semantic_decoders=_NO_TAGS,
        object_hook=_refuse_map,
    )
    try:
        value = decoder.decode()
    except DecodeError:
        raise
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(f"malformed CBOR: {error}") from error
    if stream.tell() != len(data):
        raise DecodeError("trailing bytes after the CBOR item")
    return value


def require(condition: object, what: str) -> None:
    """Raise `DecodeError(what)` unless the peer's value is as the protocol says."""
    if not condition:
        raise DecodeError(what)


def is_int(value: object, low: int = 0, high: int = (1 << 63) - 1) -> bool:
    """True for a plain integer within the bounds (booleans are not integers here)."""
    return type(value) is int and low <= value <= high


def is_bytes(value: object, length: int) -> bool:
    """True for a byte string of exactly that length."""
    return type(value) is bytes and len(value) == length


def is_array(value: object, length: int | None = None) -> bool:
    """True for a CBOR array, of that length if one is given."""
    return type(value) is list and (length is None or len(value) == length)
