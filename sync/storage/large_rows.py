"""Large rows: splits a row that is too large for one message into several changes, and finds what is too large to send at all.

Every change that is stamped can be sent, so no row keeps the changes behind it from arriving. A value can be too large for a
message. A key cannot be divided and is in the row, the change log, their indexes and each record, so its limit is lower (ADR 95).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.raw_text import is_raw
from mycomesh.sync.storage.table import Table

__all__ = ["CHANGE_BYTES_MAX", "KEY_BYTES_MAX", "bytes_of", "has_large_key", "large_keys", "oversized", "portions"]

# A change is sent behind the rest of its chunk, about a MiB; a bundle may have 24 MiB.
CHANGE_BYTES_MAX = 20 << 20
KEY_BYTES_MAX = 64 << 10  # of the primary key of a row, as it is encoded: 5 ms under the write lock


def oversized(table: Table, present: Mapping[str, Any]) -> int:
    """Return the mask of columns whose values are too large to send."""
    keys = {column.folded for column in table.spec.key}
    return table.columns.mask_of(
        [name for name, value in present.items() if bytes_of(value) > CHANGE_BYTES_MAX and name not in keys]
    )


def has_large_key(row: Any) -> bool:
    """Return True if a row of this name, or key, is one that stays on its node unless the change log knows it."""
    return type(row) is bytes and len(row) > KEY_BYTES_MAX


def large_keys(table: Table, keys: Iterable[Any]) -> list[bytes]:
    """Return those keys that are too large, but for rows that the change log knows from versions without the limit."""
    large = [key for key in keys if type(key) is bytes and len(key) > KEY_BYTES_MAX]
    return [key for key in large if not table.log.entries_of_row(key)]


def portions(table: Table, mask: int, present: Mapping[str, Any]) -> list[int]:
    """Return the masks of changes that can be sent each; the first has the key and the smallest values."""
    keys = {column.folded for column in table.spec.key}
    names = table.columns.names_of(mask & ~EXISTENCE)
    parts, room = [mask & EXISTENCE], CHANGE_BYTES_MAX
    for name in sorted(names, key=lambda name: (name not in keys, bytes_of(present[name]), name)):
        size = bytes_of(present[name])
        if size > room:
            parts.append(0)
            room = CHANGE_BYTES_MAX
        parts[-1] |= 1 << table.columns.bits[name]
        room -= size
    return [part for part in parts if part]


def bytes_of(value: Any) -> int:
    """Return about how many bytes a value takes in a message."""
    if type(value) is str:
        return len(value.encode())
    return len(value[0]) if is_raw(value) else len(value) if type(value) is bytes else 8
