"""Canonical CBOR for everything a peer says about the mesh, and the strict decoder for it.

Owns the one encoding of a `Value` and every refusal of anything else. What always holds: `decode(data)` returns only
if `encode(result) == data`, so one value has one encoding and bytes can be compared, hashed and signed; any input gives
a `Value` or a `DecodeError`, never another exception. Memory is bounded by about 70 times `bytes_max` (an empty list is
one byte on the wire and 64 in CPython), so every caller states a `bytes_max` that fits its message.
Must not know: what the values mean. References: RFC 8949 sections 4.2 (deterministic encoding) and 5.3 (validity).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import cbor2

from mycomesh.mesh.errors import DecodeError, LimitError

__all__ = ["DEPTH_MAX", "INT_MAX", "INT_MIN", "Value", "decode", "decode_record", "encode"]

DEPTH_MAX = 8  # containers inside containers: the deepest message of the mesh needs 4, link-state records
INT_MIN = -(2**63)  # int64: below it SQLite and every peer in another language would need a bignum
INT_MAX = 2**64 - 1  # uint64: counters and nonces may use the upper half

_TYPE_NAMES = {dict: "map", list: "list", int: "integer", float: "float", str: "text", bytes: "bytes", bool: "bool"}

Value = int | float | str | bytes | bool | None | list[Any] | dict[str, Any]


def encode(value: Value | tuple[Any, ...]) -> bytes:
    """The canonical bytes of `value`: shortest forms, map keys sorted, definite lengths. A tuple is written as a list.

    Raises LimitError for a value that no peer would accept (NaN, an integer beyond 64 bits, another type, too deep).
    """
    fault = _fault(value, DEPTH_MAX, lists=(list, tuple))
    if fault:
        raise LimitError(f"cannot encode for the mesh: {fault}")
    return _dumps(value)


def decode(data: bytes, *, bytes_max: int, depth_max: int = DEPTH_MAX) -> Value:
    """The value that `data` canonically encodes, and nothing else.

    Refused with DecodeError: more than `bytes_max` bytes or `depth_max` nested containers, tags, indefinite lengths,
    duplicate or non-text keys, `undefined`, simple values, integers outside [INT_MIN, INT_MAX], NaN and infinities (no
    message of the mesh has a use for them, and NaN is unequal to itself), text that is not UTF-8, any form that is
    longer than needed, trailing bytes.
    """
    if len(data) > bytes_max:
        raise DecodeError(f"message has {len(data)} bytes, at most {bytes_max} may stand here")
    try:
        value = cbor2.loads(
            data,
            semantic_decoders=_NO_TAGS,
            max_depth=depth_max + 1,  # cbor2 counts the leaf as a level of its own; _fault() counts exactly
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError) as error:
        raise DecodeError(f"message is not valid CBOR: {_one_line(error)}") from None
    fault = _fault(value, depth_max, lists=(list,))
    if fault:
        raise DecodeError(f"message holds {fault}")
    if _dumps(value) != data:
        raise DecodeError("message is not in canonical form (longer than needed, unsorted, or followed by other bytes)")
    checked: Value = value
    return checked


def decode_record(data: bytes, *, what: str, version: int, kinds: tuple[type, ...], bytes_max: int) -> list[Any]:
    """The fields of a record `[version, field, ...]`, each exactly of its type in `kinds`; errors name it `what`."""
    value = decode(data, bytes_max=bytes_max)
    if type(value) is not list or not value or type(value[0]) is not int:
        raise DecodeError(f"{what} is not a list that begins with its version")
    if value[0] != version:
        raise DecodeError(f"{what} has version {value[0]}, this node reads version {version}: upgrade the older node")
    fields = value[1:]
    if len(fields) != len(kinds):
        raise DecodeError(f"{what} has {len(fields)} fields instead of {len(kinds)}")
    for place, (field, kind) in enumerate(zip(fields, kinds, strict=True), 1):
        if type(field) is not kind:
            raise DecodeError(f"{what}: field {place} is not {_TYPE_NAMES.get(kind, kind.__name__)}")
    return fields


def _fault(value: object, depth_left: int, lists: tuple[type, ...]) -> str:  # noqa: PLR0911, one return a type
    """What makes `value` unfit for the wire, or an empty string. Recursion is bounded by `depth_left`."""
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
            continue  # most of what link-states hold: a call for each costs more than all other checks
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
    # A lone surrogate is a str in Python and not UTF-8 anywhere.
    return "text with a lone surrogate" if any("\ud800" <= char <= "\udfff" for char in text) else ""


def _dumps(value: object) -> bytes:
    encoded: bytes = cbor2.dumps(value, canonical=True)
    return encoded


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


class _NoTags(Mapping[int, "Callable[..., Any]"]):
    """A table of tag decoders that has one for every tag, and each refuses.

    cbor2's own decoders compile patterns, import `email` and build cycles, so they must not even run. Its releases
    differ in how they ask a table (`get` or an index): both lead here, and the tests watch that no tag gets through.
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
