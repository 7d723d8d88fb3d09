"""Access rights: which node may read and write which tables, and which areas of those that are cut.

Grants are (16-byte node id, ((pattern, rights), ...)). The first pattern that matches decides. `telemetry` matches a table with
all its areas, `telemetry[7]` an area of it alone; both parts take `*` and `?`. A node without an entry may do everything, because
its rows may be older than its rights.
"""

from __future__ import annotations

from functools import lru_cache

from mycomesh.sync.schema.interests import states_own_interest
from mycomesh.sync.wire.bundle import Bundle
from mycomesh.sync.wire.units import area_pattern, matches, split_unit

__all__ = ["Grants", "Rights"]

Grants = tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]


class Rights:
    """The rights of all nodes. `grants` lists the nodes that do not have all rights; `own` is the id of this node."""

    __slots__ = ("_grants", "own")

    def __init__(self, own: bytes, grants: Grants = ()) -> None:
        self.own = own
        self._grants = dict(grants)

    @property
    def own_grants(self) -> tuple[tuple[str, str], ...] | None:
        """The grants of this node; None if it has all rights."""
        return self._grants.get(self.own)

    def may_write(self, node: bytes, name: str) -> bool:
        """Return True if other nodes accept changes of a table, or of a unit by its name on the wire, from that node."""
        grants = self._grants.get(node)
        return grants is None or "w" in _rights(grants, name)

    def may_read(self, node: bytes, name: str) -> bool:
        """Return True if that node receives the changes of a table or unit."""
        grants = self._grants.get(node)
        return grants is None or "r" in _rights(grants, name)

    def is_limited(self, node: bytes) -> bool:
        """Return True if the node lacks some right."""
        return node in self._grants

    def names_areas(self, node: bytes) -> bool:
        """Return True if the node may do other things in some area than in its table."""
        return any(area_pattern(pattern) for pattern, _ in self._grants.get(node, ()))

    def member_may_write(self, member: bytes, table: str) -> bool:
        """Return True if the member may write a table whose node id begins so, as its sites do."""
        return all(self.may_write(node, table) for node in self._grants if node.startswith(member))

    def forbidden_tables(self, batches: list[bytes]) -> list[str]:
        """Return the tables in batches of this node that it may not write, which other nodes therefore refuse."""
        if self.own not in self._grants:
            return []
        parts = [part for batch in batches for part in Bundle.decode(batch).sections if part.groups]
        tables = dict.fromkeys(part.table for part in parts if not states_own_interest(part, self.own))
        return [table for table in tables if not self.may_write(self.own, table)]

    def drop_forbidden(self, bundle: Bundle, writer: bytes, *, live: bool) -> list[str]:
        """Remove the sections of tables that `writer` may not write, and return these tables.

        Sections of tables that this node may not read are removed too, and not returned. A section goes as a whole, so that
        none of its ranges is covered. In a live batch any member may state its interest.
        """
        refused = [
            part.table
            for part in bundle.sections
            if not self.may_write(writer, part.table) and not (live and states_own_interest(part, writer))
        ]
        kept = [part for part in bundle.sections if part.table not in refused and self.may_read(self.own, part.table)]
        bundle.sections[:] = kept
        return refused


@lru_cache(maxsize=4_096)
def _rights(grants: tuple[tuple[str, str], ...], name: str) -> str:
    table, area = split_unit(name) or (name, None)
    return next((rights for pattern, rights in grants if matches(pattern, table, area)), "-")
