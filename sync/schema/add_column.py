"""Adds a column of another node's definition to a user's table.

SQLite may refuse parts of the definition, so the column comes with as much of it as SQLite takes. Rows that the CHECK of the
column refuses are parked, as on every replica that has the CHECK already (ADR 23).

Invariant: SQL text from a peer adds one column to one table and does nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from mycomesh.sync.merge.merge import park_row
from mycomesh.sync.merge.unique_claims import rows_where
from mycomesh.sync.sqlite.create_table import checks_of
from mycomesh.sync.sqlite.definitions import authorize_add_column, execute_one
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.storage.table import Table

__all__ = ["PARKED_MAX", "add_column"]

_SAVEPOINT = "mycomesh_add"
# Rows that one column parks, some 0.2 ms each in one transaction. If its CHECK refuses more, the column comes without it.
PARKED_MAX = 128


def add_column(db: Any, name: str, clauses: Sequence[str], table: Table | None = None) -> str:
    """Add a column by the first of these texts that SQLite takes; return why it takes none, "" once it took one.

    With `table`, rows that the first text refuses may be parked.
    """
    refused = _add(db, name, clauses[0])
    if refused and table is not None and len(clauses) > 1 and _park_refused(table, name, clauses):
        refused = _add(db, name, clauses[0])
    for clause in clauses[1:]:
        if not refused:
            break
        refused = _add(db, name, clause)
    return refused


def _add(db: Any, name: str, clause: str) -> str:
    """Add a column and return "", or change nothing and return why SQLite refuses it."""
    refused = ""
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        execute_one(db, f"ALTER TABLE {quoted(name)} ADD COLUMN {clause}", authorize_add_column(name))
        _compute(db, name)
    except REFUSALS as error:
        refused = str(error)
    if refused:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
    db.execute(f"RELEASE {_SAVEPOINT}")
    return refused


def _compute(db: Any, name: str) -> None:
    """Compute the last column of a table in every row if it is generated: an application's SELECT would fail where this fails."""
    listing = "SELECT name, hidden FROM pragma_table_xinfo(?) ORDER BY cid DESC LIMIT 1"
    column, hidden = db.execute(listing, (name,)).fetchone()
    if hidden:
        db.execute(f"SELECT count(typeof({quoted(column)})) FROM {quoted(name)}").fetchall()


def _park_refused(table: Table, name: str, clauses: Sequence[str]) -> bool:
    """Park the rows that the CHECKs of a column refuse; return False, with nothing done, for none or too many."""
    checks = checks_of(clauses[0])
    if not checks:
        return False
    db = table.store.db
    refused: list[Any] = []
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        if not _add(db, name, clauses[1]):
            condition = " OR ".join(f"NOT {check}" for check in checks)
            db.authorizer = _reading
            refused = rows_where(table, f"{condition} LIMIT {PARKED_MAX + 1}")
    except REFUSALS:
        refused = []
    finally:
        db.authorizer = None
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        db.execute(f"RELEASE {_SAVEPOINT}")
    if not refused or len(refused) > PARKED_MAX:
        return False
    for row in refused:
        park_row(table, row, f"CHECK constraint failed: {' AND '.join(check[1:-1] for check in checks)}")
    table.log.flush()
    return True


def _reading(operation: int, _first: str | None, _second: str | None, _third: str | None, _fourth: str | None) -> int:
    return (
        apsw.SQLITE_OK
        if operation in (apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION)
        else apsw.SQLITE_DENY
    )
