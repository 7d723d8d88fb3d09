"""Which tables go first on a link that is slower than the writes.

Owns the patterns of one node, and the cut of what it stamps into batches. What always holds: all that this node tells of one
table is in one class, so that no batch overtakes an earlier one of the same table, which would leave a gap there; where some
table is urgent, definitions are too, for its rows need them. It must not know links.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.wire.bundle import BUNDLE_BYTES_MAX, Bundle, Section

__all__ = ["Priority", "UrgentBatch"]


class UrgentBatch(bytes):
    """A batch of urgent tables alone; to everyone but `Turn.publish` it is bytes like any other."""

    __slots__ = ()


class Priority:
    """The urgent tables of one file: shell patterns over the names that tables have here. No pattern: nothing is urgent."""

    __slots__ = ("_catalog", "_patterns")

    def __init__(self, catalog: Catalog, patterns: Sequence[str]) -> None:
        self._catalog = catalog
        self._patterns = tuple(map(fold, patterns))

    def is_urgent(self, name: str) -> bool:
        """Return True if the table that the mesh calls so goes first."""
        if not self._patterns:
            return False
        table = self._catalog.tables.get(name)
        shown = name if table is None else fold(table.spec.name)
        return name == SCHEMA_TABLE or any(fnmatch.fnmatchcase(shown, pattern) for pattern in self._patterns)

    def batches(self, sections: Sequence[Section]) -> list[bytes]:
        """Return what one transaction has stamped as at most two batches, that of the urgent tables first.

        What is larger than any message is no batch: rounds bring it, in pieces.
        """
        urgent = [section for section in sections if self.is_urgent(section.table)]
        others = [section for section in sections if not self.is_urgent(section.table)]
        found: list[bytes] = []
        if urgent:
            found.append(UrgentBatch(Bundle(urgent).encode()))
        if others:
            found.append(Bundle(others).encode())
        return [batch for batch in found if len(batch) <= BUNDLE_BYTES_MAX]
