"""Table scans: passes over a whole table, in steps that hold the write lock only briefly.

A scan backfills the rows of a table that begins to replicate, or compares every row with its entries after a cause to doubt them.
The scrub compares rows too, but writes nothing.

A step logs its rows and moves its position (`mycomesh_sweeps`) in one transaction, so a crash neither repeats nor loses a step. A
scan ends before anything remote is merged into the file. ADR 0012.
"""

from __future__ import annotations

import enum
import itertools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.merge import records
from mycomesh.sync.merge.conflicts import same
from mycomesh.sync.merge.counters import totals
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import bind_value, placeholder, raw_select, restore
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_key
from mycomesh.sync.storage.internal_tables import create_rare, has_rare
from mycomesh.sync.storage.large_rows import has_large_key
from mycomesh.sync.storage.pending_log import (
    AT_EARLY,
    AT_UNKNOWN,
    LOOK_AGAIN,
    OP_EVICT,
    OP_INSERT,
    key_names,
    look_statement,
    mask_words,
    pending_name,
    word_names,
)
from mycomesh.sync.storage.row_batch import unchanged_rows
from mycomesh.sync.storage.row_view import AHEAD_BYTES_MAX, RowView, differing
from mycomesh.sync.storage.table import Table

__all__ = [
    "START",
    "Backfill",
    "ScanCursor",
    "active_ids",
    "advance",
    "any_active",
    "begin",
    "begin_for_lost_records",
    "first_entries",
    "first_rows",
    "is_adopting",
    "log_rows",
    "recheck_pending",
    "suspects",
]

_ROWS, _ENTRIES, _RUNS, _END = range(4)
# Comparing a row with its entries, or stamping an update, takes as long as stamping this many new rows.
_COMPARED_WEIGHT = 16
_POSITIONS = "mycomesh_sweeps"
_HELD_ROWS = 500  # rows of `mycomesh_held` that are read at a time
_REFUSED = "refused before; its record was deleted"


class Backfill(enum.IntEnum):
    """Which rows a scan logs; the number is in the file (`mycomesh_sweeps`)."""

    NONE = 0  # the rows that differ from their entries
    EARLY = 1  # every row, as one from before the mesh
    NEW = 2  # every row, as one that was written into a new table on the mesh


@dataclass(frozen=True, slots=True)
class ScanCursor:
    """Position of a scan: first the rows of the table, then the rows of single entries, then those of packed runs.

    The last two phases find rows that are in the change log but not in the table. `after` is the last row of the phase that was
    scanned, None before the first: a rowid or the values of a key; a row's name in the log; the first row of a run.
    """

    phase: int = 0
    after: Any = None

    @property
    def ended(self) -> bool:
        """True at the end of the table."""
        return self.phase == _END


START = ScanCursor()


# ---- scans that log rows: their position is in the file


def begin(table: Table, *, backfill: Backfill = Backfill.NONE, written: Sequence[str] = ()) -> None:
    """Begin a scan of the table. It replaces a scan in progress and does its work too. Runs inside a transaction.

    Args:
        table: the table.
        backfill: which rows are logged, and as what.
        written: columns that count as changed in every row. No entry owns them, so there is nothing to compare them with.
    """
    db = table.store.db
    create_rare(db, _POSITIONS)
    found = db.execute("SELECT adopting, written FROM mycomesh_sweeps WHERE id = ?", (table.table_id,)).fetchone()
    if found is not None:
        backfill = Backfill(found[0]) or backfill
        written = sorted({*written, *json.loads(found[1])})
    db.execute(
        "INSERT OR REPLACE INTO mycomesh_sweeps VALUES(?, ?, ?, 0, NULL)",
        (table.table_id, backfill, json.dumps(list(written))),
    )


def begin_for_lost_records(tables: Iterable[Table], lost: Collection[str]) -> None:
    """Begin scans of the tables whose records are lost, because internal tables were. Runs inside a transaction.

    `lost` are the names of the internal tables that had to be recreated.
    """
    for table in tables:
        if "mycomesh_parked" in lost:
            restore_parked(table)
        if {_POSITIONS, pending_name(table.table_id)} & {*lost}:
            begin(table)


def recheck_pending(table: Table) -> bool:
    """Make the drain compare every row with a pending update, because other columns may have been written uncaptured.

    Otherwise, stamping the columns that the update names would compute digests that cover the uncaptured values, and hide them.
    Return False, with nothing done, if a scan of the table is in progress: it compares every row. Runs inside a transaction.
    """
    if table.table_id in active_ids(table.store.db):
        return False
    words = word_names(table.columns.captured)
    table.store.db.execute(
        f"UPDATE {pending_name(table.table_id)} SET {', '.join(f'{word} = {LOOK_AGAIN}' for word in words)} WHERE what >= 0"
    )
    return True


def active_ids(db: Any) -> set[int]:
    """Return the ids of the tables that have a scan in progress."""
    if not has_rare(db, _POSITIONS):
        return set()
    return {table_id for (table_id,) in db.execute("SELECT id FROM mycomesh_sweeps")}


def is_adopting(table: Table) -> bool:
    """Return True if the table has rows from before the mesh that no scan has logged yet."""
    if not has_rare(table.store.db, _POSITIONS):
        return False
    listing = "SELECT 1 FROM mycomesh_sweeps WHERE id = ? AND adopting = ?"
    return table.store.db.execute(listing, (table.table_id, Backfill.EARLY)).fetchone() is not None


def any_active(db: Any) -> bool:
    """Return True if any table of the file has a scan in progress."""
    return bool(active_ids(db))


def advance(table: Table, budget: int) -> None:
    """Do one step of the scan in progress: log the next rows for the drain. Runs inside a transaction.

    `budget` is how many new rows the drain that follows can stamp.
    """
    db = table.store.db
    found = db.execute(
        "SELECT adopting, written, phase, after FROM mycomesh_sweeps WHERE id = ?", (table.table_id,)
    ).fetchone()
    assert found is not None, "the caller has checked `active_ids`"
    backfill, written, cursor = Backfill(found[0]), json.loads(found[1]), ScanCursor(found[2], _decoded(found[3]))
    limit = budget if backfill else max(budget // _COMPARED_WEIGHT, 1)
    if cursor.phase == _ROWS and (backfill or written):
        cursor = _log_all(table, cursor, limit, backfill=backfill, written=written)
    else:
        rows, cursor = suspects(table, cursor, limit)
        log_rows(table, rows)
    if cursor.phase == _END or (backfill and cursor.phase != _ROWS):
        db.execute("DELETE FROM mycomesh_sweeps WHERE id = ?", (table.table_id,))
    else:
        db.execute(
            "UPDATE mycomesh_sweeps SET phase = ?, after = ? WHERE id = ?",
            (cursor.phase, None if cursor.after is None else codec.encode(cursor.after), table.table_id),
        )


def _decoded(stored: bytes | None) -> Any:
    return None if stored is None else codec.decode(stored, bytes_max=len(stored))


def _log_all(table: Table, cursor: ScanCursor, limit: int, *, backfill: Backfill, written: Sequence[str]) -> ScanCursor:
    names = _next_names(table, cursor.after, limit)
    if not names:
        return ScanCursor(_ENTRIES)
    db, spec = table.store.db, table.spec
    words = mask_words(table.columns.bits, written)
    low, high = names[0], names[-1]
    # If the change log knows a row of this range, rows are compared: an insert would stamp a known row again.
    known = isinstance(low, int) and spec.kind is not KeyKind.KEYED and table.log.any_row_between(low, high)
    at = {Backfill.EARLY: str(AT_EARLY), Backfill.NEW: str(AT_UNKNOWN)}.get(backfill, "NULL")
    logged: list[tuple[int, dict[int, int]]] = [(OP_INSERT if backfill and not known else LOOK_AGAIN, {})]
    if words:
        logged.append((words.pop(0, 0), words))
    for what, more in logged:
        if isinstance(low, int):
            rowid = f"t.{quoted(spec.rowid)}"
            condition = f"{rowid} BETWEEN ? AND ? ORDER BY {rowid}"
            db.execute(look_statement(spec, table.table_id, what, condition, more, at=at), (low, high))
            continue
        for name in names:
            condition, parameters = _found_by(table, name)
            db.execute(look_statement(spec, table.table_id, what, condition, more, at=at), parameters)
    return ScanCursor(_ROWS, high)


def log_rows(table: Table, rows: Sequence[Row]) -> None:
    """Log rows so that the drain compares them; restore the records of parked rows instead. Runs inside a transaction."""
    spec = table.spec
    for row in rows:
        if _restore_parked(table, row):
            continue
        found = table.rows.condition(row)
        assert found is not None, "only rows that can be in the table are suspect"
        table.store.db.execute(look_statement(spec, table.table_id, LOOK_AGAIN, found[0]), found[1])
        # The row is gone, so the statement found nothing to log. The record names its key, and the drain sees that it is gone.
        if not table.store.db.changes():
            values = [row] if isinstance(row, int) else codec.decode(row, bytes_max=len(row))
            columns = ["r"] if isinstance(row, int) else key_names(spec)[: len(values)]
            table.store.db.execute(
                f"INSERT INTO {pending_name(table.table_id)}(what, at, {', '.join(columns)})"
                f" VALUES({OP_EVICT}, NULL, {', '.join(map(placeholder, values))})",
                tuple(map(bind_value, values)),
            )


def restore_parked(table: Table) -> None:
    """Restore the records of parked rows that `mycomesh_parked` has lost. Runs inside a transaction."""
    listing = "SELECT place, hlc FROM mycomesh_held WHERE id = ? AND (place, hlc) > (?, ?) ORDER BY place, hlc LIMIT ?"
    last = (-1, 0)
    while stamps := table.store.db.execute(listing, (table.table_id, *last, _HELD_ROWS)).fetchall():
        last = stamps[-1]
        for row in sorted(set(table.log.rows_of(stamps).values()), key=repr):
            _restore_parked(table, row)


def _restore_parked(table: Table, row: Row) -> bool:
    view = RowView.read(table, row)
    if not view.parked:
        return False
    records.park(table, row, table.key(row, view.stored), _REFUSED, view.owned(), table.store.clock.last >> 16)
    return True


# ---- comparing rows with their entries, without writing


def suspects(table: Table, cursor: ScanCursor, limit: int) -> tuple[list[Row], ScanCursor]:
    """Compare up to `limit` rows with the change log; return those that differ, and the new position.

    The caller has drained the pending log: a write that waits there makes its row differ too.
    """
    if cursor.phase == _ROWS:
        names = _next_names(table, cursor.after, limit)
        if names:
            rows = [_row_of(table, name) for name in names]
            same = unchanged_rows(table, rows, AHEAD_BYTES_MAX)  # nearly all, for a fifth of the time
            views = RowView.each(table, [row for row in rows if row not in same])
            return [view.row for view in views if _suspect(view)], ScanCursor(_ROWS, names[-1])
        cursor = ScanCursor(_ENTRIES)
    if cursor.phase == _ENTRIES:
        found = _next_entries(table, cursor.after, limit)
        if found:
            return [row for row in found if _vanished(table, row)], ScanCursor(_ENTRIES, found[-1])
        cursor = ScanCursor(_RUNS)
    return _vanished_of_runs(table, cursor, limit)


def first_rows(table: Table, limit: int) -> list[Row]:
    """Return the change log's names of the first rows of the table."""
    return [_row_of(table, name) for name in _next_names(table, None, limit)]


def first_entries(table: Table, limit: int) -> list[Row]:
    """Return some of the rows that the change log knows, in the table or not."""
    runs = itertools.islice(table.log.runs.all(), limit)
    return [*_next_entries(table, None, limit), *(run.row for run in runs)][:limit]


def _suspect(view: RowView) -> bool:
    table = view.table
    if not view.stored:
        return not has_large_key(view.row)
    if not view.visible or differing(view):
        return True
    if not table.columns.counters:
        return False
    owned, present = view.owned(), view.present or {}
    held = {name for stored in view.stored for name in view.held(stored)}
    counted = {name: value for name, value in owned.items() if name in table.columns.counters}
    if not counted.keys() <= held:
        return True  # no drain has made registers of a counter since the column was declared one
    return any(not same(present.get(name), value) for name, value in (counted | totals(table, owned)).items())


def _vanished(table: Table, row: Row) -> bool:
    """Return True if the row should be visible by the change log, but is neither in the table nor parked."""
    if table.rows.condition(row) is None or table.rows.read(row) is not None:
        return False
    view = RowView.read(table, row)
    parked = "SELECT 1 FROM mycomesh_parked WHERE id = ? AND row = ?"
    return view.visible and table.store.db.execute(parked, (table.table_id, row)).fetchone() is None


def _next_names(table: Table, after: Any, limit: int) -> list[Any]:
    """Return the next rows of the table in order: rowids, or lists of key values if the table has no rowid."""
    spec, db = table.spec, table.store.db
    if spec.rowid:
        rowid = quoted(spec.rowid)
        start, parameters = ("", ()) if after is None else (f"WHERE t.{rowid} > ?", (after,))
        listing = f"SELECT t.{rowid} FROM {quoted(spec.name)} t {start} ORDER BY t.{rowid} LIMIT ?"
        return [name for (name,) in db.execute(listing, (*parameters, limit))]
    keys = ", ".join(column.keyed for column in spec.key)
    columns = ", ".join(raw_select(f"t.{quoted(column.name)}") for column in spec.key)
    start, values = "", ()
    if after is not None:
        start = f"WHERE ({keys}) > ({', '.join(map(placeholder, after))})"
        values = tuple(map(bind_value, after))
    listing = f"SELECT {columns} FROM {quoted(spec.name)} t {start} ORDER BY {keys} LIMIT ?"
    return [list(restore(record)) for record in db.execute(listing, (*values, limit))]


def _found_by(table: Table, name: list[Any]) -> tuple[str, tuple[Any, ...]]:
    terms = [f"{column.keyed} = {placeholder(value)}" for column, value in zip(table.spec.key, name, strict=True)]
    return " AND ".join(terms), tuple(map(bind_value, name))


def _row_of(table: Table, name: Any) -> Row:
    """Return the change log's name of the row with this rowid or these key values."""
    spec = table.spec
    if spec.kind is not KeyKind.KEYED:
        return int(name)
    values = name
    if isinstance(name, int):
        columns = ", ".join(raw_select(f"t.{quoted(column.name)}") for column in spec.key)
        listing = f"SELECT {columns} FROM {quoted(spec.name)} t WHERE t.{quoted(spec.rowid)} = ?"
        values = restore(table.store.db.execute(listing, (name,)).fetchone())
        if None in values:
            return name
    return encode_key(spec, tuple(values))


def _next_entries(table: Table, after: Any, limit: int) -> list[Row]:
    table.log.flush()
    start, parameters = ("", ()) if after is None else ("WHERE row > ?", (after,))
    listing = f"SELECT DISTINCT row FROM {table.log.name} {start} ORDER BY row LIMIT ?"
    return [row for (row,) in table.store.db.execute(listing, (*parameters, limit))]


def _vanished_of_runs(table: Table, cursor: ScanCursor, limit: int) -> tuple[list[Row], ScanCursor]:
    runs = list(itertools.islice(table.log.runs.from_row(cursor.after), max(limit // 250, 1)))
    if not runs:
        return [], ScanCursor(_END)
    rows = table.log.runs.missing(table.spec.name, table.spec.rowid, runs) if table.spec.rowid else []
    return [row for row in rows if _vanished(table, row)], ScanCursor(_RUNS, runs[-1][0])
