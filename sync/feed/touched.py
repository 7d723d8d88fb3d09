"""Rows that changed in the user's table without a new stamp, which a version vector cannot show to a reader.

A constraint refuses a row that was there, or lets in one that had waited; a repair or an audit takes a row back. While there are
cursors, the names of such rows are kept in `mycomesh_touched` under rising numbers, each row once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import apsw

from mycomesh.sync.merge.records import key_text
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["CREATE", "TOUCHED_MAX", "Touched"]

# Rows kept for readers that are behind; beyond it they start again with the rows that are there.
TOUCHED_MAX = 100_000
CHECK_EVERY = 1_000

_RECORD = "INSERT OR REPLACE INTO mycomesh_touched(id, row, key, place, hlc) VALUES(?, ?, ?, ?, ?)"
CREATE = (
    "CREATE TABLE IF NOT EXISTS mycomesh_touched("
    "seq INTEGER PRIMARY KEY, id INTEGER, row, key TEXT, place INTEGER, hlc INTEGER, UNIQUE(id, row))"
)


class Touched:
    """The rows of one file that changed without a stamp."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        # Rows that this transaction has written -> (key text, "" if not known; whether it was deleted last).
        self._written: dict[tuple[int, Row], tuple[str, bool]] = {}
        self._since_check = 0
        self.overflowing = False  # there are more rows than are kept, or some were lost: readers have to start again
        store.finish_with(self._flush)

    # ---- writing

    def observe(self, *, active: bool) -> None:
        """Record rows from here on, or no more."""
        self._store.on_write = self.on_write if active else None
        self._written = {}

    def on_write(self, table_id: int, row: Row, deleted: bool) -> None:
        """Note a row that the node writes in a user's table; inside the transaction of the write."""
        key = ""
        if deleted and isinstance(row, int):
            table = self._table(table_id)
            if table is not None and table.spec.kind is KeyKind.KEYLESS:  # its entries get another name, or go
                with contextlib.suppress(AssertionError):  # without its insert no reader has seen the row
                    named = table.key(row, table.log.entries_of_row(row))
                    row, key = named, key_text(named)
        self._written[table_id, row] = key, deleted

    def rolled_back(self) -> None:
        """Forget what the transaction wrote."""
        self._written = {}

    def committed(self) -> None:
        """Keep what the transaction recorded."""

    def _table(self, table_id: int) -> Table | None:
        return next((table for table in self._registry.tables.values() if table.table_id == table_id), None)

    def _flush(self) -> None:
        """Record the rows that this transaction has written and that no new stamp shows."""
        if not self._written:
            return
        written, self._written = self._written, {}
        by_table: dict[int, dict[Row, tuple[str, bool]]] = {}
        for (table_id, row), how in written.items():
            by_table.setdefault(table_id, {})[row] = how
        for table_id, rows in by_table.items():
            table = self._table(table_id)
            if table is not None:
                self._record(table, rows, table.log.entries_of_rows(list(rows)))

    def _record(self, table: Table, rows: dict[Row, tuple[str, bool]], entries: dict[Row, list[StoredEntry]]) -> None:
        before, site = table.coverage.vector, table.store.site
        records = []
        for row, stored_entries in entries.items():
            key, deleted = rows[row]
            # A row that went is shown by a new tombstone alone, one that is there by any new stamp.
            telling = [stored for stored in stored_entries if stored[3] == 0 or not deleted]
            if any(not before.covers(site(stored[0]), stored[1]) for stored in telling):
                continue
            try:
                key = key or key_text(table.key(row, stored_entries))
            except AssertionError:  # entries without an insert show no row
                continue
            newest = max(stored_entries, key=lambda stored: (stored[1], stored[0]), default=(0, 0))
            records.append((table.table_id, row, key, newest[0], newest[1]))
        self._store_records(records)
        self._since_check += len(records)
        if self._since_check >= CHECK_EVERY:
            self._since_check = 0
            count = self._store.db.execute("SELECT count(*) FROM mycomesh_touched").fetchone()[0]
            self.overflowing = count > TOUCHED_MAX

    def _store_records(self, records: list[tuple[int, Row, str, int, int]]) -> None:
        try:
            self._store.db.executemany(_RECORD, records)
        except apsw.SQLError:  # a program has dropped the table, and with it rows that readers have not seen
            self._store.db.execute(CREATE)
            # Numbers are in the ids of changes, and no number may be given twice: the clock is above all of them.
            self._store.db.execute("INSERT INTO mycomesh_touched(seq, id) VALUES(?, 0)", (self._store.clock.last,))
            self._store.db.executemany(_RECORD, records)
            self.overflowing = True

    def repeat(self, table: Table, row: Row, key: str) -> None:
        """Record a row although it has not changed, so that readers see it again."""
        newest = max(table.log.entries_of_row(row), key=lambda stored: (stored[1], stored[0]), default=(0, 0))
        self._store_records([(table.table_id, row, key, newest[0], newest[1])])

    # ---- reading

    def last(self) -> int:
        """Return the number of the row that was touched last, 0 for none."""
        try:
            return int(self._store.db.execute("SELECT coalesce(max(seq), 0) FROM mycomesh_touched").fetchone()[0])
        except apsw.SQLError:  # dropped by a program; the next row creates it
            return 0

    def after(self, table: Table, seq: int, limit: int) -> Sequence[tuple[int, Any, str, int, int]]:
        """Return up to `limit` (number, row, key text, site number, hlc) of a table's rows touched after a number."""
        try:
            found = self._store.db.execute(
                f"SELECT seq, row, {raw_select('key')}, place, hlc FROM mycomesh_touched WHERE seq > ? AND id = ?"
                " AND typeof(row) IN ('integer', 'blob') AND typeof(key) = 'text'"
                " AND typeof(place) = 'integer' AND typeof(hlc) = 'integer' ORDER BY seq LIMIT ?",
                (seq, table.table_id, limit),
            ).fetchall()
        except apsw.SQLError:
            return []
        return [(number, row, lenient_text(*restore(key)), place, hlc) for number, row, *key, place, hlc in found]

    def has_old(self) -> bool:
        """Return True if there are rows that `prune` may forget: all but the last."""
        listing = "SELECT 1 FROM mycomesh_touched LIMIT 1 OFFSET 1"
        try:
            return self.overflowing or self._store.db.execute(listing).fetchone() is not None
        except apsw.SQLError:
            return False

    def prune(self, upto: int) -> None:
        """Forget the rows up to a number that every reader has passed, but the last one: its number is not used again."""
        with contextlib.suppress(apsw.SQLError):  # dropped by a program
            self._store.db.execute(
                "DELETE FROM mycomesh_touched WHERE seq <= ? AND seq < (SELECT max(seq) FROM mycomesh_touched)", (upto,)
            )
