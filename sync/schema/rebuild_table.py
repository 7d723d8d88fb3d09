"""Rebuilds a user's table after another node's program has given it another definition.

SQLite cannot alter a type or most constraints in place, so the rows are copied into a table with the new definition,
under the same rowids. Rows that the new constraints refuse are parked, as on every replica that has them already.

Invariant: a table is rebuilt with all of its rows in it or parked, with its indexes and triggers, or it stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import apsw

from mycomesh.sync.merge.merge import park_row
from mycomesh.sync.sqlite.create_table import mentions
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_key
from mycomesh.sync.storage.table import Table

__all__ = ["REBUILT_PARKED_MAX", "REBUILT_ROWS_MAX", "rebuild_table"]

# Rows that are copied under the write lock, some 3 us each. The program of this node may rebuild a larger table itself.
REBUILT_ROWS_MAX = 100_000
REBUILT_PARKED_MAX = 128  # rows that one rebuild parks, some 0.2 ms each
_SAVEPOINT = "mycomesh_rebuild"
_OLD = f"{INTERNAL_PREFIX}rebuilt"


class _RefusedError(Exception):
    """The table cannot be rebuilt; the text says why."""


def rebuild_table(table: Table, definition: str) -> str:
    """Give a table this definition, under its name here; return why not, "" if it was done.

    Inside a transaction in which every captured write has its stamp; capture is not installed on the table.
    """
    db = table.store.db
    counted = f"SELECT count(*) FROM (SELECT 1 FROM {quoted(table.spec.name)} LIMIT {REBUILT_ROWS_MAX + 1})"
    if db.execute(counted).fetchone()[0] > REBUILT_ROWS_MAX:
        return f"it has more than {REBUILT_ROWS_MAX:,} rows, which would lock the file for long: run the same migration here"
    try:
        refused = _try(table, definition)
        if refused and len(refused) <= REBUILT_PARKED_MAX:
            for row in refused:
                park_row(table, row, "constraint failed: the table was rebuilt on another node")
            table.log.flush()
            refused = _try(table, definition)
        if refused:
            return f"more than {REBUILT_PARKED_MAX} rows violate it: correct them, then run the same migration here"
    except (*REFUSALS, _RefusedError) as error:
        return str(error)
    return ""


def _try(table: Table, definition: str) -> list[Row]:
    """Rebuild a table, and undo that if some rows do not get in; return up to `REBUILT_PARKED_MAX` + 1 of them."""
    db = table.store.db
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    done = False
    # RENAME then leaves views, triggers and foreign keys of other tables as they are.
    db.execute("PRAGMA legacy_alter_table = ON").fetchall()
    try:
        refused = _rebuild(table, definition)
        done = not refused
    finally:
        db.execute("PRAGMA legacy_alter_table = OFF").fetchall()
        if not done:
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        db.execute(f"RELEASE {_SAVEPOINT}")
    return refused


def _rebuild(table: Table, definition: str) -> list[Row]:
    db, name = table.store.db, table.spec.name
    listing = "SELECT sql FROM sqlite_schema WHERE tbl_name = ? AND type <> 'table' AND sql IS NOT NULL ORDER BY rowid"
    views = _readable_views(db, name)
    attached = [sql for (sql,) in db.execute(listing, (name,)).fetchall()]
    numbered = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'"
    sequence = db.execute(numbered).fetchone() and _sequence(db, name)
    before = column_names(db, name)
    db.execute(f"ALTER TABLE {quoted(name)} RENAME TO {_OLD}")
    db.execute(definition)
    now = column_names(db, name)
    lacking = {fold(column) for column in before} - {fold(column) for column in now}
    if lacking & table.spec.canonical_names.keys():  # others are dropped on the mesh, and SQLite could not drop them
        raise _RefusedError("this file has columns that it lacks")
    copied = [quoted(column) for column in now if fold(column) in map(fold, before)]
    if table.spec.rowid and fold(table.spec.rowid) not in map(fold, now):
        copied.append(table.spec.rowid)
    columns = ", ".join(copied)
    db.execute(f"INSERT OR IGNORE INTO {quoted(name)}({columns}) SELECT {columns} FROM {_OLD}")
    refused = _missing(table)
    db.execute(f"DROP TABLE {_OLD}")
    for sql in attached:
        db.execute(sql)
    unreadable = views - _readable_views(db, name)
    if unreadable:
        raise _RefusedError(f"view {min(unreadable)} reads what it lacks")
    if sequence and _sequence(db, name) is not None:
        db.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (sequence[0], name))
    elif sequence and "autoincrement" in fold(definition):
        db.execute("INSERT INTO sqlite_sequence(name, seq) VALUES(?, ?)", (name, sequence[0]))
    return refused


def _readable_views(db: Any, table: str) -> set[str]:
    """Return the views that may read a table and can be compiled."""
    found = set()
    for name, sql in db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'view' ORDER BY name").fetchall():
        if mentions(sql, fold(table)):
            with contextlib.suppress(apsw.Error):
                db.execute(f"EXPLAIN SELECT * FROM {quoted(name)}", can_cache=False).close()
                found.add(name)
    return found


def _sequence(db: Any, name: str) -> tuple[int] | None:
    found: tuple[int] | None = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (name,)).fetchone()
    return found


def _missing(table: Table) -> list[Row]:
    """Return the change log's names of the rows of the old table that the new one lacks."""
    spec = table.spec
    by = [spec.rowid] if spec.rowid else [column.name for column in spec.key]
    same = " AND ".join(f"n.{quoted(column)} = o.{quoted(column)}" for column in by)
    keys: Sequence[Any] = spec.key if spec.kind is KeyKind.KEYED else ()
    terms = [f"o.{quoted(column.name)}" for column in keys] + ([f"o.{quoted(spec.rowid)}"] if spec.rowid else [])
    listing = (
        f"SELECT {', '.join(terms)} FROM {_OLD} o WHERE NOT EXISTS (SELECT 1 FROM {quoted(spec.name)} n WHERE {same})"
        f" LIMIT {REBUILT_PARKED_MAX + 1}"
    )
    try:
        records = table.store.db.execute(listing).fetchall()
    except (UnicodeDecodeError, apsw.SQLError) as error:
        raise _RefusedError(str(error)) from error
    named: list[Row] = []
    for record in records:
        key = record[: len(keys)]
        named.append(encode_key(spec, key) if key and None not in key else record[-1])
    return named
