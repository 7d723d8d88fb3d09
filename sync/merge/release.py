"""Takes entries out of a file that others keep, and their rows out of the user's table: no delete, and no conflict."""

from __future__ import annotations

from collections.abc import Sequence

from mycomesh.sync.crdt.lattice import EXISTENCE, visible
from mycomesh.sync.merge import records
from mycomesh.sync.merge.merge import materialize
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.row_view import RowView, shrink
from mycomesh.sync.storage.table import Table

__all__ = ["release_rows"]


def release_rows(table: Table, stamps: Sequence[tuple[int, int]]) -> None:
    """Remove entries (site number, hlc); a row goes with its insert. Runs inside a transaction in which all writes have stamps.

    Readers of the change feed see nothing of it: they have read the rows, which still exist elsewhere.
    """
    rows: dict[Row, set[tuple[int, int]]] = {}
    for stamp, row in table.log.rows_of(stamps).items():
        rows.setdefault(row, set()).add(stamp)
    before, table.store.on_write = table.store.on_write, None
    try:
        for row, gone in rows.items():
            _release(RowView.read(table, row), gone)
            table.log.flush()
    finally:
        table.store.on_write = before


def _release(view: RowView, gone: set[tuple[int, int]]) -> None:
    table = view.table
    masks = [0 if stored[:2] in gone else entry.mask for stored, entry in zip(view.stored, view.entries, strict=True)]
    left = [entry for entry, mask in zip(view.entries, masks, strict=True) if mask]
    names = {name for entry in left for name in table.columns.names_of(entry.mask & ~EXISTENCE)}
    target = {name: value for name, value in view.owned().items() if name in names}
    key = table.key(view.row, view.stored)
    shrink(view, masks, key)
    table.log.flush()
    records.unpark(table, view.row)
    materialize(table, view, visible(left), target, reinserted=False)
