"""Counters of a bridge: sent, received, refused, duplicates and more, since its process started."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Figures"]

# Always there, so that a graph of them begins at 0.
NAMES = ("sent", "received", "refused", "duplicates", "dropped", "echoes", "republished", "bytes", "reconnects")


class Figures:
    """Counters by name."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Take a function that is called after each count, on the thread of the caller."""
        self.values: dict[str, float] = dict.fromkeys(NAMES, 0)
        self._on_change = on_change

    def add(self, name: str, count: int = 1) -> None:
        """Count so many more."""
        self.values[name] = self.values.get(name, 0) + count
        self._on_change()
