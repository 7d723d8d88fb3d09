"""Purged writes: what a revoked member has written since a time, and no replica keeps.

The mesh signs the orders and tells them (`RightsKnown`); the file keeps them, so that they hold before the mesh is there.
`merge.purge` removes what the file has, and a merge leaves out what arrives later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.wire.bundle import Group, Kind, filtered

__all__ = ["PurgedWrites"]

_META_KEY = "purges"
_AGAIN = "again/"  # before the id of a table and the key of a row, in hexadecimal


class PurgedWrites:
    """The orders of one file: for each node, the first clock that is purged. The mesh limits how many there are."""

    def __init__(self, db: Any) -> None:
        self._db = db
        # Rows without a key that this node has inserted again, by table id and key (`merge.inserted_again`), or was about to. For
        # those in `late` another node's write may have arrived since, so that both have done it.
        self._again: dict[tuple[int, bytes], None] = {}
        self.late: dict[tuple[int, bytes], None] = {}
        self._since: dict[bytes, int] = {}  # by the first bytes of the node's sites
        self._done: dict[bytes, int] = {}  # those that this file has carried out

    def load(self) -> None:
        """Read the orders."""
        found = self._db.execute("SELECT value FROM mycomesh_meta WHERE name = ?", (_META_KEY,)).fetchone()
        for node, since, done in codec.decode(found[0], bytes_max=len(found[0])) if found else ():
            self._since[node] = since
            if done:
                self._done[node] = since
        listing = "SELECT name FROM mycomesh_meta WHERE name GLOB ? ORDER BY name"
        for (name,) in self._db.execute(listing, (f"{_AGAIN}*",)) if self._since else ():
            _, table_id, row = name.split("/")
            self._again[int(table_id), bytes.fromhex(row)] = None
        self.late = dict.fromkeys(self._again)  # the last run may have ended before it looked

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

    def written_again(self, table_id: int, row: bytes) -> bytes:
        """Return what this node has noted of a row that it has inserted again, b"" if it has not."""
        listing = "SELECT value FROM mycomesh_meta WHERE name = ?"
        found = self._db.execute(listing, (f"{_AGAIN}{table_id}/{row.hex()}",)).fetchone()
        return found[0] if found else b""

    def remember_again(self, table_id: int, row: bytes, written: bytes) -> None:
        """Note what this node has written into a row that it has inserted again; inside a transaction."""
        self._again[table_id, row] = None
        self.late[table_id, row] = None  # a write that had lost to its own may be of another node
        self._db.execute(
            "INSERT INTO mycomesh_meta VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            (f"{_AGAIN}{table_id}/{row.hex()}", written),
        )

    def forget_again(self, table_id: int, row: bytes) -> None:
        """Forget a row that this node has inserted again; inside a transaction."""
        self._db.execute("DELETE FROM mycomesh_meta WHERE name = ?", (f"{_AGAIN}{table_id}/{row.hex()}",))

    def note_late(self, table_id: int, group: Group) -> None:
        """Note the rows of a group that this node has inserted again."""
        if self._again and group.kind is not Kind.INSERT:
            self.late.update(
                dict.fromkeys((table_id, key) for key in group.keys or () if (table_id, key) in self._again)
            )

    def without(self, group: Group) -> Group | None:
        """Return a group without the purged changes, None if it has no others."""
        since = self._since.get(group.site[:SITE_PREFIX]) if self._since else None
        if since is None or group.hlcs[-1] < since:
            return group
        return filtered(group, [hlc < since for hlc in group.hlcs]) if group.hlcs[0] < since else None
