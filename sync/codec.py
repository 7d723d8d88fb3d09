"""Strict CBOR (RFC 8949) for everything that peers send about tables.

The accepted subset is integers of 64 bits, floats, text, byte strings, null and arrays.
Invariant: `decode` accepts no tag, map, indefinite item or trailing byte, and no deeper nesting than `DEPTH_MAX`.

A list is one byte on the wire and some 90 in CPython, so a message of many small items is measured before it is decoded
(`OBJECTS_BYTES_MAX`).

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
    "OBJECTS_BYTES_MAX",
    "PLAIN",
    "ItemCounter",
    "Walk",
    "array_head",
    "bytes_head",
    "decode",
    "encode",
    "encode_array",
    "is_array",
    "is_bytes",
    "is_int",
    "is_small",
    "require",
    "string_at",
]

# The deepest message (message, bundle, sections, section, groups, group, priors, prior, part, columns) is ten arrays.
DEPTH_MAX = 10
# Memory of the objects of one message, beside the contents of its strings. An honest chunk of a MiB that has cells of two letters
# takes 25 MB. Without a limit a message of 24 MiB takes 2.2 GB and 11 s, and compression makes it 24 KB on the wire.
OBJECTS_BYTES_MAX = 32 << 20
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


def decode(data: bytes, *, bytes_max: int, own: bool = False) -> Any:
    """Return the decoded value of one CBOR item that fills `data` exactly. `own` data may have any number of items.

    Raises:
        DecodeError: `data` is longer than `bytes_max`, malformed, outside the subset, of too many items, or has trailing bytes.
    """
    if len(data) > bytes_max:
        raise DecodeError(f"message of {len(data)} bytes is over the limit of {bytes_max}")
    measured = not own and not is_small(data)
    if measured:
        _measure(data)
    # A stream says where the item ends, and is read in pieces: of a large message they leave the heap twice as large.
    stream = None if measured else io.BytesIO(data)
    source = data if stream is None else stream
    try:
        value = (cbor2.loads if stream is None else cbor2.load)(
            source,  # type: ignore[arg-type]
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_NO_TAGS,
            object_hook=_refuse_map,
        )
    except DecodeError:
        raise
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DecodeError(f"malformed CBOR: {error}") from error
    if stream is not None and stream.tell() != len(data):
        raise DecodeError("trailing bytes after the CBOR item")
    return value


# Bytes of an item in CPython on 64 bits, with its place in a list.
_LIST_BYTES = 96
_NUMBER_BYTES = 40
_STRING_BYTES = 80
_PLACE_BYTES = 8  # small integers and null are shared
# The most bytes that one byte of a message takes as anything else than the head of a list: as one of a string of two.
_BYTE_BYTES = 27
_LIST_HEADS = bytes(range(0x80, 0x9C))


def _shape(head: int) -> tuple[int, int, int]:
    """Return (bytes before the contents, bytes of contents, memory) of an item by its first byte.

    The contents of a string are -1 if its length follows. Items outside the subset count as one byte, and end the decoder.
    """
    major, low = head >> 5, head & 31
    if low > 27:
        return 1, 0, _PLACE_BYTES
    argument = 1 << low - 24 if low >= 24 else 0
    match major:
        case 2 | 3:
            memory = _STRING_BYTES if low > 1 else _PLACE_BYTES
            return 1 + argument, -1 if argument else low, memory
        case 4:
            return 1 + argument, 0, _LIST_BYTES
        case 0 | 1 | 7:
            return 1 + argument, 0, _NUMBER_BYTES if argument > 1 else _PLACE_BYTES
        case _:
            return 1, 0, _PLACE_BYTES


_SHAPES = [_shape(head) for head in range(256)]


def is_small(data: bytes) -> bool:
    """Return True if `data` cannot take more than `OBJECTS_BYTES_MAX`, whatever its bytes mean."""
    if len(data) * _LIST_BYTES <= OBJECTS_BYTES_MAX:
        return True
    if len(data) * _BYTE_BYTES > OBJECTS_BYTES_MAX:
        return False
    lists = len(data) - len(data.translate(None, _LIST_HEADS))
    return lists * _LIST_BYTES + (len(data) - lists) * _BYTE_BYTES <= OBJECTS_BYTES_MAX


def _measure(data: bytes) -> None:
    """Raise `DecodeError` if `data` has trailing bytes, or items that take more than `OBJECTS_BYTES_MAX`; make none of them."""
    walk = Walk(data)
    walk.skip()
    if walk.at < len(data):
        raise DecodeError("trailing bytes after the CBOR item")


class Walk:
    """Steps over the items of a message, which are counted (`OBJECTS_BYTES_MAX`) and not made.

    Items outside the subset count as one byte: whatever follows is noise then, and ends the decoder.
    """

    __slots__ = ("_data", "_left", "at")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._left = OBJECTS_BYTES_MAX
        self.at = at  # the first byte that no step has passed; beyond the end of a message that is cut off

    def array(self) -> int | None:
        """Step over the head of an array and return how many items follow; stay and return None at anything else."""
        data, at = self._data, self.at
        if at >= len(data) or not 0x80 <= data[at] < 0x9C:
            return None
        before = _SHAPES[data[at]][0]
        self.at += before
        self._left -= _LIST_BYTES
        return data[at] & 31 if before == 1 else int.from_bytes(data[at + 1 : at + before], "big")

    def skip(self) -> int:
        """Step over one item with all that is in it; return where it begins.

        Raises:
            DecodeError: the items so far take more than `OBJECTS_BYTES_MAX`.
        """
        data, start, left, shapes = self._data, self.at, self._left, _SHAPES
        at, end = start, len(data)
        items = 1  # to come
        while items and at < end:
            head = data[at]
            before, contents, memory = shapes[head]
            items -= 1
            if 0x80 <= head < 0x9C:
                items += head & 31 if before == 1 else int.from_bytes(data[at + 1 : at + before], "big")
            elif contents < 0:
                contents = int.from_bytes(data[at + 1 : at + before], "big")
            at += before + contents
            left -= memory
            if left < 0:
                raise DecodeError(f"message has more items than {OBJECTS_BYTES_MAX} bytes of memory hold")
        self.at, self._left = at if not items else end + 1, left
        return start


class ItemCounter:
    """Counts the items of a message that comes in pieces (`OBJECTS_BYTES_MAX`), so that no more of it is unpacked than needed."""

    __slots__ = ("_ahead", "_left", "_rest")

    def __init__(self) -> None:
        self._left = OBJECTS_BYTES_MAX
        self._rest = b""  # the beginning of a head
        self._ahead = 0  # bytes to come of the contents of a string

    def feed(self, piece: bytes) -> None:
        """Count the items of the next piece.

        Raises:
            DecodeError: the items so far take more than `OBJECTS_BYTES_MAX`.
        """
        data, left, shapes = self._rest + piece, self._left, _SHAPES
        at, end = self._ahead, len(data) - 8  # a head has nine bytes at most
        while at < end:
            before, contents, memory = shapes[data[at]]
            if contents < 0:
                contents = int.from_bytes(data[at + 1 : at + before], "big")
            at += before + contents
            left -= memory
            if left < 0:
                raise DecodeError(f"message has more items than {OBJECTS_BYTES_MAX} bytes of memory hold")
        self._rest, self._ahead, self._left = data[at:], max(0, at - len(data)), left


def string_at(data: bytes, start: int, end: int) -> str | bytes | None:
    """Return the string whose item is `data[start:end]`, copied once, None if it is another item.

    Raises:
        DecodeError: a text is not UTF-8.
    """
    head = data[start]
    if head >> 5 not in (2, 3) or head & 31 > 27:
        return None
    contents = start + _SHAPES[head][0]
    if head >> 5 == 2:
        return data[contents:end]
    try:
        return str(memoryview(data)[contents:end], "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"malformed CBOR: {error}") from error


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
