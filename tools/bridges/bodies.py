"""Bodies of messages: how a row is written in each format, and how columns are read from a message."""

from __future__ import annotations

import base64
import binascii
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["BodyError", "columns_of", "sql_value", "writer_of"]

DEPTH_MAX = 32  # of CBOR; a row is a map of plain values
OPS = {"insert": "c", "update": "u", "delete": "d"}  # of Debezium


class BodyError(ValueError):
    """A body has no row in it. The text says why."""


def writer_of(kind: str) -> Callable[[Mapping[str, Any]], bytes | None]:
    """Return the function that makes a body of a change, as `Change.to_json` has it; it returns None for a delete."""
    return {"row": _row, "debezium": _debezium, "cbor": _cbor}[kind]


def _row(change: Mapping[str, Any]) -> bytes | None:
    values = change["values"]
    return None if values is None else _json(values).encode()


def _cbor(change: Mapping[str, Any]) -> bytes | None:
    import cbor2  # noqa: PLC0415 -- a megabyte, for one format

    values = change["values"]
    return None if values is None else cbor2.dumps({name: _bytes_in(value) for name, value in values.items()})


def _debezium(change: Mapping[str, Any]) -> bytes | None:
    """Return Debezium's envelope. The feed does not have the row from before; a delete has the key in its place."""
    values = change["values"]
    site_hlc = change["id"].split("/")
    envelope = {
        "before": change["key"] if values is None else None,
        "after": values,
        "source": {
            "connector": "mycomesh",
            "name": change["who"],
            "ts_ms": int(site_hlc[-1 if site_hlc[-1].isdigit() else -2]) >> 16,
            "table": change["table"],
            "id": change["id"],
        },
        "op": OPS[change["op"]],
        "ts_ms": time.time_ns() // 1_000_000,
    }
    return _json(envelope).encode()


def _json(value: Any) -> str:
    """Return a value as JSON; infinity, for which JSON has no word, as SQLite writes it."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        if isinstance(value, dict):
            return "{" + ",".join(f"{json.dumps(name)}:{_json(each)}" for name, each in value.items()) + "}"
        return "9e999" if value > 0 else "-9e999"


def _bytes_in(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return base64.b64decode(value["base64"])
    return value


def columns_of(body: bytes, kind: str) -> tuple[dict[str, Any], bool]:
    """Return the columns in a body, and whether it deletes the row.

    Raises:
        BodyError: there is no object in it.
    """
    value = _from_cbor(body) if kind == "cbor" else _from_json(body)
    deletes = False
    if kind == "debezium":
        if isinstance(value, dict) and isinstance(value.get("payload"), dict):  # with the schema beside it
            value = value["payload"]
        if not isinstance(value, dict) or value.get("op") not in {*OPS.values(), "r"}:
            raise BodyError("the body is no envelope of Debezium")
        deletes = value["op"] == "d"
        value = value.get("before" if deletes else "after")
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise BodyError(f"the body is {_named(value)}, where an object with the columns belongs")
    return value, deletes


def _from_json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BodyError(f"the body is no JSON: {error}") from error


def _from_cbor(body: bytes) -> Any:
    import cbor2  # noqa: PLC0415 -- a megabyte, for one format

    try:
        value = cbor2.loads(body, max_depth=DEPTH_MAX)
    except (ValueError, RecursionError, cbor2.CBORDecodeError) as error:
        raise BodyError(f"the body is no CBOR: {error}") from error
    _weigh(value, len(body))
    return value


def _weigh(value: Any, bytes_max: int) -> None:
    """Refuse a value that is larger than its body: CBOR can name a part again and again, so that 200 bytes mean gigabytes."""
    left, waiting = bytes_max, [value]
    while waiting and left >= 0:
        each = waiting.pop()
        if isinstance(each, str | bytes | list | tuple | dict):
            left -= len(each)
        if isinstance(each, dict):
            waiting += (*each.keys(), *each.values())
        elif isinstance(each, list | tuple):
            waiting += each
    if left < 0:
        raise BodyError(
            f"the values are larger than the {bytes_max:,} bytes of the body, which repeats parts of itself"
        )


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def sql_value(value: Any) -> Any:
    """Return the value of SQL for one of JSON or CBOR; objects and arrays become JSON text, `{"base64": ...}` a blob."""
    if value is None or isinstance(value, bytes | float):
        return value
    if isinstance(value, str):
        return _stored(value)
    if isinstance(value, bool | int):
        if not -(1 << 63) <= value < 1 << 63:
            raise BodyError(f"a number of {value.bit_length()} bits is beyond 64 bits")
        return int(value)
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error as error:
            raise BodyError(f"a value is not base64: {error}") from error
    try:
        return _stored(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except (TypeError, ValueError, RecursionError) as error:
        raise BodyError(f"a value cannot be stored: {error}") from error


def _stored(text: str) -> str:
    """Return a text that SQLite can store: JSON may escape half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BodyError(f"a text has {text[error.start]!a}, which is half a character") from error
    return text


def _named(value: Any) -> str:
    kinds = {list: "an array", str: "a text", int: "a number", float: "a number", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "something else")
