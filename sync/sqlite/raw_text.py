"""Read and write text that is not valid UTF-8, which SQLite stores and a Python string cannot hold.

Above SQLite such a value is a list of one byte string; no other value is a list. It is read and written byte for byte. The
SQL of this module is slower than plain SQL, so callers use it only where plain reading may fail.

A file whose encoding is UTF-16 cannot store such a value, and a write of one fails like a violated constraint. Text that is
invalid UTF-16 is read with its lone surrogates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["bind_value", "is_raw", "is_valid_raw", "lenient_text", "placeholder", "raw_select", "restore"]

_PROBE = "CAST('a' AS BLOB)"  # its bytes show how a file encodes text
_ENCODINGS = {b"a\0": "utf-16-le", b"\0a": "utf-16-be"}


def is_raw(value: Any) -> bool:
    """Return True for text that is not UTF-8."""
    return type(value) is list


def is_valid_raw(value: Any) -> bool:
    """Return True if a list that a peer sent is such a value: one byte string that is indeed not UTF-8."""
    if len(value) != 1 or type(value[0]) is not bytes:
        return False
    try:
        value[0].decode()
    except UnicodeDecodeError:
        return True
    return False


def placeholder(value: Any) -> str:
    """Return the SQL placeholder for a value."""
    return "CAST(? AS TEXT)" if is_raw(value) else "?"


def bind_value(value: Any) -> Any:
    """Return the value to bind to `placeholder(value)`."""
    return value[0] if is_raw(value) else value


def raw_select(expression: str) -> str:
    """Return SQL that selects a value as two columns, from which `restore` makes one again."""
    is_text = f"CASE WHEN typeof({expression}) = 'text' THEN"
    return f"{is_text} CAST({expression} AS BLOB) ELSE {expression} END, {is_text} {_PROBE} END"


def restore(cells: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values of the columns that `raw_select` selected."""
    return tuple(_value(cell, probe) for cell, probe in zip(cells[::2], cells[1::2], strict=True))


def lenient_text(value: Any) -> str:
    """Return a value as a string, with surrogates for bytes that are not UTF-8: to compare and display, not for SQL."""
    return value[0].decode(errors="surrogateescape") if is_raw(value) else str(value)


def _value(cell: Any, probe: bytes | None) -> Any:
    if probe is None:
        return cell
    encoding = _ENCODINGS.get(probe)
    if encoding is not None:
        cell = cell.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return [cell]
