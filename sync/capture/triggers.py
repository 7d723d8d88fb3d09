"""Capture in SQL: the pending log of a table, and the triggers that log writes of any SQLite client.

Triggers run in programs that know nothing of the node, which sets three rules for their bodies:

- They write only to tables without a UNIQUE constraint. An outer OR REPLACE or OR IGNORE overrides the conflict clause of
  statements inside a trigger.
- They call no application-defined function.
- They use only SQL that old SQLite versions know.
- They still compile after a program has dropped a column that they name. SQLite looks for a name from the inside out: in the
  FROM of a subquery, in OLD and NEW, then in the queries around it. So each expression that names columns is a subquery, and
  the query around it has NULL in place of each column (`_instead`). Without that, DROP COLUMN would fail (ADR 38).

Reasons and measurements: design.md section 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import UniqueIndex
from mycomesh.sync.sqlite.table_spec import Column, KeyKind, TableSpec
from mycomesh.sync.storage.pending_log import (
    OP_DELETE,
    OP_EVICT,
    OP_INSERT,
    WORD_BITS,
    _key_values,
    key_names,
    pending_name,
    word_names,
)

__all__ = [
    "TIMED",
    "are_created",
    "create_statements",
    "drop_statements",
    "is_current",
    "pending_log_statement",
    "survives_drops",
    "trigger_count",
    "trigger_names",
]

TIMED = "julianday()"  # the time of a write; an argument 'now' would be parsed for each row
# Columns compared in one decision tree. For three columns, seven comparisons are written and three are run.
_TREE_COLUMNS = 3
# Every program that opens the file parses the triggers, and keeps 1.4 kB of memory for a column in such a tree and 0.8 kB for one
# alone. With more columns than this each is compared alone: at 800 an update takes a quarter longer.
_MANY_COLUMNS = 256
# Absent columns as a query finds them (`_instead`). RENAME leaves these names as they are.
_ABSENT = re.compile(
    r" LEFT JOIN \(SELECT NULL .*? FROM mycomesh_pending_\d+ WHERE rowid = 0\) (?:OLD|NEW|e)\b", re.DOTALL
)


def trigger_names(table_id: int) -> tuple[str, ...]:
    """Return the names of every trigger that capture may have created for the table."""
    return tuple(
        f"mycomesh_{table_id}_{suffix}"
        for suffix in ("insert", "update", "rekey", "delete", "evict_i", "evict_u", "evict_x")
    )


def pending_log_statement(spec: TableSpec, table_id: int, bits: Mapping[str, int]) -> str:
    """Return the SQL that creates the pending log if it is absent; `bits` is folded column -> bit."""
    log_columns = ", ".join(["at", *word_names(bits), *key_names(spec)])
    return f"CREATE TABLE IF NOT EXISTS {pending_name(table_id)}({log_columns})"


def create_statements(spec: TableSpec, table_id: int, bits: Mapping[str, int]) -> list[str]:
    """Return the SQL that creates all triggers, which need the pending log; `bits` is folded column -> bit."""
    table = quoted(spec.name)
    names = trigger_names(table_id)
    statements = [
        _trigger(
            names[0], "AFTER INSERT", table, "", [_log(spec, table_id, OP_INSERT, "NEW", timed=_needs_time(spec))]
        ),
        _update_trigger(spec, table_id, bits),
        _trigger(
            names[2],
            f"AFTER UPDATE OF {_naming_columns(spec)}",
            table,
            f"WHEN {_key_changed(spec)}",
            [_log(spec, table_id, OP_DELETE, "OLD"), _log(spec, table_id, OP_INSERT, "NEW")],
        ),
        _trigger(names[3], "AFTER DELETE", table, "", [_log(spec, table_id, OP_DELETE, "OLD")]),
    ]
    return [*statements, *_evicting(spec, table_id)]


def trigger_count(spec: TableSpec, table_id: int) -> int:
    """Return how many triggers `create_statements` creates, for a tenth of its time."""
    return 4 + len(_evicting(spec, table_id))


def _evicting(spec: TableSpec, table_id: int) -> list[str]:
    """Return the triggers that log the rows which a REPLACE of the application is about to remove."""
    table, names, statements = quoted(spec.name), trigger_names(table_id), []
    evicting = [index for index in spec.unique if index.match]
    if evicting:
        statements.append(_trigger(names[4], "BEFORE INSERT", table, "", _evict(spec, table_id, evicting)))
    # Most updates set no column of a UNIQUE index, and should not start the trigger. The columns that an expression depends on
    # are not known, so such an index has a trigger on every update.
    other = f" AND {_other_row(spec)}"
    named = [index for index in evicting if index.columns]
    if named:
        columns = dict.fromkeys(quoted(column) for index in named for column, _ in index.columns)
        when = f"BEFORE UPDATE OF {', '.join(columns)}"
        statements.append(_trigger(names[5], when, table, "", _evict(spec, table_id, named, other)))
    rest = [index for index in evicting if not index.columns]
    if rest:
        statements.append(_trigger(names[6], "BEFORE UPDATE", table, "", _evict(spec, table_id, rest, other)))
    return statements


def is_current(db: Any, spec: TableSpec, table_id: int, bits: Mapping[str, int]) -> bool:
    """Return True if the table's update trigger fits this spec. Only a RENAME rewrites the trigger."""
    name = trigger_names(table_id)[1]
    found = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?", (name,)).fetchone()
    wanted = _update_trigger(spec, table_id, bits).replace(" IF NOT EXISTS", "", 1)
    return found is not None and _ABSENT.sub("", str(found[0])) == _ABSENT.sub("", wanted)


def survives_drops(spec: TableSpec, update_trigger: str) -> bool:
    """Return True if a program can drop columns of a table that has this update trigger."""
    return not _droppable(spec) or _ABSENT.search(update_trigger) is not None


def are_created(db: Any, table_id: int, wanted: Sequence[str]) -> bool:
    """Return True if the table's triggers are those that the statements `wanted` create, and no others."""
    names = trigger_names(table_id)
    listing = f"SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name IN ({', '.join('?' * len(names))})"
    (present,) = db.execute(listing, names).fetchone()
    return bool(present == len(wanted) == _count_created(db, names, wanted))


def _count_created(db: Any, names: Sequence[str], wanted: Sequence[str]) -> int:
    """Count the triggers with one of these names and the text of one of these CREATE statements, as SQLite keeps it."""
    texts = [statement.replace(" IF NOT EXISTS", "", 1) for statement in wanted]
    listing = (
        f"SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name IN ({', '.join('?' * len(names))})"
        f" AND sql IN ({', '.join('?' * len(texts))})"
    )
    return int(db.execute(listing, (*names, *texts)).fetchone()[0])


def drop_statements(table_id: int) -> list[str]:
    """Return the SQL that removes the table's triggers; the pending log stays."""
    return [f"DROP TRIGGER IF EXISTS {name}" for name in trigger_names(table_id)]


def _trigger(name: str, when: str, table: str, condition: str, body: list[str]) -> str:
    return f"CREATE TRIGGER IF NOT EXISTS {name} {when} ON {table} {condition} BEGIN {'; '.join(body)}; END"


def _update_trigger(spec: TableSpec, table_id: int, bits: Mapping[str, int]) -> str:
    body = [_log_update(spec, table_id, bits, word_names(bits))]
    return _trigger(trigger_names(table_id)[1], "AFTER UPDATE", quoted(spec.name), "", body)


def _log(spec: TableSpec, table_id: int, op: int, row: str, *, timed: bool = True) -> str:
    columns = ", ".join(["what", *(["at"] if timed else []), *key_names(spec)])
    values = ", ".join([str(op), *([TIMED] if timed else []), *_key_values(spec, row)])
    return f"INSERT INTO {pending_name(table_id)}({columns}) VALUES({values})"


def _needs_time(spec: TableSpec) -> bool:
    """Return True if the time of an insert can decide a conflict.

    Nobody else can write a keyless row before its insert has a stamp, so its time decides nothing. A statement that calls a
    function inside a trigger copies the pages that it changes, so that it can undo them: two pages for each row, if rows are
    inserted one by one in a transaction (ADR 0021).
    """
    return not spec.lacks_primary_key


def _log_update(spec: TableSpec, table_id: int, bits: Mapping[str, int], words: list[str]) -> str:
    captured: list[list[tuple[Column, int]]] = [[] for _ in words]
    for column in spec.columns:
        bit = bits.get(column.folded)
        if bit is not None and not (
            column.key and spec.kind is KeyKind.ROWID
        ):  # another id is another row: see `rekey`
            captured[bit // WORD_BITS].append((column, 1 << bit % WORD_BITS))
    step = _TREE_COLUMNS if len(spec.columns) <= _MANY_COLUMNS else 1
    masks = [
        "|".join(_changed_bits(word[at : at + step]) for at in range(0, len(word), step)) or "0" for word in captured
    ]
    columns = ", ".join(["at", *words, *key_names(spec)])
    droppable = [column for column in _droppable(spec) if column.folded in bits]
    if droppable:
        masks = [f"(SELECT {mask})" for mask in masks]
    values = ", ".join([TIMED, *masks, *_key_values(spec, "NEW")])
    log = f"INSERT INTO {pending_name(table_id)}({columns})"
    if not droppable:
        return f"{log} VALUES({values})"
    return f"{log} SELECT {values} FROM {_instead(table_id, droppable, 'OLD', 'NEW')}"


def _droppable(spec: TableSpec) -> list[Column]:
    """Return the columns that SQLite can drop: those outside of the primary key."""
    return [column for column in spec.columns if not column.key]


def _instead(table_id: int, columns: Sequence[Column], *rows: str) -> str:
    """Return the FROM of a query of one row, in which each of these columns of each of these rows is NULL.

    SQLite leaves out a LEFT JOIN by rowid that no column is read from, so a column costs nothing until it is dropped.
    """
    nulls = ", ".join(f"NULL {quoted(column.name)}" for column in columns)
    absent = f"LEFT JOIN (SELECT {nulls} FROM {pending_name(table_id)} WHERE rowid = 0)"
    return " ".join(["(SELECT 1)", *(f"{absent} {row}" for row in rows)])


def _changed_bits(columns: Sequence[tuple[Column, int]], found: int = 0) -> str:
    """Return SQL for the bits of the columns that an update changed, and the bits in `found`.

    The SQL is a decision tree whose leaves are constants. It runs fewer steps than a sum of one `CASE` a column. Most columns are
    unchanged, so that is the ELSE branch. 1 and 1.0 compare equal in SQL: a mask of 0 makes the drain compare the whole row.
    """
    if not columns:
        return str(found)
    branches = " ".join(
        f"WHEN OLD.{quoted(column.name)} COLLATE BINARY IS NOT NEW.{quoted(column.name)}"
        f" THEN {_changed_bits(columns[position + 1 :], found | bit)}"
        for position, (column, bit) in enumerate(columns)
    )
    return f"CASE {branches} ELSE {found} END"


def _naming_columns(spec: TableSpec) -> str:
    """Return the columns that an UPDATE has to set to change a row's key, so that most updates do not start the trigger.

    A rowid can be set under any of its names, and `UPDATE OF` compares names, not columns.
    """
    naming = [column for column in spec.columns if column.key] if spec.id_column else spec.key
    names = [quoted(column.name) for column in naming]
    if spec.kind is not KeyKind.KEYED or spec.nullable_key:
        names += [name for name in ("rowid", "oid", "_rowid_") if name not in {fold(column.name) for column in naming}]
    return ", ".join(names)


def _key_changed(spec: TableSpec) -> str:
    """Return SQL that is true if an UPDATE changed the key of the row."""
    terms = []
    if spec.kind is KeyKind.KEYED:
        terms += [
            f"OLD.{quoted(column.name)} COLLATE {column.collation} IS NOT NEW.{quoted(column.name)}"
            for column in spec.key
        ]
    if spec.kind is not KeyKind.KEYED or spec.nullable_key:
        terms.append(f"OLD.{quoted(spec.rowid)} IS NOT NEW.{quoted(spec.rowid)}")
    return " OR ".join(terms)


def _other_row(spec: TableSpec) -> str:
    """Return SQL that is true for every row `e` except the updated row."""
    if spec.kind is KeyKind.KEYED and not spec.nullable_key:
        terms = [f"e.{quoted(column.name)} COLLATE BINARY IS NOT OLD.{quoted(column.name)}" for column in spec.key]
        return f"({' OR '.join(terms)})"
    return f"e.{quoted(spec.rowid)} IS NOT OLD.{quoted(spec.rowid)}"


def _evict(spec: TableSpec, table_id: int, indexes: Sequence[UniqueIndex], condition: str = "") -> list[str]:
    """Return SQL that logs the rows that a REPLACE would remove through UNIQUE indexes.

    A trigger cannot see whether the statement is a REPLACE, and REPLACE fires no delete trigger. The drain finds out whether the
    rows are gone. Each index has one such row at most, which a scalar subquery finds.
    """
    names = ", ".join(["what", "at", *key_names(spec)])
    values = ", ".join([str(OP_EVICT), TIMED, *_key_values(spec, "e")])
    table = quoted(spec.name)
    log = f"INSERT INTO {pending_name(table_id)}({names}) SELECT {values} FROM {table} e"
    naming = [f"e.{quoted(name)}" for name in ([spec.rowid] if spec.rowid else [column.name for column in spec.key])]
    droppable = _droppable(spec)
    if not droppable:
        return [f"{log} WHERE {index.match}{condition}" for index in indexes]
    # The names of an expression have no qualifier, so each row has a query of its own around them.
    inner, outer = (_instead(table_id, droppable, row) for row in ("e", "NEW"))
    statements = []
    for index in indexes:
        found = [f"(SELECT {name} FROM {table} e WHERE {index.match}{condition})" for name in naming]
        row = f"SELECT {', '.join(f'(SELECT {each} FROM {inner})' for each in found)} FROM {outer}"
        statements.append(f"{log} WHERE ({', '.join(naming)}) = ({row})")
    return statements
