"""Table definitions as text: what a CREATE TABLE from a fact defines, and the same table under other names.

Owns the scratch databases in which SQL from peers is read: nothing but one CREATE TABLE runs there, and never in the user's
file before that. What always holds: a definition on the mesh speaks in the names that the mesh has for a table and its
columns (`names`), whatever a file calls them. It must not know files, facts or peers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apsw

from mycomesh.sync.sqlite.create_table import columns, definition_of
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.table_spec import TableSpec, UnsupportedTable, affinity, read_table, user_tables
from mycomesh.sync.sqlite.tokens import without_comments

__all__ = [
    "authorize_add_column",
    "authorize_create",
    "column_clauses",
    "read_definition",
    "rename_columns",
    "rename_tables",
    "rewrite_definition",
    "scratch",
]

# (operation, its two subjects, schema, trigger) -> whether SQLite may do it
Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]
# What a column that may not be NULL and has no default holds where nobody has written it: ADD COLUMN asks for something.
_EMPTY = {"TEXT": "''", "BLOB": "x''", "INTEGER": "0", "REAL": "0", "NUMERIC": "0"}
_SPARE = "mycomesh_spare_"  # of names that stand for a moment


@contextlib.contextmanager
def scratch(sql: str) -> Iterator[Any]:
    """Give an empty in-memory database with that one table; raises apsw.Error if the SQL does more than make it."""
    db: Any = apsw.Connection(":memory:")
    try:
        db.authorizer = authorize_create(apsw.SQLITE_CREATE_TABLE)
        db.execute(sql)
        db.authorizer = None
        yield db
    finally:
        db.close()


def read_definition(sql: str) -> TableSpec | None:
    """Return what a CREATE TABLE from a fact defines, None if it is anything else."""
    try:
        with scratch(sql) as db:
            names, _ = user_tables(db)
            return read_table(db, names[0]) if len(names) == 1 else None
    except (apsw.Error, UnsupportedTable):
        return None


def rewrite_definition(sql: str, *, table: str, columns: Mapping[str, str], without: Iterable[str] = ()) -> str | None:
    """Return the CREATE TABLE of the same table under other names; None if its SQL does not allow that.

    `columns` has new names by present ones, folded; `without` are columns that go, folded, where SQLite can drop them.
    """
    try:
        with scratch(sql) as db:
            (name,) = user_tables(db)[0]
            for column in without:
                with contextlib.suppress(apsw.SQLError):  # it is in a constraint of the table
                    db.execute(f"ALTER TABLE {quoted(name)} DROP COLUMN {quoted(column)}")
            rename_columns(db, name, columns)
            rename_tables(db, {name: table})
            (name,) = user_tables(db)[0]
            return definition_of(db, name)
    except (apsw.Error, ValueError):
        return None


def rename_columns(db: Any, table: str, names: Mapping[str, str]) -> None:
    """Rename columns all at once, so that two may take each other's names; apsw.SQLError where SQLite refuses."""
    for old, new in _steps(names):
        db.execute(f"ALTER TABLE {quoted(table)} RENAME COLUMN {quoted(old)} TO {quoted(new)}")


def rename_tables(db: Any, names: Mapping[str, str]) -> None:
    """Rename tables, as `rename_columns` does columns."""
    for old, new in _steps(names):
        db.execute(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(new)}")


def _steps(names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return renames one after the other; over spare names where one that is taken becomes free on the way."""
    moving = {old: new for old, new in names.items() if fold(old) != fold(new)}
    if not {fold(old) for old in moving} & {fold(new) for new in moving.values()}:
        return list(moving.items())
    spare = {old: f"{_SPARE}{number}" for number, old in enumerate(moving)}
    return [*spare.items(), *((spare[old], new) for old, new in moving.items())]


def column_clauses(db: Any, table: str, column: str) -> list[str]:
    """Return texts by which ADD COLUMN makes a column as one of a scratch database's table: the most of it first.

    ALTER TABLE takes less than CREATE TABLE does, and what rows here refuse not at all: the column is better than none.
    """
    whole = columns(db, table).get(fold(column))
    declared, collation, not_null, _key, _auto = db.column_metadata("main", table, column)
    default = db.execute("SELECT dflt_value FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone()[0]
    bare = f"{quoted(column)} {declared or ''} COLLATE {quoted(collation)}"
    if default is None and not_null:
        filled = f"DEFAULT {_EMPTY[affinity(declared or '')]}"
        return [*([whole, f"{whole} {filled}"] if whole else []), f"{bare} NOT NULL {filled}", bare]
    if default is None:
        return [*filter(None, [whole]), bare]
    default = f"DEFAULT ({without_comments(default)}){' NOT NULL' if not_null else ''}"
    return [*filter(None, [whole]), f"{bare} {default}", bare]


def authorize_add_column(table: str) -> Authorizer:
    """An authorizer that lets SQL add one column to one table, and have SQLite see whether its rows bear it."""
    allowed = {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION}
    altered = False

    def authorize(operation: int, first: str | None, second: str | None, third: str | None, _fourth: str | None) -> int:
        nonlocal altered
        if operation == apsw.SQLITE_ALTER_TABLE:
            permitted = not altered and (first, second, third) == ("main", table, None)
            altered = True
        elif operation == apsw.SQLITE_UPDATE:
            permitted = first in ("sqlite_master", "sqlite_schema")
        elif operation == apsw.SQLITE_PRAGMA:
            permitted = (first, second) == ("quick_check", table)
        else:
            permitted = operation in allowed
        return apsw.SQLITE_OK if permitted else apsw.SQLITE_DENY

    return authorize


def authorize_create(action: int) -> Authorizer:
    """An authorizer that lets SQL make one thing: no other statement, no ATTACH, no pragma, no reading of tables.

    What it makes is a user's: no index of one of our names, nor on one of our tables, where it could refuse what we write.
    """
    allowed = {
        action,
        apsw.SQLITE_CREATE_INDEX,  # a UNIQUE or PRIMARY KEY of the table itself
        apsw.SQLITE_SELECT,
        apsw.SQLITE_INSERT,
        apsw.SQLITE_UPDATE,
        apsw.SQLITE_READ,
        apsw.SQLITE_FUNCTION,
        apsw.SQLITE_REINDEX,
    }

    def authorize(
        operation: int, first: str | None, second: str | None, _third: str | None, _fourth: str | None
    ) -> int:
        if operation not in allowed:
            return apsw.SQLITE_DENY
        if operation == apsw.SQLITE_CREATE_INDEX and any(
            fold(name or "").startswith(INTERNAL_PREFIX) for name in (first, second)
        ):
            return apsw.SQLITE_DENY
        if operation in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE) and first not in ("sqlite_master", "sqlite_schema"):
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK

    return authorize
