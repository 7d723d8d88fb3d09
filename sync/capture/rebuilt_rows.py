"""Rows that go by their rowids, in a table that was made anew from SQL: the change log learns which numbers they have got.

Whoever copies rows by SQL (a dump, a rebuild) keeps their order and not their rowids. Without this the log would take the row
that stands at a number for the one that stood there: a peer that deletes that one would delete another.

Owns the tables of the temporary database in which numbers are compared. What always holds: rows keep their order; a row that is
as its entries say is found among those nearby; of a table so large that looking at each row would hold the write lock for long,
rows are matched by their places, or not at all: then those that were there end as those that are there begin. It must not know
how such a table is found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mycomesh.sync.merge.records import renumber_parked
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.storage.change_log import Leaf
from mycomesh.sync.storage.insert_runs import RUN_MAX
from mycomesh.sync.storage.pending_log import OP_DELETE, OP_INSERT, key_names, pending_name
from mycomesh.sync.storage.row_view import RowView, differing
from mycomesh.sync.storage.table import Table

__all__ = ["COMPARED_MAX", "match_rows"]

COMPARED_MAX = 100_000  # rows: some seconds
# So many rows that follow each other may have come or gone before the next that is known.
NEARBY_ROWS = 64
LOOKS_MAX = 3 * COMPARED_MAX  # where all is different, rows are matched by their places in the end
_BATCH_ROWS = 512
_TABLES = {
    "was": "row INTEGER PRIMARY KEY",  # rows of the change log
    "shown": "row INTEGER PRIMARY KEY",  # rows of the table
    "logged": "row INTEGER PRIMARY KEY, first, last",  # of the pending log: the first operation, the last that made or ended it
    "before": "row INTEGER PRIMARY KEY",  # what was shown before the operations of the pending log
    "map": "old INTEGER PRIMARY KEY, new INTEGER",
}
_MAP = "temp.mycomesh_map"
# Below the least rowid of a table there have to be numbers that no row has.
_LEAST = -(1 << 62)


def match_rows(table: Table) -> None:
    """Has the log of a table that was made anew go by the rowids that its rows have; inside a transaction.

    What rows hold is compared with their entries by the sweep that follows.
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
            db.execute(
                f"DELETE FROM {pending_name(table.table_id)} WHERE {_pending_by_rowid(table)}"
            )  # of which numbers?
        elif as_logged and _count(db, "was") == _count(db, "before"):
            _pair_by_position(db)
        _map_deleted(db)
        table.log.renumber(_MAP)
        renumber_parked(table, _MAP)
    for name in _TABLES:
        db.execute(f"DROP TABLE temp.mycomesh_{name}")


# ---- which numbers there are


def _fill_tables(table: Table) -> None:
    """Fill every table but the map."""
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
    # A column beside min() or max() is that of the row which has it.
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
    """SQL that is true for rows of the pending log that go by their rowids."""
    keys = [name for name in key_names(table.spec) if name != "r"]
    return f"r IS NOT NULL AND ({' OR '.join(f'{name} IS NULL' for name in keys) or '1'})"


def _fill(db: Any, name: str, rows: str) -> None:
    db.execute(f"INSERT OR IGNORE INTO temp.mycomesh_{name} {rows}")


def _count(db: Any, name: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM temp.mycomesh_{name}").fetchone()[0])


def _least(db: Any) -> int:
    """Return a number that is not above that of any row, nor above 0."""
    return int(db.execute("SELECT min(0, coalesce(min(row), 0)) FROM temp.mycomesh_shown").fetchone()[0])


def _as_logged(db: Any) -> bool:
    """Return True if the pending log tells of the numbers that rows have: what it ended is not there, and what it made is."""
    found = db.execute(
        "SELECT 1 FROM temp.mycomesh_logged LEFT JOIN temp.mycomesh_shown s USING(row)"
        f" WHERE (last = {OP_DELETE} AND s.row IS NOT NULL) OR (last = {OP_INSERT} AND s.row IS NULL) LIMIT 1"
    ).fetchone()
    return found is None


def _rowids_kept(db: Any) -> bool:
    """Return True if rows have the numbers that they had: some may have come, or gone, but not both."""
    common = db.execute("SELECT count(*) FROM temp.mycomesh_was JOIN temp.mycomesh_before USING(row)").fetchone()[0]
    return bool(common == min(_count(db, "was"), _count(db, "before")))


# ---- which one is which


def _pair_by_position(db: Any) -> None:
    """Map rows to rows by their places; there are as many of both."""
    ordered = "(SELECT row, row_number() OVER (ORDER BY row) AS place FROM temp.mycomesh_{})"
    db.execute(
        f"INSERT INTO {_MAP} SELECT a.row, b.row FROM {ordered.format('was')} a"
        f" JOIN {ordered.format('before')} b USING(place)"
    )


def _map_deleted(db: Any) -> None:
    """Map rows that are mapped to none to numbers that no row has: they are gone."""
    db.execute(
        f"INSERT OR IGNORE INTO {_MAP} SELECT row, {_least(db)} - row_number() OVER (ORDER BY row DESC)"
        " FROM temp.mycomesh_was"
    )


class _Rows:
    """Rows in their order, with what is known of each; the next few can be looked at."""

    def __init__(self, db: Any, name: str, read: Callable[[Sequence[int]], Sequence[Any]]) -> None:
        self._db = db
        self._listing = f"SELECT row FROM temp.mycomesh_{name} WHERE row > ? ORDER BY row LIMIT {_BATCH_ROWS}"
        self._read = read
        self._last = -1 << 63  # no row has it: see `_LEAST`
        self.ahead: deque[tuple[int, Any]] = deque()

    def look(self) -> bool:
        """Has the next rows in `ahead`, as many as are looked at; returns whether there are any."""
        while len(self.ahead) <= NEARBY_ROWS:
            rows = [row for (row,) in self._db.execute(self._listing, (self._last,))]
            if not rows:
                break
            self._last = rows[-1]
            self.ahead.extend(zip(rows, self._read(rows), strict=True))
        return bool(self.ahead)

    def skip(self, count: int) -> None:
        """Leaves so many rows behind."""
        for _ in range(count):
            self.ahead.popleft()


def _compare(table: Table) -> None:
    """Map rows to rows that are as the entries say, in order; one that was changed stands between its neighbours."""
    db, looks = table.store.db, LOOKS_MAX

    def leaves(rows: Sequence[int]) -> Sequence[Any]:
        found = table.log.leaves_of(rows)
        return [found[row] for row in rows]

    def present(rows: Sequence[int]) -> Sequence[Any]:
        found = table.read_many(rows)
        return [found[row] for row in rows]

    def fits(old: tuple[int, list[Leaf]], new: tuple[int, dict[str, Any]]) -> bool:
        nonlocal looks
        looks -= 1
        return looks >= 0 and not differing(RowView(table, old[0], new[1], old[1]))

    was, shown = _Rows(db, "was", leaves), _Rows(db, "shown", present)
    pairs = []
    while was.look() and shown.look():
        gone, come = _step(was.ahead, shown.ahead, fits)
        was.skip(gone)
        shown.skip(come)
        pairs.append((was.ahead[0][0], shown.ahead[0][0]))
        was.skip(1)
        shown.skip(1)
    db.executemany(f"INSERT INTO {_MAP} VALUES(?, ?)", pairs)


def _step(was: Sequence[Any], shown: Sequence[Any], fits: Callable[[Any, Any], bool]) -> tuple[int, int]:
    """Return how many rows are gone, and how many have come, before the next two that are one."""
    if fits(was[0], shown[0]):
        return 0, 0
    for far in range(1, NEARBY_ROWS):
        if far < len(was) and fits(was[far], shown[0]):
            return far, 0
        if far < len(shown) and fits(was[0], shown[far]):
            return 0, far
    return 0, 0
