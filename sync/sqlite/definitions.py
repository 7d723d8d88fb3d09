"""Parse and rewrite CREATE TABLE statements in a scratch database.

A definition may come from a peer, so it first runs in an in-memory database whose authorizer allows one CREATE TABLE and
nothing else, no SELECT either. SQLite itself then reports the columns, and renames or drops them in the text.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apsw

from mycomesh.sync.sqlite.create_table import columns, definition_of
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, SHARED, fold, quoted
from mycomesh.sync.sqlite.refusals import FILE_ERRORS
from mycomesh.sync.sqlite.table_spec import TableSpec, UnsupportedTable, affinity, read_table, user_tables
from mycomesh.sync.sqlite.tokens import without_comments

__all__ = [
    "accept_collations",
    "authorize_add_column",
    "authorize_create",
    "column_clauses",
    "definition_refusal",
    "execute_one",
    "index_owner",
    "is_null_default",
    "limit_scratch",
    "missing_collation",
    "read_definition",
    "rename_columns",
    "rename_tables",
    "rewrite_definition",
    "scratch",
]

# (operation, its two subjects, schema, trigger) -> whether SQLite may do it
Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]
# ADD COLUMN needs a default for a NOT NULL column. Where the definition has none, rows that exist get the empty value.
_EMPTY = {"TEXT": "''", "BLOB": "x''", "INTEGER": "0", "REAL": "0", "NUMERIC": "0"}
_SPARE = "mycomesh_spare_"  # prefix of temporary names


# Limits of a scratch database. A text of a peer can compute nothing while it is read: a definition needs no SELECT, and SQLite
# computes no expression before there is a row. The limits are for the changes and trials that follow, and for SQLite's memory.
SCRATCH_BYTES_MAX = 1 << 20  # of one value, four times the longest text of a definition
SCRATCH_OPERATIONS_MAX = (
    100_000  # of one statement as SQLite compiles it; a list of 10,000 constants takes half of that
)
SCRATCH_DEPTH_MAX = 250  # of one expression: the terms of a sum that no bracket divides; SQLite's own limit is 1,000
SCRATCH_STEPS_MAX = 5_000_000  # of one statement, some 50 ms; counted, since a replay must not depend on a clock
_LIMITS = (
    (apsw.SQLITE_LIMIT_LENGTH, SCRATCH_BYTES_MAX),
    (apsw.SQLITE_LIMIT_SQL_LENGTH, SCRATCH_BYTES_MAX),
    (apsw.SQLITE_LIMIT_VDBE_OP, SCRATCH_OPERATIONS_MAX),
    (apsw.SQLITE_LIMIT_EXPR_DEPTH, SCRATCH_DEPTH_MAX),
    (apsw.SQLITE_LIMIT_ATTACHED, 0),
)


@contextlib.contextmanager
def scratch(sql: str, *, any_collation: bool = True) -> Iterator[Any]:
    """Yield an in-memory database with that one table, empty; raise apsw.Error if the SQL does anything else.

    A collation that only the application defines compares bytes there, unless `any_collation` is False.
    """
    db: Any = apsw.Connection(":memory:")
    try:
        if any_collation:
            accept_collations(db)
        limit_scratch(db)
        execute_one(db, sql, authorize_create(apsw.SQLITE_CREATE_TABLE))
        yield db
    finally:
        db.close()


def limit_scratch(db: Any) -> None:
    """Limit what texts of a peer may take of a scratch database."""
    for limit, value in _LIMITS:
        db.limit(limit, value)
    db.set_progress_handler(_give_up, SCRATCH_STEPS_MAX)


def _give_up() -> bool:
    return True


def accept_collations(db: Any) -> None:
    """Let a connection compare bytes for a collation that it lacks. It must write no file, whose indexes have another order."""
    db.collation_needed(lambda db, name: db.create_collation(name, lambda one, two: (one > two) - (one < two)))


def execute_one(db: Any, sql: str, authorizer: Authorizer) -> None:
    """Run one statement under an authorizer; raise apsw.SQLError, before the second begins, if the SQL has more than one."""
    statements = 0

    def trace(_cursor: Any, statement: str, _bindings: Any) -> bool:
        nonlocal statements
        statements += without_comments(statement).strip("; \t\n\f\r\ufeff") != ""
        return statements == 1

    db.authorizer, db.exec_trace = authorizer, trace
    try:
        db.execute(sql, can_cache=False).fetchall()
    except apsw.ExecTraceAbort as error:
        raise apsw.SQLError("more than one statement") from error
    finally:
        db.authorizer = db.exec_trace = None


def read_definition(sql: str) -> TableSpec | None:
    """Return the table that a CREATE TABLE from a fact defines; None for any other SQL and for an unsupported table."""
    read = _read(sql)
    return read if isinstance(read, TableSpec) else None


def definition_refusal(sql: str) -> str:
    """Return why `read_definition` finds no table in a text, "" if it finds one."""
    read = _read(sql)
    return read if isinstance(read, str) else ""


@functools.lru_cache(maxsize=256)
def _read(sql: str, *, any_collation: bool = True) -> TableSpec | str:
    try:
        with scratch(sql, any_collation=any_collation) as db:
            names, _ = user_tables(db)
            return read_table(db, names[0]) if len(names) == 1 else "it is not one plain CREATE TABLE"
    except (apsw.Error, UnsupportedTable) as error:
        return str(error)


def missing_collation(sql: str) -> str:
    """Return what SQLite says of a CREATE TABLE with a collation that only an application defines, "" without one.

    No program without that collation can VACUUM a file with such a table, so it enters no file that has not got it.
    """
    read = _read(sql, any_collation=False)
    found = isinstance(read, str) and re.search("no such collation sequence: .*", read)
    return found[0] if found else ""


def rewrite_definition(sql: str, *, table: str, columns: Mapping[str, str], without: Iterable[str] = ()) -> str | None:
    """Return a CREATE TABLE with another table name and column names; None if SQLite cannot rename them.

    `columns` maps present folded names to new names. `without` are folded names of columns to drop where SQLite can.
    """
    try:
        with scratch(sql) as db:
            (name,) = user_tables(db)[0]
            for column in without:
                with contextlib.suppress(apsw.SQLError):  # a constraint of the table uses it
                    db.execute(f"ALTER TABLE {quoted(name)} DROP COLUMN {quoted(column)}")
            rename_columns(db, name, columns)
            rename_tables(db, {name: table})
            (name,) = user_tables(db)[0]
            return definition_of(db, name)
    except (apsw.Error, ValueError):
        return None


def rename_columns(db: Any, table: str, names: Mapping[str, str]) -> None:
    """Rename columns all at once, so that two may swap names; raise apsw.SQLError if SQLite refuses."""
    for old, new in _steps(names):
        db.execute(f"ALTER TABLE {quoted(table)} RENAME COLUMN {quoted(old)} TO {quoted(new)}")


def rename_tables(db: Any, names: Mapping[str, str]) -> None:
    """Rename tables all at once, as `rename_columns` does with columns."""
    for old, new in _steps(names):
        db.execute(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(new)}")


def _steps(names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the renames one after another, through temporary names if a new name is the old name of another."""
    renames = {old: new for old, new in names.items() if fold(old) != fold(new)}
    if not {fold(old) for old in renames} & {fold(new) for new in renames.values()}:
        return list(renames.items())
    spare = {old: f"{_SPARE}{number}" for number, old in enumerate(renames)}
    return [*spare.items(), *((spare[old], new) for old, new in renames.items())]


def column_clauses(db: Any, table: str, column: str, *, bare: bool = False) -> list[str]:
    """Return texts for ADD COLUMN that copy a column of a scratch table, the most complete first.

    ALTER TABLE accepts less than CREATE TABLE does, and nothing that a row of this file violates. The caller tries one text
    after another: a column with fewer constraints is better than no column. An application of this node may not know the
    column, so one that may not be NULL has a default. `bare` texts have no constraint that the default could violate.
    """
    whole = "" if bare else columns(db, table).get(fold(column), "")
    declared, collation, not_null, _key, _auto = db.column_metadata("main", table, column)
    default = db.execute("SELECT dflt_value FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone()[0]
    least = f"{quoted(column)} {declared or ''} COLLATE {quoted(collation)}"
    if not_null and is_null_default(default):
        filled = f"DEFAULT {_EMPTY[affinity(declared or '')]}"
        return [*([f"{whole} {filled}"] if whole else []), f"{least} NOT NULL {filled}", least]
    if default is None:
        return [*filter(None, [whole]), least]
    default = f"DEFAULT ({without_comments(default)}){' NOT NULL' if not_null else ''}"
    return [*filter(None, [whole]), f"{least} {default}", least]


def is_null_default(default: str | None) -> bool:
    """Return True if a column has no default, or NULL written out."""
    return default is None or without_comments(default).strip("() \t\n\f\r").upper() == "NULL"


def index_owner(db: Any, sql: str) -> str:
    """Return the table on which a CREATE INDEX would make an index in this file; "" if SQLite would not, or for any other SQL."""
    owners: list[str] = []
    allow = authorize_create(apsw.SQLITE_CREATE_INDEX)

    def authorize(operation: int, first: str | None, second: str | None, third: str | None, fourth: str | None) -> int:
        if operation == apsw.SQLITE_CREATE_INDEX and second:
            owners.append(second)
        return allow(operation, first, second, third, fourth)

    try:
        execute_one(db, f"EXPLAIN {sql}", authorize)
    except FILE_ERRORS:
        raise
    except apsw.Error:
        return ""
    return owners[0] if owners else ""


def authorize_add_column(table: str) -> Authorizer:
    """Return an authorizer that allows SQL to add one column to one table, and SQLite to check the rows against it."""
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
    """Return an authorizer that allows one kind of CREATE: no other statement, no SELECT, no ATTACH, no pragma.

    It denies an index with a reserved name or on an internal table, where a UNIQUE index could make the node's writes fail.
    """
    allowed = {
        action,
        apsw.SQLITE_CREATE_INDEX,  # for UNIQUE and PRIMARY KEY of the table itself
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
            folded.startswith(INTERNAL_PREFIX) and folded not in SHARED
            for folded in (fold(first or ""), fold(second or ""))
        ):
            return apsw.SQLITE_DENY
        if operation in (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE) and first not in ("sqlite_master", "sqlite_schema"):
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK

    return authorize
