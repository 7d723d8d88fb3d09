"""Finds columns that a table rebuild has renamed. ORMs and editors create a new table and fill it from the old one.

SQLite reports no rename then, and the triggers are gone with the old table. The digests of the entries can still prove a rename:
if the new column has the values of the old one, the rows match the digests that their entries were stamped with. Nothing counts
as a rename unless most rows of a sample prove it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from mycomesh.sync.capture.table_scan import first_rows
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.table_spec import TableSpec
from mycomesh.sync.storage.column_bits import extended
from mycomesh.sync.storage.row_view import RowView, differing
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["renamed_columns"]

# Limits on the rows of the sample, and on the ways to pair lost columns with new ones. Each way takes some milliseconds.
SAMPLE_ROWS = 256
PAIRINGS_MAX = 24


def renamed_columns(
    store: Store, table_id: int, spec: TableSpec, bits: Mapping[str, int], lost: Sequence[str], mesh_key: bytes
) -> dict[str, str]:
    """Return the new names of lost columns by their canonical names; empty unless all of them were renamed.

    `lost` has the columns that the triggers compare and the table lacks; `bits` the bit of each canonical name.
    """
    fresh = [column for column in spec.columns if column.folded not in bits]
    pairings = itertools.islice(itertools.permutations(fresh, len(lost)), PAIRINGS_MAX)
    proven = []
    for columns in pairings:
        names = {fold(column.name): column.folded for column in spec.columns}
        names |= {fold(column.name): was for column, was in zip(columns, lost, strict=True)}
        as_before = spec.known_as(spec.folded, names)
        table = Table(store, table_id, as_before, extended(dict(bits), as_before), mesh_key)
        if _is_proven(table, lost):
            proven.append({was: column.name for column, was in zip(columns, lost, strict=True)})
    return proven[0] if len(proven) == 1 else {}


def _is_proven(table: Table, columns: Sequence[str]) -> bool:
    """Return True if most rows match their entries, and each of these columns has a value in some matching row."""
    views = RowView.read_many(table, first_rows(table, SAMPLE_ROWS))
    matching = [view for view in views if view.visible and not differing(view)]
    owned = [view.owned() for view in matching]
    return 2 * len(matching) > len(views) and all(
        any(values.get(column) is not None for values in owned) for column in columns
    )
