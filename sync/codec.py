"""Strict CBOR (RFC 8949) for everything that peers send about tables.

The accepted subset is integers of 64 bits, floats, text, byte strings, null and arrays.
Invariant: `decode` accepts no tag, map, indefinite item or trailing byte, and no deeper nesting than `DEPTH_MAX`.

`decode` does not walk the value that it returns, so booleans and other simple values pass it. Each reader checks its values
against `PLAIN` or a narrower type.
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
    "array_head",
    "bytes_head",
    "decode",
    "encode",
    "encode_array",
    "is_array",
    "is_bytes",
    "is_int",
    "require",
]

# The deepest message (message, bundle, sections, section, groups, group, priors, prior, part, columns) is ten arrays.
DEPTH_MAX = 10
# The exact types of SQLite's values. Python's bool is a subclass of int, but not a value that SQLite stores.
PLAIN = frozenset({int, float, str, bytes, type(None)})


class _NoTags(dict[int, Callable[..., Any]]):
    """A table of tag decoders that knows every tag and refuses it, so that no hostile tag runs a decoder."""

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


# Return the canonical CBOR of nested sequences of SQLite values. All callers share one encoder, because creating one takes a
# quarter of the time that encoding a short row does. It runs no Python while it encodes such values, so two threads cannot
# interleave in it.
encode: Callable[[object], bytes] = cbor2.CBOREncoder(io.BytesIO(), canonical=True).encode_to_bytes


def array_head(count: int) -> bytes:
    """Return the head of an array of `count` items (RFC 8949, section 3: major type 4)."""
    return _head(0x80, count)


@functools.lru_cache(maxsize=64)
def bytes_head(length: int) -> bytes:
    """Return the head of a byte string (RFC 8949, section 3: major type 2), which `encode` puts before the bytes."""
    return _head(0x40, length)


def _head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes([major | count])
    size = (count.bit_length() + 7) // 8
    width = 1 << (size - 1).bit_length()
    return bytes([major + 24 + width.bit_length() - 1]) + count.to_bytes(width, "big")


def encode_array(items: Sequence[bytes]) -> bytes:
    """Return the CBOR array of items that are already encoded."""
    return array_head(len(items)) + b"".join(items)


def decode(data: bytes, *, bytes_max: int) -> Any:
    """Return the decoded value of one CBOR item that fills `data` exactly.

    Raises:
        DecodeError: `data` is longer than `bytes_max`, malformed, outside the subset, or has trailing bytes.
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


def require(condition: object, fault: str) -> None:
    """Raise `DecodeError(fault)` unless a peer's value meets the condition."""
    if not condition:
        raise DecodeError(fault)


def is_int(value: object, low: int = 0, high: int = (1 << 63) - 1) -> bool:
    """Return True for a plain integer within the bounds; a boolean is not an integer here."""
    return type(value) is int and low <= value <= high


def is_bytes(value: object, length: int) -> bool:
    """Return True for a byte string of exactly that length."""
    return type(value) is bytes and len(value) == length


def is_array(value: object, length: int | None = None) -> bool:
    """Return True for a CBOR array, of that length if one is given."""
    return type(value) is list and (length is None or len(value) == length)
