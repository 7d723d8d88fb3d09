"""Names in SQL: how SQLite compares them, and how they are written.

Owns nothing but these two. It must not know what is named.
"""

from __future__ import annotations

import functools

__all__ = ["fold", "quoted"]

_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@functools.lru_cache(maxsize=4_096)
def fold(name: str) -> str:
    """Returns the name with ASCII letters lowered, as SQLite compares identifiers."""
    return name.translate(_FOLD)


def quoted(name: str) -> str:
    """Returns the identifier in double quotes, safe in SQL whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
