"""Purged writes: what a revoked member has written since a time, and no replica keeps.

The mesh signs the orders and tells them (`RightsKnown`); the file keeps them, so that they hold before the mesh is there.
`merge.purge` removes what the file has, and a merge leaves out what arrives later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.wire.bundle import Group, filtered

__all__ = ["PurgedWrites"]

_META_KEY = "purges"


class PurgedWrites:
    """The orders of one file: for each node, the first clock that is purged. The mesh limits how many there are."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._since: dict[bytes, int] = {}  # by the first bytes of the node's sites
        self._done: dict[bytes, int] = {}  # those that this file has carried out

    def load(self) -> None:
        """Read the orders."""
        found = self._db.execute("SELECT value FROM mycomesh_meta WHERE name = ?", (_META_KEY,)).fetchone()
        for node, since, done in codec.decode(found[0], bytes_max=len(found[0])) if found else ():
            self._since[node] = since
            if done:
                self._done[node] = since

    def take(self, orders: Mapping[bytes, int], own: bytes) -> bool:
        """Take the orders by node id, without one against the node of the site `own`; return whether any is news.

        An order that was taken stays, and one that reaches further back replaces it. `save` keeps them.
        """
        news = False
        for node_id, since in orders.items():
            node = node_id[:SITE_PREFIX]
            known = self._since.get(node)
            if node == own[:SITE_PREFIX] or (known is not None and known <= since):
                continue
            self._since[node] = since
            news = True
        return news

    def save(self) -> None:
        """Write the orders; inside a transaction."""
        stored = [[node, since, self._done.get(node) == since] for node, since in sorted(self._since.items())]
        self._db.execute(
            "INSERT INTO mycomesh_meta VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            (_META_KEY, codec.encode(stored)),
        )

    def mark_done(self, node: bytes, since: int) -> None:
        """Note that the file has nothing left of what an order purges."""
        self._done[node] = since

    @property
    def waiting(self) -> list[tuple[bytes, int]]:
        """The orders that are still to be carried out: (first bytes of the node's sites, first clock), by node."""
        return sorted(order for order in self._since.items() if self._done.get(order[0]) != order[1])

    def covers(self, site: bytes, hlc: int) -> bool:
        """Return True if a write is purged."""
        since = self._since.get(site[:SITE_PREFIX])
        return since is not None and hlc >= since

    def without(self, group: Group) -> Group | None:
        """Return a group without the purged changes, None if it has no others."""
        since = self._since.get(group.site[:SITE_PREFIX]) if self._since else None
        if since is None or group.hlcs[-1] < since:
            return group
        return filtered(group, [hlc < since for hlc in group.hlcs]) if group.hlcs[0] < since else None
