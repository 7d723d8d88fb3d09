"""Selects the user tables that are replicated, by shell patterns over their names."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterable
from dataclasses import dataclass

from mycomesh.sync.sqlite.identifiers import fold

__all__ = ["OTHERS", "TableFilter", "owner_of"]

# Tables in which another program keeps its own state about this one file, by patterns over folded names. On another node that
# program would take the state for its own: a second engine's clocks would mix, and a backup would miss changes.
OTHERS = {
    "_litestream_*": "Litestream",
    "_debezium_cdc_log": "Debezium",
    "turso_cdc": "Turso",
    "turso_cdc_version": "Turso",
    "turso_sync_*": "Turso",
    "__turso_*": "Turso",
    "crsql_*": "cr-sqlite",
    "*__crsql_*": "cr-sqlite",
    "cloudsync_*": "SQLite Sync",
    "*_cloudsync": "SQLite Sync",
}


@dataclass(frozen=True, slots=True)
class TableFilter:
    """Which user tables are replicated: shell patterns over folded names; empty `only` means all but `OTHERS`.

    One of `OTHERS` is replicated only if `only` has its very name.
    """

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def admits(self, name: str) -> bool:
        """Return True if the table is replicated."""
        folded = fold(name)
        if _matches(folded, self.exclude) or self.owner(name):
            return False
        return not self.only or _matches(folded, self.only)

    def owner(self, name: str) -> str:
        """Return the other program whose table stays in this file for that reason, "" for any other table."""
        return "" if fold(name) in map(fold, self.only) else owner_of(name)


def owner_of(name: str) -> str:
    """Return the program that keeps its own state in a table of that name, "" if none is known to."""
    return _owner_of(fold(name))


@functools.lru_cache(maxsize=4_096)
def _owner_of(folded: str) -> str:  # each pass over the schema asks for each table
    return next((owner for pattern, owner in OTHERS.items() if fnmatch.fnmatchcase(folded, pattern)), "")


def _matches(folded: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(folded, fold(pattern)) for pattern in patterns)
