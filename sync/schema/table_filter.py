"""Selects the user tables that are replicated, by shell patterns over their names."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from mycomesh.sync.sqlite.identifiers import fold

__all__ = ["TableFilter"]


@dataclass(frozen=True, slots=True)
class TableFilter:
    """Which user tables are replicated: shell patterns over folded names; empty `only` means all."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def admits(self, name: str) -> bool:
        """Return True if the table is replicated."""
        folded = fold(name)
        if any(fnmatch.fnmatchcase(folded, fold(pattern)) for pattern in self.exclude):
            return False
        return not self.only or any(fnmatch.fnmatchcase(folded, fold(pattern)) for pattern in self.only)
