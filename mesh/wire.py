"""Canonical CBOR for handshake payloads and mesh messages, with a strict decoder.

A value has one encoding, so nodes can compare, hash and sign the bytes. Decoding takes up to about 70 times `bytes_max` of
memory, because an empty list is one byte on the wire and 64 in CPython; so every caller passes a `bytes_max` that fits its
message, and the items of a large one are counted first.

Invariants: `decode(data)` returns a value only if `encode(value) == data`; any input gives a `Value` or a `DecodeError`, never
another exception.

RFC 8949, sections 4.2 (deterministic encoding) and 5.3 (validity).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import cbor2

from mycomesh.mesh.errors import DecodeError, LimitError

__all__ = ["DEPTH_MAX", "INT_MAX", "INT_MIN", "ITEMS_MAX", "Value", "decode", "decode_record", "encode"]

DEPTH_MAX = 8  # nested containers: the deepest message, a list of link-states, needs 4
ITEMS_MAX = 65_536  # the largest message is a list of some thousand byte strings; so many empty lists take 4 MB
INT_MIN = -(2**63)  # int64: below it, SQLite and peers in other languages would need big integers
INT_MAX = 2**64 - 1  # uint64: counters and nonces may use the upper half

_TYPE_NAMES = {dict: "map", list: "list", int: "integer", float: "float", str: "text", bytes: "bytes", bool: "bool"}

Value = int | float | str | bytes | bool | None | list[Any] | dict[str, Any]


def encode(value: Value | tuple[Any, ...]) -> bytes:
    """Return the canonical bytes of `value`: shortest forms, sorted map keys, definite lengths. A tuple becomes a list.

    Raises:
        LimitError: no peer would accept the value (NaN, an integer beyond 64 bits, another type, too deep).
    """
    fault = _fault(value, DEPTH_MAX, lists=(list, tuple))
    if fault:
        raise LimitError(f"cannot encode for the mesh: {fault}")
    return _dumps(value)


def decode(data: bytes, *, bytes_max: int, depth_max: int = DEPTH_MAX) -> Value:
    """Return the value whose canonical encoding is `data`.

    Raises:
        DecodeError: the data has more than `bytes_max` bytes, `ITEMS_MAX` items or `depth_max` nested containers, tags,
            indefinite lengths, duplicate or non-text keys, `undefined`, simple values, integers outside [INT_MIN, INT_MAX], NaN
            or infinities (no message uses them, and NaN is unequal to itself), text that is not UTF-8, a form that is longer
            than needed, or trailing bytes.
    """
    if len(data) > bytes_max:
        raise DecodeError(f"message has {len(data)} bytes, at most {bytes_max} are allowed here")
    if len(data) > ITEMS_MAX and _has_more_items(data):
        raise DecodeError(f"message has more than {ITEMS_MAX} items")
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_NO_TAGS,
            max_depth=depth_max + 1,  # cbor2 counts a scalar as a level too; _fault() counts containers alone
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError) as error:
        raise DecodeError(f"message is not valid CBOR: {_one_line(error)}") from None
    fault = _fault(value, depth_max, lists=(list,))
    if fault:
        raise DecodeError(f"message contains {fault}")
    if _dumps(value) != data:
        raise DecodeError("message is not in canonical form (longer than needed, unsorted, or followed by other bytes)")
    checked: Value = value
    return checked


def _has_more_items(data: bytes) -> bool:
    """Return True if `data` has more than `ITEMS_MAX` items, without making any of them."""
    at, count = 0, 0
    while at < len(data):
        major, low = data[at] >> 5, data[at] & 31
        after = at + 1 + (1 << low - 24 if 24 <= low <= 27 else 0)
        contents = (low if low < 24 else int.from_bytes(data[at + 1 : after], "big")) if major in (2, 3) else 0
        at = after + contents
        count += 1
        if count > ITEMS_MAX:
            return True
    return False


def decode_record(data: bytes, *, what: str, version: int, kinds: tuple[type, ...], bytes_max: int) -> list[Any]:
    """Return the fields of a record `[version, field, ...]`.

    `kinds` are the exact types of the fields; errors call the record `what`.

    Raises:
        DecodeError: the record has another version, another number of fields, or a field of another type.
    """
    value = decode(data, bytes_max=bytes_max)
    if type(value) is not list or not value or type(value[0]) is not int:
        raise DecodeError(f"{what} is not a list that begins with its version")
    if value[0] != version:
        raise DecodeError(f"{what} has version {value[0]}, this node reads version {version}: upgrade the older node")
    fields = value[1:]
    if len(fields) != len(kinds):
        raise DecodeError(f"{what} has {len(fields)} fields instead of {len(kinds)}")
    for number, (field, kind) in enumerate(zip(fields, kinds, strict=True), 1):
        if type(field) is not kind:
            raise DecodeError(f"{what}: field {number} is not {_TYPE_NAMES.get(kind, kind.__name__)}")
    return fields


def _fault(value: object, depth_left: int, lists: tuple[type, ...]) -> str:  # noqa: PLR0911, one return a type
    """Return why `value` cannot be encoded, or an empty string. `depth_left` bounds the recursion."""
    kind = type(value)
    if kind is int:
        return "" if INT_MIN <= value <= INT_MAX else "an integer beyond 64 bits"  # type: ignore[operator]
    if kind is float:
        return "" if math.isfinite(value) else "a float that is not finite"  # type: ignore[arg-type]
    if kind is str:
        return _text_fault(value)  # type: ignore[arg-type]
    if value is None or kind is bytes or kind is bool:
        return ""
    if kind not in (*lists, dict):
        return f"a value of type {kind.__name__}"
    if depth_left <= 0:
        return "containers nested too deeply"
    if kind is dict:
        return _map_fault(value, depth_left, lists)  # type: ignore[arg-type]
    for item in value:  # type: ignore[attr-defined]
        if type(item) is bytes or (type(item) is int and INT_MIN <= item <= INT_MAX):
            continue  # most items of a link-state: one call for each would cost more than all other checks
        fault = _fault(item, depth_left - 1, lists)
        if fault:
            return fault
    return ""


def _map_fault(value: dict[object, object], depth_left: int, lists: tuple[type, ...]) -> str:
    for key, item in value.items():
        if type(key) is not str:
            return f"a map key of type {type(key).__name__}"
        fault = _text_fault(key) or _fault(item, depth_left - 1, lists)
        if fault:
            return fault
    return ""


def _text_fault(text: str) -> str:
    if text.isascii():
        return ""
    # Python allows a lone surrogate in a str, UTF-8 does not.
    return "text with a lone surrogate" if any("\ud800" <= char <= "\udfff" for char in text) else ""


def _dumps(value: object) -> bytes:
    encoded: bytes = cbor2.dumps(value, canonical=True)
    return encoded


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


class _NoTags(Mapping[int, "Callable[..., Any]"]):
    """A table of tag decoders in which every tag has a decoder that refuses it.

    cbor2's own decoders compile patterns, import `email` and build cycles, so they must not even run. Releases of cbor2 differ
    in how they read the table (`get` or an index). Both end here, and tests check that no tag passes.
    """

    def __getitem__(self, tag: int) -> Callable[..., Any]:
        def refuse(*_args: object, **_kwargs: object) -> NoReturn:
            raise ValueError(f"tag {tag} is not allowed")

        return refuse

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


_NO_TAGS = _NoTags()
