"""Rights: which node may read and write which tables, as the mesh has told it.

Owns the matching of table names against patterns. What always holds: a node of which nothing was told may do everything (its
rows may be older than its rights); a node's word about a table counts only where it may write that table. It must not know
certificates or roles: what it is told is (16-byte node id, ((pattern, rights), ...)), the first pattern that matches decides.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

from mycomesh.sync.wire.bundle import Bundle

__all__ = ["Grants", "Rights"]

Grants = tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]


class Rights:
    """The rights of every node that has not all of them; `own` is this node's id."""

    __slots__ = ("_grants", "own")

    def __init__(self, own: bytes, grants: Grants = ()) -> None:
        self.own = own
        self._grants = dict(grants)

    def may_write(self, node: bytes, table: str) -> bool:
        """Whether this node's word about a table counts."""
        grants = self._grants.get(node)
        return grants is None or "w" in _rights(grants, table)

    def may_read(self, node: bytes, table: str) -> bool:
        """Whether this node is told about a table."""
        grants = self._grants.get(node)
        return grants is None or "r" in _rights(grants, table)

    def forbidden_tables(self, batches: list[bytes]) -> list[str]:
        """Which tables of these batches of our own no other node accepts."""
        if self.own not in self._grants:
            return []
        tables = dict.fromkeys(part.table for batch in batches for part in Bundle.decode(batch).sections if part.groups)
        return [table for table in tables if not self.may_write(self.own, table)]

    def drop_forbidden(self, bundle: Bundle, writer: bytes) -> list[str]:
        """Take out whole sections, so that nothing of them is covered: tables that `writer` may not write; returns these.

        Tables that this node may not read go too, without a word.
        """
        refused = [part.table for part in bundle.sections if not self.may_write(writer, part.table)]
        kept = [part for part in bundle.sections if part.table not in refused and self.may_read(self.own, part.table)]
        bundle.sections[:] = kept
        return refused


@lru_cache(maxsize=4_096)
def _rights(grants: tuple[tuple[str, str], ...], table: str) -> str:
    return next((rights for pattern, rights in grants if fnmatchcase(table, pattern)), "-")
