"""UNIQUE indexes of a table: the columns that they compare, and SQL that finds the rows which a new row conflicts with.

SQLite's catalogue has no text for the expressions of an index, so this module cuts them from its CREATE INDEX.

Invariant: SQLite has compiled each expression before it goes into a trigger, as a trigger with an error would make the
application's writes fail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import raw_select, restore
from mycomesh.sync.sqlite.refusals import FILE_ERRORS
from mycomesh.sync.sqlite.tokens import COMMENTS, TOKEN, readable_sql

__all__ = ["UniqueIndex", "column_names", "key_terms", "unique_indexes", "user_indexes"]

_GROUP = 32  # columns in one group of an expression: the 900 of the widest table are 29 groups

_ORDER = re.compile(r"\s+(?:asc|desc)\s*\Z", re.IGNORECASE)
_WHERE = re.compile(r"\A\s*where\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """A UNIQUE constraint or index other than the primary key.

    `columns` are (name, collation) of the stored columns that together must be unique. They are empty for a partial index
    and for one on an expression or a generated column. `match` is SQL that is true for each row `e` with which a row `NEW`
    may conflict in the index, one at most; "" if there is no such SQL.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    match: str


def user_indexes(db: Any) -> list[tuple[str, str, str]]:
    """Return (name, table, sql) of each index that a user has created."""
    listing = (
        f"SELECT {', '.join(map(raw_select, ('name', 'tbl_name', 'sql')))} FROM sqlite_schema"
        " WHERE type = 'index' AND sql IS NOT NULL AND name NOT LIKE 'mycomesh\\_%' ESCAPE '\\' ORDER BY name"
    )
    found = (map(readable_sql, restore(cells)) for cells in db.execute(listing).fetchall())
    return [(name, table, sql) for name, table, sql in found if name and table and sql]


def column_names(db: Any, table: str) -> list[str]:
    """Return the names of a table's stored columns in the order of its definition."""
    listing = "SELECT name FROM pragma_table_xinfo(?) WHERE NOT hidden ORDER BY cid"
    return [name for (name,) in db.execute(listing, (table,)).fetchall()]


def key_terms(db: Any, table: str) -> dict[str, str] | None:
    """Return the collation by which the primary key compares each of its columns; None if the key has no index of its own."""
    listing = "SELECT name FROM pragma_index_list(?) WHERE origin = 'pk'"
    found = db.execute(listing, (table,)).fetchone()
    return None if found is None else {str(name): collation for name, collation in _terms(db, found[0])}


def unique_indexes(db: Any, table: str) -> tuple[UniqueIndex, ...]:
    """Return the UNIQUE indexes of a table except its primary key, sorted by name."""
    listing = "SELECT name, partial FROM pragma_index_list(?) WHERE \"unique\" AND origin <> 'pk' ORDER BY name"
    stored = column_names(db, table)
    values = _new_values(db, table)
    found = []
    for name, partial in db.execute(listing, (table,)).fetchall():
        terms = _terms(db, name)
        plain = not partial and all(column in stored for column, _ in terms)
        match = _match(db, table, terms, _texts(db, name, len(terms)), values)
        if match and any(column not in stored for column, _ in terms):
            # In a BEFORE UPDATE trigger SQLite computes generated columns only from the columns that the trigger names.
            match += f" AND (1 OR {_any_of([f'NEW.{quoted(column)}' for column in stored])})"
        found.append(UniqueIndex(name, tuple((str(column), coll) for column, coll in terms) if plain else (), match))
    return tuple(found)


def _any_of(terms: Sequence[str]) -> str:
    """Return SQL for `a OR b OR ..` in groups: SQLite's limit of 1,000 is of the depth, and a chain is as deep as long."""
    groups = [terms[at : at + _GROUP] for at in range(0, len(terms), _GROUP)]
    return " OR ".join(f"({' OR '.join(group)})" for group in groups)


def _terms(db: Any, index: str) -> list[tuple[str | None, str]]:
    """Return (column, collation) of each term of an index; an expression has None as its column."""
    listing = "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno"
    return [(column, str(collation).upper()) for column, collation in db.execute(listing, (index,)).fetchall()]


def _new_values(db: Any, table: str) -> dict[str, str]:
    """Return SQL for the value that a row `NEW` will have in each column, generated ones included.

    REPLACE stores the default instead of a NULL in a NOT NULL column, but only after the BEFORE triggers have run.
    """
    listing = (
        'SELECT name, "notnull" AND NOT hidden, dflt_value FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid'
    )
    values = {}
    for name, strict, default in db.execute(listing, (table,)).fetchall():
        values[name] = f"NEW.{quoted(name)}"
        if strict and default is not None and _constant(db, default):
            values[name] = f"coalesce({values[name]}, {default})"
    return values


def _constant(db: Any, default: str) -> bool:
    """Return True if a default is a constant in a query too, where a plain or double-quoted word would be a column."""
    try:
        db.execute(f"EXPLAIN SELECT {default}", can_cache=False).close()
    except FILE_ERRORS:
        raise
    except apsw.Error:
        return False
    return not any(sign in default for sign in ('"', *COMMENTS))


def _match(
    db: Any,
    table: str,
    terms: Sequence[tuple[str | None, str]],
    texts: tuple[Sequence[str], str],
    values: Mapping[str, str],
) -> str:
    expressions, condition = texts
    equal = []
    new = ", ".join(f"{value} AS {quoted(name)}" for name, value in values.items())
    for number, (column, collation) in enumerate(terms):
        if column is not None:
            equal.append(f"e.{quoted(column)} = {values[column]} COLLATE {quoted(collation)}")
            continue
        if not expressions:
            return ""
        text = expressions[number]
        if condition:  # the expression may fail for a row that is not in the index: text that is not JSON
            text = f"CASE WHEN {condition} THEN {text} END"
        if not _compiles(db, table, text):
            return ""
        equal.append(f"({text}) = (SELECT ({text}) FROM (SELECT {new})) COLLATE {quoted(collation)}")
    if condition and not any(column is None for column, _ in terms) and _compiles(db, table, condition):
        equal.append(condition)  # other rows may be equal, and are not in the index
    return " AND ".join(equal)


def _compiles(db: Any, table: str, text: str) -> bool:
    """Return True if an expression over the columns of a table compiles in a query."""
    try:
        db.execute(f"SELECT ({text}) FROM {quoted(table)} e WHERE 0").fetchall()
    except FILE_ERRORS:
        raise
    except apsw.Error:
        return False
    return True


def _texts(db: Any, index: str, count: int) -> tuple[list[str], str]:
    """Return the texts of an index's terms, empty if they cannot be split, and its WHERE condition, "" if it has none."""
    listing = f"SELECT {raw_select('sql')} FROM sqlite_schema WHERE type = 'index' AND name = ?"
    (sql,) = restore(db.execute(listing, (index,)).fetchone())
    sql = None if sql is None else readable_sql(sql)
    if sql is None:  # the index of a constraint has only columns
        return [], ""
    depth = 0
    terms = [""]
    pieces = iter([" " if piece.startswith(COMMENTS) else piece for piece in TOKEN.findall(sql)])
    for piece in pieces:
        if piece == ")":
            depth -= 1
            if not depth:
                break
        if piece == "," and depth == 1:
            terms.append("")
        elif depth:
            terms[-1] += piece
        depth += piece == "("
    terms = [_ORDER.sub("", term).strip() for term in terms]
    condition = _WHERE.sub("", "".join(pieces))
    return (terms, f"({condition})" if condition.strip() else "") if len(terms) == count and all(terms) else ([], "")
