"""Fills an index again that has missed rows of other nodes, once the node can run its triggers.

Only an index that is derived from one table is emptied for that: an FTS index with a content table, or an R-tree of boxes alone
that one table's triggers keep. Another may hold entries that nobody could make again.

A node remembers in its file which indexes it could not keep: a library was missing, or a trigger failed. After the restart that
ends this, such an index would silently lack rows. The node enters all of them, as the remedy in its note would. For a large table
that would keep the file's lock for too long, so a person does it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import apsw

from mycomesh.sync.schema.index_remedies import content_of, emptying_of, filling_of
from mycomesh.sync.sqlite import geometry
from mycomesh.sync.sqlite.create_table import mentions
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore
from mycomesh.sync.sqlite.virtual_tables import VirtualTable
from mycomesh.sync.storage.store import Store

__all__ = ["FILLED_ROWS_MAX", "IndexRefill", "feeders", "fill", "rows_to_fill"]

FILLED_ROWS_MAX = 20_000  # rows of a table that are entered under the lock, some 0.2 s into an R-tree
MARKED_MAX = 256  # indexes of one file that are remembered; the first by name
_KEY = "stale_indexes"
_SAVEPOINT = "mycomesh_refill"


class IndexRefill:
    """The record of the indexes of one file that lack rows."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def marked(self) -> frozenset[str]:
        """The folded names of the indexes that lack rows."""
        return frozenset(json.loads(self._store.meta(_KEY) or "[]"))

    def mark(self, names: Collection[str]) -> None:
        """Remember that these indexes lack rows; inside a transaction."""
        marked = self.marked
        if not marked.issuperset(names):
            self._set(marked | frozenset(names))

    def run(self, index: VirtualTable, table: str, triggers: Sequence[str]) -> str:
        """Fill an index if it lacks rows; return why it cannot be filled, "" if it has all rows by now."""
        if fold(index.name) not in self.marked:
            return ""
        db = self._store.db
        db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            large = fill(db, index, table, triggers, empty=True)
        except apsw.Error as error:
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            return str(error)
        finally:
            db.execute(f"RELEASE {_SAVEPOINT}")
        self._set(
            self.marked - {fold(index.name)}
        )  # of a large table too: nobody tells the node when a person has filled it
        return large

    def _set(self, names: Collection[str]) -> None:
        self._store.meta_set(_KEY, json.dumps(sorted(names)[:MARKED_MAX]))


def fill(db: Any, index: VirtualTable, table: str, triggers: Sequence[str], *, empty: bool) -> str:
    """Enter every row of a table into its index, after emptying that; return why it cannot be done, "" if it was.

    Raises:
        apsw.Error: SQLite refuses it; the caller rolls back.
    """
    rows = rows_to_fill(db, table)
    if rows > FILLED_ROWS_MAX:
        return f"{table} has more than {FILLED_ROWS_MAX:,} rows"
    if empty and not _is_derived(db, index):
        return "it may hold more than the rows of that table"
    if content_of(index):
        db.execute(f"INSERT INTO {quoted(index.name)}({quoted(index.name)}) VALUES('rebuild')")
        return ""
    filling = next(filter(None, (filling_of(sql, index.name, table) for sql in triggers)), "")
    if not filling:
        return "its insert trigger is not one INSERT" if rows else ""
    if empty:
        db.execute(emptying_of(index))
    if rows:
        db.execute(geometry.with_private_names(filling))
    return ""


def rows_to_fill(db: Any, table: str) -> int:
    """Return how many rows a table has, counted to one beyond the limit."""
    few = f"SELECT count(*) FROM (SELECT 1 FROM {quoted(table)} LIMIT {FILLED_ROWS_MAX + 1})"
    return int(db.execute(few).fetchone()[0])


def _is_derived(db: Any, index: VirtualTable) -> bool:
    """Return True if everything in an index comes from one table."""
    if content_of(index):
        return True
    return index.module.startswith("rtree") and "+" not in index.sql and len(feeders(db, index)) == 1


def feeders(db: Any, index: VirtualTable) -> list[str]:
    """Return the names of the tables whose triggers name an index."""
    listing = (
        f"SELECT {raw_select('tbl_name')}, {raw_select('sql')} FROM sqlite_schema WHERE type = 'trigger' ORDER BY name"
    )
    entries = [tuple(map(lenient_text, restore(cells))) for cells in db.execute(listing).fetchall()]
    return sorted({table for table, sql in entries if mentions(sql, fold(index.name))})
