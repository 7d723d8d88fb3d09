"""Columns that a rebuild has given another name: a table made anew and filled from the old one, as ORMs and editors do.

SQLite tells of no rename then, and the triggers are gone with the old table. The entries tell: a row whose new column holds what
the old one held has the digest that its entry was stamped with. Owns that proof. What always holds: nothing is taken for a rename
that most of the rows do not prove. It must not know facts or peers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from mycomesh.sync.capture.table_scan import first_rows
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.table_spec import TableSpec
from mycomesh.sync.storage.row_view import RowView, differing
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table, extended

__all__ = ["renamed_columns"]

# Rows that are looked at, and ways to pair columns that went with those that came: some milliseconds each.
SAMPLE_ROWS = 256
PAIRINGS_MAX = 24


def renamed_columns(
    store: Store, table_id: int, spec: TableSpec, bits: Mapping[str, int], lost: Sequence[str], mesh_key: bytes
) -> dict[str, str]:
    """Return what the file calls columns (by the mesh's names) that it has lost; empty if not all of them were renamed.

    `gone` are the columns that the triggers compared and the table has not; `bits` those of the mesh's names.
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
    """Return True if most rows are as their entries say, some of them with a value in each of these columns."""
    views = RowView.read_many(table, first_rows(table, SAMPLE_ROWS))
    matching = [view for view in views if view.visible and not differing(view)]
    owned = [view.owned() for view in matching]
    return 2 * len(matching) > len(views) and all(
        any(values.get(column) is not None for values in owned) for column in columns
    )
