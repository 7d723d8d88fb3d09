"""Read the generated columns of a CREATE TABLE, and apply changes of them to its text.

Generated columns replicate as facts of their own, apart from the CREATE TABLE of their table. A text may come from a peer,
so it first runs in a scratch database.

Invariant: a text defines one generated column of its own name, or has no effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apsw

from mycomesh.sync.sqlite.create_table import columns, definition_of, equivalent, mentions, without_storage
from mycomesh.sync.sqlite.definitions import authorize_add_column, execute_one, rename_columns, scratch
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.refusals import FILE_ERRORS
from mycomesh.sync.sqlite.table_spec import user_tables

__all__ = ["compose", "generated_of", "in_any_order", "rename_text", "with_dependents"]

_SAVEPOINT = "mycomesh_generated"


@functools.lru_cache(maxsize=256)
def generated_of(sql: str) -> Mapping[str, str] | None:
    """Return the text of each generated column of a CREATE TABLE, by folded name; None if it cannot be split."""
    try:
        with scratch(sql) as db:
            return _generated(db, user_tables(db)[0][0])
    except (apsw.Error, IndexError):
        return None


def compose(sql: str, generated: Mapping[str, str]) -> str:
    """Return a CREATE TABLE with the generated columns that separate facts define: `generated` has texts by folded name.

    A stored column of the same name remains. The text "" drops a column, and with it the columns computed from it. Where
    SQLite refuses a text, the column of the CREATE TABLE remains.
    """
    try:
        with scratch(sql) as db:
            (name,) = user_tables(db)[0]
            here = _generated(db, name) or {}
            due = [column for column, text in generated.items() if not _matches(db, name, column, text)]
            due = with_dependents(here, due)
            wanted = {**here, **generated}
            in_any_order([column for column in due if column in here], lambda column: _dropped(db, name, column))
            added = [column for column in due if wanted[column]]
            left = in_any_order(added, lambda column: _added(db, name, column, wanted[column]))
            in_any_order(
                [column for column in left if column in here], lambda column: _added(db, name, column, here[column])
            )
            return definition_of(db, name)
    except (apsw.Error, ValueError):
        return sql


def with_dependents(texts: Mapping[str, str], columns: Sequence[str]) -> list[str]:
    """Return these columns and all generated columns that depend on them, directly or not; `texts` by folded name."""
    found = list(columns)
    while more := [
        column for column, text in texts.items() if column not in found and any(mentions(text, each) for each in found)
    ]:
        found += more
    return found


def in_any_order(columns: Sequence[str], step: Callable[[str], bool]) -> list[str]:
    """Run a step for each column until none succeeds any more, as one may need another; return the columns that failed."""
    left = list(columns)
    while done := [column for column in left if step(column)]:
        left = [column for column in left if column not in done]
    return left


def rename_text(sql: str, column: str, text: str, names: Mapping[str, str]) -> str:
    """Return the text of a generated column with columns of its table renamed; the CREATE TABLE itself lacks the column.

    Raises:
        apsw.Error: SQLite refuses the text in that table, or it defines something else.
    """
    with scratch(sql) as db:
        (table,) = user_tables(db)[0]
        _add(db, table, column, text)
        rename_columns(db, table, names)
        texts = _generated(db, table) or {}
        if column not in texts:
            raise apsw.SQLError(f"cannot find the generated column {column!r} in the table's definition")
        return texts[column]


def _matches(db: Any, table: str, column: str, text: str) -> bool:
    """Return True if a column needs no change: it is as the fact says, or it is stored."""
    here = (_generated(db, table) or {}).get(column)
    if here is not None:
        return equivalent(here, text)
    return not text or column in map(fold, column_names(db, table))


def _dropped(db: Any, table: str, column: str) -> bool:
    """Drop a column; return False if SQLite refuses."""
    try:
        db.execute(f"ALTER TABLE {quoted(table)} DROP COLUMN {quoted(column)}")
    except apsw.SQLError:
        return False
    return True


def _added(db: Any, table: str, column: str, text: str) -> bool:
    """Add a generated column; change nothing and return False if SQLite refuses."""
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        _add(db, table, column, text)
    except FILE_ERRORS:
        raise  # the caller's transaction ends with it, and the savepoint too
    except apsw.Error:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        db.execute(f"RELEASE {_SAVEPOINT}")
        return False
    db.execute(f"RELEASE {_SAVEPOINT}")
    return True


def _add(db: Any, table: str, column: str, text: str) -> None:
    """Add a generated column to a scratch table; raise apsw.Error if the text defines anything else."""
    execute_one(db, f"ALTER TABLE {quoted(table)} ADD COLUMN {text}", authorize_add_column(table))
    if column not in (_generated(db, table) or {}):
        raise apsw.SQLError(f"this text does not define a generated column {column!r}")


def _generated(db: Any, table: str) -> dict[str, str] | None:
    """Return the text of each generated column of a table, as `without_storage` returns it, by folded name.

    None if the definition cannot be split.
    """
    listing = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden IN (2, 3) ORDER BY cid"
    names = [fold(name) for (name,) in db.execute(listing, (table,)).fetchall()]
    texts = columns(db, table) if names else {}
    return None if names and not texts else {name: without_storage(texts[name]) for name in names}
