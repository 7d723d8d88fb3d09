"""Columns that a program leaves out when it rebuilds a table: ORMs drop columns so, where SQLite has no DROP COLUMN for them.

The values of a column that is gone are not in the file any more, so no digest of an entry that owns it can be checked. A scan
first stamps what may have changed in the other columns. Then the column is dropped on the mesh, as by DROP COLUMN. Until then
the file records which columns are leaving.

A column is not dropped for the mesh if the table was created again rather than rebuilt: from a dump, or after it was missing.
ADR 36.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["LeftOutColumns"]

SAMPLE_ROWS = 256
_LEAVING = "leaving/"


class LeftOutColumns:
    """The columns of one file that are leaving, and the tables that were missing in some pass."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._intact = rebuild_mark.is_intact(store.db)

    def mark_missing(self, table_id: int) -> None:
        """Record that a registered table is not in the file: one that is created again is another one."""
        if self._store.meta(_missing_key(table_id)) is None:
            self._store.meta_set(_missing_key(table_id), 1)

    def record_present(self, table_id: int) -> None:
        """Record that a registered table is in the file."""
        self._forget(_missing_key(table_id))

    def leaves(self, table: Table, lost: Collection[str], *, dropped: bool) -> bool:
        """Return whether the mesh drops the columns that the file has lost, and record that; else they come back.

        It does if they were `dropped` while a scan went on, or if a rebuild has left them out. The caller has loaded the table
        as it is by now, under its own columns alone.
        """
        known = self.leaving().get(table.table_id, [])
        if not known and not dropped and not self._is_rebuilt(table, lost):
            return False
        self._store.meta_set(_leaving_key(table.table_id), json.dumps(sorted({*known, *lost})))
        return True

    def _is_rebuilt(self, table: Table, lost: Collection[str]) -> bool:
        """Return True if the table has the rows that it had, in a file that no dump has made."""
        if not self._intact or self._store.meta(_missing_key(table.table_id)) is not None:
            return False
        computed = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden IN (2, 3) ORDER BY cid"
        if not {*lost}.isdisjoint(fold(name) for (name,) in self._store.db.execute(computed, (table.spec.name,))):
            return False
        present = RowView.read_many(table, table_scan.first_rows(table, SAMPLE_ROWS))
        known = sum(view.visible for view in present)
        if present:
            return 2 * known > len(present)
        return not any(view.visible for view in RowView.read_many(table, table_scan.first_entries(table, SAMPLE_ROWS)))

    def leaving(self) -> dict[int, list[str]]:
        """Return the columns that wait to be dropped on the mesh, by table id."""
        listing = f"SELECT name, value FROM mycomesh_meta WHERE name GLOB '{_LEAVING}*' ORDER BY name"
        return {
            int(name[len(_LEAVING) :]): json.loads(value) for name, value in self._store.db.execute(listing).fetchall()
        }

    def settle(self, table_id: int) -> None:
        """Record that the columns of a table are dropped."""
        self._forget(_leaving_key(table_id))

    def _forget(self, key: str) -> None:
        self._store.db.execute("DELETE FROM mycomesh_meta WHERE name = ?", (key,))


def _leaving_key(table_id: int) -> str:
    return f"{_LEAVING}{table_id}"


def _missing_key(table_id: int) -> str:
    return f"missing/{table_id}"
