"""Names in SQL: how SQLite compares them, how they are written, and which of them are ours.

It must not know what is named.
"""

from __future__ import annotations

import functools
import re

__all__ = ["INTERNAL_PREFIX", "NAME_MAX", "fold", "is_ours", "quoted"]

NAME_MAX = 256

INTERNAL_PREFIX = "mycomesh_"
_TABLES = re.compile(
    r"mycomesh_((pending|changes|runs)_\d+"
    r"|meta|sites|replicated|names|vectors|collected|held|schema|conflicts|moved|parked|sweeps|mark|status|peers|tables)"
)

_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@functools.lru_cache(maxsize=4_096)
def fold(name: str) -> str:
    """Return the name with ASCII letters lowered, as SQLite compares identifiers."""
    return name.translate(_FOLD)


def is_ours(table: str) -> bool:
    """True for the name of an internal table."""
    return _TABLES.fullmatch(table) is not None


def quoted(name: str) -> str:
    """Return the identifier in double quotes, safe in SQL whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
