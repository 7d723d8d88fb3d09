"""Large rows: splits a row that is too large for one message into several changes, and finds values too large to send at all.

Every change that is stamped can be sent, so no row keeps the changes behind it from arriving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.raw_text import is_raw
from mycomesh.sync.storage.table import Table

__all__ = ["CHANGE_BYTES_MAX", "bytes_of", "oversized", "portions"]

# A change is sent behind the rest of its chunk, about a MiB; a bundle may have 24 MiB.
CHANGE_BYTES_MAX = 20 << 20


def oversized(table: Table, present: Mapping[str, Any]) -> int:
    """Return the mask of columns whose values are too large to send."""
    keys = {column.folded for column in table.spec.key}
    return table.columns.mask_of(
        [name for name, value in present.items() if bytes_of(value) > CHANGE_BYTES_MAX and name not in keys]
    )


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
