"""Cut of a keyed table that has rows: what the file knew of the table when it learned of the cut, and what is still to move.

The key of a row contains the column of areas, so the area of each entry follows from its key alone, also that of a delete. A node
that learns of the cut gives each entry the site of its area in place of the site that it had. The new site is the old one, mixed
with a hash of table, column and area: every node computes the same one, and from it the old one again.

The file covers in every area all that it covered before, also in those of which it has no row. So a site of an area that it meets
later begins with that, once. ADR 90.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.sqlite.table_spec import KeyKind, TableSpec
from mycomesh.sync.storage.internal_tables import has_rare
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.units import NO_AREA, area_of

__all__ = ["MovedRows", "key_area", "mixed_site", "watermarks_of"]

_FORMAT = 1


def mixed_site(site: bytes, table: str, column: str, area: str) -> bytes:
    """Return the site of an area for a site of the whole table, and for a site of the area that of the whole table."""
    said = codec.encode([table, column, area])
    mask = hashlib.blake2b(said, digest_size=SITE_PREFIX, person=b"mycomesh-moved").digest()
    return site[:SITE_PREFIX] + bytes(a ^ b for a, b in zip(site[SITE_PREFIX:], mask, strict=True))


def key_area(spec: TableSpec, column: str, key: Any) -> str:
    """Return the area of a row by its key on the wire, or by its name in the file; `NO_AREA` for a row of none.

    A row with a NULL in its key is of none: the stamp of its insert is its key, which a delete has alone.
    """
    if spec.kind is KeyKind.ROWID:
        return repr(key)
    if type(key) is not bytes or key[:1] == b"\x00":
        return NO_AREA
    values = codec.decode(key, bytes_max=len(key))
    codec.require(codec.is_array(values, len(spec.key)), f"{spec.name}: a row key has the wrong width")
    return area_of(values[[each.folded for each in spec.key].index(column)]) or NO_AREA


def watermarks_of(store: Store, table_id: int) -> dict[bytes, int]:
    """Return up to which clock tombstones of a table were collected, by site."""
    if not has_rare(store.db, "mycomesh_collected"):
        return {}
    listing = "SELECT place, hlc FROM mycomesh_collected WHERE id = ? ORDER BY place"
    return {store.site(number): hlc for number, hlc in store.db.execute(listing, (table_id,))}


@dataclass(slots=True)
class MovedRows:
    """The state of one file's table when the file learned of the cut, and how far its entries have moved.

    column: the column that cuts the table, by canonical name.
    before: what the file covered.
    tops: how far sites were covered of which `before` lacks the end, since a pin had removed rows.
    collected: the watermarks of collected tombstones, by site.
    sources: the numbers of the sites whose entries are still to move, in order; empty once all have moved.
    entries: how many entries have moved.
    """

    column: str
    before: Vector
    tops: dict[bytes, int]
    collected: dict[bytes, int]
    sources: list[int]
    entries: int = 0
    changed: bool = field(default=False, compare=False)  # by the running transaction

    def top(self, site: bytes) -> int:
        """Return how far the file covered a site of the whole table."""
        return max(self.before.top(site), self.tops.get(site, 0))

    @classmethod
    def read(cls, store: Store, table_id: int) -> MovedRows | None:
        """Return the record of a table, None for one that was not cut with its rows."""
        stored = store.meta(_name(table_id))
        if not isinstance(stored, bytes):
            return None
        _, column, before, tops, collected, sources, entries = codec.decode(stored, bytes_max=len(stored), own=True)
        vector = Vector({site: list(zip(edges[::2], edges[1::2], strict=True)) for site, edges in before})
        return cls(column, vector, dict(tops), dict(collected), list(sources), entries)

    def write(self, store: Store, table_id: int) -> None:
        """Write the record; inside a transaction."""
        self.changed = True
        before = [[site, [edge for window in ranges for edge in window]] for site, ranges in self.before.items()]
        collected = [[site, hlc] for site, hlc in sorted(self.collected.items())]
        tops = [[site, hlc] for site, hlc in sorted(self.tops.items())]
        plain = [_FORMAT, self.column, before, tops, collected, self.sources, self.entries]
        store.meta_set(_name(table_id), codec.encode(plain))


def _name(table_id: int) -> str:
    return f"cut/{table_id}"
