"""Keeps the extents of a GeoPackage's layers wide enough for the features of all nodes.

A program writes a layer's extent into gpkg_contents from what it knows, and of two nodes' extents the later write wins: features
of the other would lie outside, where a map does not look. So after a merge the node widens an extent that does not hold its
R-tree, whose root has the box of all features. All nodes compute the same box, so they agree after one such write each.

Invariant: an extent is only widened, so that two nodes cannot answer each other without end.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Collection
from typing import Any

import apsw

from mycomesh.sync.errors import DatabaseBusyError
from mycomesh.sync.merge.own_writes import update_row
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, encode_key
from mycomesh.sync.storage.store import Store

__all__ = ["MAP_CONTENTS", "MapExtents", "root_box"]

MAP_CONTENTS = "gpkg_contents"
_SIDES = ("min_x", "min_y", "max_x", "max_y")
LAYERS_MAX = 64  # layers that are looked at after a merge, some 20 us each
_TOLERANCE = 2.0**-22  # an R-tree rounds to 32-bit numbers, outward


class MapExtents:
    """The extents of the layers of one file."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def widen(self, merged: Collection[str]) -> None:
        """Widen the extents that are too small after a merge into these tables; the next drain stamps that."""
        contents = self._registry.tables.get(MAP_CONTENTS)
        if contents is None or contents.spec.kind is not KeyKind.KEYED:
            return
        wider = []
        with contextlib.suppress(apsw.SQLError):  # a table or a column is missing: this is no GeoPackage
            wider = [(layer, sides) for layer in self._layers(merged) if (sides := self._wider(*layer))]
        if not wider:
            return
        with contextlib.suppress(DatabaseBusyError, *REFUSALS), self._store.transaction():  # the next merge tries again
            for (name, _), sides in wider:
                row = encode_key(contents.spec, (name,))
                update_row(contents, row, sides)

    def _layers(self, merged: Collection[str]) -> list[tuple[str, str]]:
        """Return the layers that a merge may concern: (name in gpkg_contents, name of the R-tree)."""
        listing = (
            "SELECT c.table_name, g.table_name, g.column_name FROM gpkg_contents c JOIN gpkg_geometry_columns g"
            f" ON g.table_name = c.table_name COLLATE NOCASE WHERE c.data_type = 'features' ORDER BY 1 LIMIT {LAYERS_MAX}"
        )
        return [
            (name, f"rtree_{table}_{column}")
            for name, table, column in self._store.db.execute(listing).fetchall()
            if type(name) is type(table) is type(column) is str and (MAP_CONTENTS in merged or fold(table) in merged)
        ]

    def _wider(self, name: str, index: str) -> dict[str, float]:
        """Return the sides of a layer's extent that do not hold its R-tree, as they have to be."""
        db = self._store.db
        found = db.execute(f"SELECT {', '.join(_SIDES)} FROM gpkg_contents WHERE table_name = ?", (name,)).fetchone()
        try:
            node = db.execute(f"SELECT data FROM {quoted(index + '_node')} WHERE nodeno = 1").fetchone()
        except apsw.SQLError:  # a layer without an index
            return {}
        box = root_box(node[0]) if node else None
        if box is None or found is None or not all(side is None or type(side) in (int, float) for side in found):
            return {}
        wider = {}
        for side, present, needed in zip(_SIDES, found, box, strict=True):
            room = _TOLERANCE * abs(needed)
            if present is None or (present > needed + room if side.startswith("min") else present < needed - room):
                wider[side] = needed
        return wider


def root_box(node: Any) -> tuple[float, float, float, float] | None:
    """Return (min x, min y, max x, max y) of the root node of an R-tree of two dimensions; None if it is empty or no such node.

    SQLite, "The SQLite R*Tree Module", section 7: shadow tables.
    """
    if type(node) is not bytes or len(node) < 4:
        return None
    (cells,) = struct.unpack_from(">H", node, 2)
    if not cells or len(node) < 4 + 24 * cells:
        return None
    sides = [struct.unpack_from(">4f", node, 12 + 24 * cell) for cell in range(cells)]
    x_min, x_max, y_min, y_max = zip(*sides, strict=True)
    box = min(x_min), min(y_min), max(x_max), max(y_max)
    return box if all(map(math.isfinite, box)) else None
