"""Which statements stay prepared: a cached one keeps the values that it was run with last, however large.

The connection caches 100 statements, and each set of columns that a member writes is one of its own. So a statement with large
values is prepared for that one time (`can_cache` of apsw), and its values can be handed over (`Large`): SQLite copies each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

__all__ = ["VALUE_KEPT_MAX", "Large", "may_stay"]

VALUE_KEPT_MAX = 1 << 16  # bytes of a value that may stay in memory with its statement
_SIZED = frozenset((str, bytes))


def may_stay(values: Collection[Any]) -> bool:
    """Return True if a statement may be cached after it was run with these values."""
    for value in values:  # noqa: SIM110 - runs for each written row, where all() would take three times as long
        if type(value) in _SIZED and len(value) > VALUE_KEPT_MAX:
            return False
    return True


class Large(Mapping[str, Any]):
    """Values of a statement by the names of its parameters, of which each is forgotten once SQLite has its copy."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, Any]) -> None:
        """Take a dictionary that nobody else has."""
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values.pop(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
