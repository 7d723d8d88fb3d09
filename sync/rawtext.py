"""Text that is not UTF-8: SQLite stores it, Python's strings cannot hold it.

Owns the form such a value has everywhere above SQLite: a list of one byte string, which no other value is. What always
holds: it is read and written byte for byte, and only where plain reading has failed is the slower SQL of this module used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["bound", "is_raw", "is_valid_raw", "mark", "raw_select", "restored"]


def is_raw(value: Any) -> bool:
    """True for text that is not UTF-8."""
    return type(value) is list


def is_valid_raw(value: Any) -> bool:
    """True if a list that a peer sent is such a text: one byte string, and not UTF-8 after all."""
    if len(value) != 1 or type(value[0]) is not bytes:
        return False
    try:
        value[0].decode()
    except UnicodeDecodeError:
        return True
    return False


def mark(value: Any) -> str:
    """Returns the SQL that a value is bound by."""
    return "CAST(? AS TEXT)" if is_raw(value) else "?"


def bound(value: Any) -> Any:
    """Returns what is bound to `mark(value)`."""
    return value[0] if is_raw(value) else value


def raw_select(expression: str) -> str:
    """Returns SQL for two columns that `restored` makes one value of."""
    is_text = f"typeof({expression}) = 'text'"
    return f"CASE WHEN {is_text} THEN CAST({expression} AS BLOB) ELSE {expression} END, {is_text}"


def restored(cells: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the values of columns selected by `raw_select`."""
    return tuple(_value(cell, is_text=is_text) for cell, is_text in zip(cells[::2], cells[1::2], strict=True))


def _value(cell: Any, *, is_text: int) -> Any:
    if not is_text:
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return [cell]
