"""Matches the rows of a rebuilt table with the change log's rows, where rowids identify rows.

A program that copies rows by SQL (a dump, a table rebuild) keeps their order but not their rowids. Without a match, the log would
take the row at a rowid for the row that had this rowid before. If a peer then deleted the old row, this replica would delete the
other one.

The order of rows is kept, so a row that matches its entries is searched only among the rows nearby. That reads every row under
the write lock, so it is limited to `COMPARED_MAX` rows. In larger tables rows are matched by position if their counts agree. If
they do not, the old rows end as deletes and the present ones count as inserts. ADR 0024.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mycomesh.sync.merge.records import renumber_parked
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.insert_runs import RUN_MAX
from mycomesh.sync.storage.pending_log import OP_DELETE, OP_INSERT, key_names, pending_name
from mycomesh.sync.storage.row_view import RowView, differing
from mycomesh.sync.storage.table import Table

__all__ = ["COMPARED_MAX", "match_rows"]

COMPARED_MAX = 100_000  # rows: comparing them takes some seconds
# Up to this many rows in a sequence may have been added or deleted before the next row that matches.
NEARBY_ROWS = 64
COMPARISONS_MAX = 3 * COMPARED_MAX  # after that many, the remaining rows are paired in order
_BATCH_ROWS = 512
_TABLES = {
    "was": "row INTEGER PRIMARY KEY",  # rows of the change log
    "shown": "row INTEGER PRIMARY KEY",  # rows of the table
    "logged": "row INTEGER PRIMARY KEY, first, last",  # pending log: the first operation, the last insert or delete
    "before": "row INTEGER PRIMARY KEY",  # rows of the table before the operations of the pending log
    "map": "old INTEGER PRIMARY KEY, new INTEGER",
}
_MAP = "temp.mycomesh_map"
# Deleted rows are mapped to numbers below the least rowid of the table. Below this bound there might be too few.
_LEAST = -(1 << 62)


def match_rows(table: Table) -> None:
    """Renumber the change log of a rebuilt table to the rowids that its rows have. Runs inside a transaction.

    The table scan that follows compares the values of the rows with their entries.
    """
    spec, db = table.spec, table.store.db
    if not (spec.lacks_primary_key or spec.nullable_key):
        return
    for name, columns in _TABLES.items():
        db.execute(f"CREATE TEMP TABLE mycomesh_{name}({columns})")
    _fill_tables(table)
    as_logged = _as_logged(db)
    if not (as_logged and _rowids_kept(db)) and _least(db) > _LEAST:
        if max(_count(db, "was"), _count(db, "shown")) <= COMPARED_MAX:
            _compare(table)
            # Nothing says whether these records have old or new rowids. The scan that follows finds the writes.
            db.execute(f"DELETE FROM {pending_name(table.table_id)} WHERE {_pending_by_rowid(table)}")
        elif as_logged and _count(db, "was") == _count(db, "before"):
            _pair_by_position(db)
        _map_deleted(db)
        table.log.renumber(_MAP)
        renumber_parked(table, _MAP)
    for name in _TABLES:
        db.execute(f"DROP TABLE temp.mycomesh_{name}")


# ---- the rowids of the log, the table and the pending log


def _fill_tables(table: Table) -> None:
    """Fill every temporary table except the map."""
    db, spec, log = table.store.db, table.spec, table.log
    log.flush()
    _fill(db, "was", f"SELECT DISTINCT row FROM {log.name} WHERE typeof(row) = 'integer' ORDER BY row")
    db.execute(
        f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {RUN_MAX - 1})"
        f" INSERT OR IGNORE INTO temp.mycomesh_was SELECT runs.row + i FROM {log.runs.name} runs JOIN n ON i < runs.n"
    )
    by_rowid = " OR ".join(f"t.{quoted(column.name)} IS NULL" for column in spec.key) or "1"
    rowid = f"t.{quoted(spec.rowid)}"
    _fill(db, "shown", f"SELECT {rowid} FROM {quoted(spec.name)} t WHERE {by_rowid} ORDER BY {rowid}")
    pending = f"FROM {pending_name(table.table_id)} WHERE {_pending_by_rowid(table)}"
    # In SQLite, a bare column beside min() or max() has the value of the row with the minimum or maximum.
    db.execute(
        "INSERT INTO temp.mycomesh_logged SELECT a.r, a.what, b.what"
        f" FROM (SELECT r, what, min(rowid) {pending} GROUP BY r) a"
        f" LEFT JOIN (SELECT r, what, max(rowid) {pending} AND what IN ({OP_INSERT}, {OP_DELETE}) GROUP BY r) b"
        " ON b.r = a.r"
    )
    logged = "SELECT row FROM temp.mycomesh_logged WHERE first"
    _fill(db, "before", f"SELECT row FROM temp.mycomesh_shown WHERE row NOT IN ({logged} = {OP_INSERT})")
    _fill(db, "before", f"{logged} <> {OP_INSERT}")


def _pending_by_rowid(table: Table) -> str:
    """Return SQL that is true for records of the pending log whose row is identified by its rowid."""
    keys = [name for name in key_names(table.spec) if name != "r"]
    return f"r IS NOT NULL AND ({' OR '.join(f'{name} IS NULL' for name in keys) or '1'})"


def _fill(db: Any, name: str, rows: str) -> None:
    db.execute(f"INSERT OR IGNORE INTO temp.mycomesh_{name} {rows}")


def _count(db: Any, name: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM temp.mycomesh_{name}").fetchone()[0])


def _least(db: Any) -> int:
    """Return the least rowid of the table, or 0 if that is less."""
    return int(db.execute("SELECT min(0, coalesce(min(row), 0)) FROM temp.mycomesh_shown").fetchone()[0])


def _as_logged(db: Any) -> bool:
    """Return True if the pending log fits the rowids: rows that it deleted are gone, and rows that it inserted are there."""
    found = db.execute(
        "SELECT 1 FROM temp.mycomesh_logged LEFT JOIN temp.mycomesh_shown s USING(row)"
        f" WHERE (last = {OP_DELETE} AND s.row IS NOT NULL) OR (last = {OP_INSERT} AND s.row IS NULL) LIMIT 1"
    ).fetchone()
    return found is None


def _rowids_kept(db: Any) -> bool:
    """Return True if the rows have their old rowids. Some may have been added, or some deleted, but not both."""
    common = db.execute("SELECT count(*) FROM temp.mycomesh_was JOIN temp.mycomesh_before USING(row)").fetchone()[0]
    return bool(common == min(_count(db, "was"), _count(db, "before")))


# ---- the match


def _pair_by_position(db: Any) -> None:
    """Map rows to rows by position; there are as many old ones as new ones."""
    ordered = "(SELECT row, row_number() OVER (ORDER BY row) AS place FROM temp.mycomesh_{})"
    db.execute(
        f"INSERT INTO {_MAP} SELECT a.row, b.row FROM {ordered.format('was')} a"
        f" JOIN {ordered.format('before')} b USING(place)"
    )


def _map_deleted(db: Any) -> None:
    """Map the rows without a match, which are deleted, to numbers that no row has."""
    db.execute(
        f"INSERT OR IGNORE INTO {_MAP} SELECT row, {_least(db)} - row_number() OVER (ORDER BY row DESC)"
        " FROM temp.mycomesh_was"
    )


class _Rows:
    """Rows in order of their rowids, each with its data; `ahead` has the next ones (rowid, data)."""

    def __init__(self, db: Any, name: str, read: Callable[[Sequence[int]], Sequence[Any]]) -> None:
        self._db = db
        self._listing = f"SELECT row FROM temp.mycomesh_{name} WHERE row > ? ORDER BY row LIMIT {_BATCH_ROWS}"
        self._read = read
        self._last = -1 << 63  # no row has this rowid: see `_LEAST`
        self.ahead: deque[tuple[int, Any]] = deque()

    def fill(self) -> bool:
        """Read rows into `ahead` until it has as many as are compared; return whether it has any."""
        while len(self.ahead) <= NEARBY_ROWS:
            rows = [row for (row,) in self._db.execute(self._listing, (self._last,))]
            if not rows:
                break
            self._last = rows[-1]
            self.ahead.extend(zip(rows, self._read(rows), strict=True))
        return bool(self.ahead)

    def skip(self, count: int) -> None:
        """Drop that many rows from `ahead`."""
        for _ in range(count):
            self.ahead.popleft()


def _compare(table: Table) -> None:
    """Map rows to rows that match their entries, in order; map a changed row by its position between matching neighbours."""
    db, comparisons = table.store.db, COMPARISONS_MAX

    def read_leaves(rows: Sequence[int]) -> Sequence[Any]:
        found = table.log.entries_of_rows(rows)
        return [found[row] for row in rows]

    def read_cells(rows: Sequence[int]) -> Sequence[Any]:
        found = table.rows.read_many(rows)
        return [found[row] for row in rows]

    def matches(old: tuple[int, list[StoredEntry]], new: tuple[int, dict[str, Any]]) -> bool:
        nonlocal comparisons
        comparisons -= 1
        return comparisons >= 0 and not differing(RowView(table, old[0], new[1], old[1]))

    was, present = _Rows(db, "was", read_leaves), _Rows(db, "shown", read_cells)
    pairs = []
    while was.fill() and present.fill():
        deleted, added = _step(was.ahead, present.ahead, matches)
        was.skip(deleted)
        present.skip(added)
        pairs.append((was.ahead[0][0], present.ahead[0][0]))
        was.skip(1)
        present.skip(1)
    db.executemany(f"INSERT INTO {_MAP} VALUES(?, ?)", pairs)


def _step(was: Sequence[Any], present: Sequence[Any], matches: Callable[[Any, Any], bool]) -> tuple[int, int]:
    """Return how many rows were deleted, and how many were added, before the next two that are the same row."""
    if matches(was[0], present[0]):
        return 0, 0
    for distance in range(1, NEARBY_ROWS):
        if distance < len(was) and matches(was[distance], present[0]):
            return distance, 0
        if distance < len(present) and matches(was[0], present[distance]):
            return 0, distance
    # Nothing nearby matches, so the row at this position was changed, not deleted.
    return 0, 0
