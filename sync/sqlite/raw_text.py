"""Text that is not UTF-8: SQLite stores it, Python's strings cannot hold it.

Owns the form such a value has everywhere above SQLite: a list of one byte string, which no other value is. What always
holds: it is read and written byte for byte, and only where plain reading may fail is the slower SQL of this module used.
A file whose text is UTF-16 has no place for such a value: there a text that is broken in its own way is read as its lone
surrogates, and what comes from others is refused like any value that a column refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["bind_value", "is_raw", "is_valid_raw", "lenient_text", "placeholder", "raw_select", "restore"]

_PROBE = "CAST('a' AS BLOB)"  # tells how a file encodes its text
_ENCODINGS = {b"a\0": "utf-16-le", b"\0a": "utf-16-be"}


def is_raw(value: Any) -> bool:
    """True for text that is not UTF-8."""
    return type(value) is list


def is_valid_raw(value: Any) -> bool:
    """Return True if a list that a peer sent is such a text: one byte string, and not UTF-8 after all."""
    if len(value) != 1 or type(value[0]) is not bytes:
        return False
    try:
        value[0].decode()
    except UnicodeDecodeError:
        return True
    return False


def placeholder(value: Any) -> str:
    """Return the SQL that a value is bound by."""
    return "CAST(? AS TEXT)" if is_raw(value) else "?"


def bind_value(value: Any) -> Any:
    """Return what is bound to `placeholder(value)`."""
    return value[0] if is_raw(value) else value


def raw_select(expression: str) -> str:
    """Return SQL for two columns that `restore` makes one value of."""
    is_text = f"CASE WHEN typeof({expression}) = 'text' THEN"
    return f"{is_text} CAST({expression} AS BLOB) ELSE {expression} END, {is_text} {_PROBE} END"


def restore(cells: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values of columns selected by `raw_select`."""
    return tuple(_value(cell, probe) for cell, probe in zip(cells[::2], cells[1::2], strict=True))


def lenient_text(value: Any) -> str:
    """Return a text in which what is not UTF-8 stands for itself: good for comparing and showing, not for SQL."""
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
