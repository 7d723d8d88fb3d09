"""Schema drift: notes how the definition of a table in this file differs from the canonical one.

A node rebuilds a table that differs (`follow_facts`). Where it cannot, a person has to know of the difference. Definitions are
compared under canonical names.
"""

from __future__ import annotations

import functools
from typing import Any

import apsw

from mycomesh.sync.schema.notes import Notes, Source
from mycomesh.sync.schema.record_facts import canonical_definition
from mycomesh.sync.sqlite.create_table import checks, normalize
from mycomesh.sync.sqlite.definitions import is_null_default, rewrite_definition, scratch
from mycomesh.sync.sqlite.generated_columns import generated_of
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.table_spec import TableSpec, user_tables
from mycomesh.sync.storage.table import Table

__all__ = ["DriftNotes", "differs"]

# Constraints in one note, and characters of each: a note is one line.
CONSTRAINTS_MAX = 4
CONSTRAINT_CHARS_MAX = 80


class DriftNotes:
    """The drift of each table, compared again only if the table or its canonical definition has changed."""

    def __init__(self) -> None:
        # By canonical name: the table, its canonical definition, the note, and whether they differ.
        self._compared: dict[str, tuple[Table, TableSpec | None, str, bool]] = {}

    def update(self, table: Table, defined: TableSpec | None, notes: Notes) -> bool:
        """Note how a table differs from its canonical definition, and record in it which of its columns convert values.

        Returns whether it differs.
        """
        name = table.spec.folded
        before, compared, line, different = self._compared.get(name, (None, None, "", False))
        if before is not table or compared is not defined:
            lines = _converting(table.spec, defined)
            table.columns.converting = frozenset(lines)
            line = "; ".join([*lines.values(), *_other_differences(table, defined)])
            different = defined is not None and differs(table.store.db, table.spec, defined, table.columns.dropped)
            self._compared[name] = table, defined, line, different
        notes.put(name, line, Source.DRIFT)
        return different


def differs(db: Any, spec: TableSpec, defined: TableSpec, dropped: frozenset[str]) -> bool:
    """Return True if a table lacks columns of its canonical definition, or has other types or constraints.

    Another default does not count. Rows of which nobody has written the column show the old one, so it is reported.
    """
    if spec.sql == defined.sql:
        return False
    here, canonical = canonical_definition(db, spec), _without(defined, dropped)
    if here is None:
        return False
    own, theirs = _columns_of(here), _columns_of(canonical)
    stored = {column.folded for column in defined.columns} - dropped
    if any(own.get(name) != theirs[name] for name in theirs if name in stored or not name):
        return True
    return own.keys() >= stored and _constraints_of(here).keys() != _constraints_of(canonical).keys()


def _without(defined: TableSpec, dropped: frozenset[str]) -> str:
    """Return a canonical definition without dropped columns, as far as SQLite can drop them."""
    gone = dropped & {column.folded for column in defined.columns}
    without = gone and rewrite_definition(defined.sql, table=defined.name, columns={}, without=sorted(gone))
    return without or defined.sql


@functools.lru_cache(maxsize=64)
def _columns_of(sql: str) -> dict[str, tuple[str, ...]]:
    """Return the declared type and the collation of each column by folded name; under "" the options of the table."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        with scratch(sql) as db:
            (table,) = user_tables(db)[0]
            listing = "SELECT name, type FROM pragma_table_info(?) ORDER BY cid"
            increments = False
            for name, declared in db.execute(listing, (table,)).fetchall():
                _, collation, _, _, automatic = db.column_metadata("main", table, name)
                increments |= bool(automatic)
                found[fold(name)] = normalize(declared or ""), fold(collation)
            (strict,) = db.execute("SELECT strict FROM pragma_table_list(?) WHERE schema = 'main'", (table,)).fetchone()
            found[""] = str(strict), str(increments)
    except (apsw.Error, ValueError):  # SQL that only this file's SQLite can read
        return {}
    return found


def _other_differences(table: Table, defined: TableSpec | None) -> list[str]:
    if defined is None or table.spec.sql == defined.sql:
        return []
    here, canonical = canonical_definition(table.store.db, table.spec), _without(defined, table.columns.dropped)
    line = "" if here is None else _compared(_constraints_of(here), _constraints_of(canonical))
    return [*_defaults(table.spec, defined), *([line] if line else [])]


def _converting(spec: TableSpec, defined: TableSpec | None) -> dict[str, str]:
    """Return the columns whose affinity is not the canonical one, which changes some values, with a line for each."""
    theirs = {column.folded: column.affinity for column in defined.columns} if defined is not None else {}
    return {
        column.folded: f"column {column.name!r} stores values as {column.affinity} here and as {theirs[column.folded]} on the"
        " mesh: nodes show '1', 1 or 1.0 for one value; declare it alike"
        for column in spec.columns
        if theirs.get(column.folded, column.affinity) != column.affinity
    }


def _defaults(spec: TableSpec, defined: TableSpec) -> list[str]:
    """Return a line for each column whose default is not the canonical one: unwritten cells show each node its own.

    No cell is unwritten where a column may not be NULL and has no default.
    """
    theirs = {column.folded: column for column in defined.columns}
    return [
        f"column {mine.name!r} has the default {mine.default or 'NULL'} here and {column.default or 'NULL'} on the"
        " mesh: where nobody has written it, nodes show different values; write it, or drop it and add it again"
        for mine in spec.columns
        if (column := theirs.get(mine.folded)) is not None
        and mine.default != column.default
        and not (is_null_default(mine.default) and is_null_default(column.default))
        and not any(one.not_null and is_null_default(one.default) for one in (mine, column))
    ]


def _compared(here: dict[str, str], canonical: dict[str, str]) -> str:
    """Return one line for the constraints that only one of two definitions has, "" if there are none."""
    sides = [
        f"{_listed([text for key, text in own.items() if key not in other])} {where}"
        for own, other, where in ((here, canonical, "here alone"), (canonical, here, "on the mesh and not here"))
        if own.keys() - other.keys()
    ]
    if not sides:
        return ""
    return (
        f"definitions differ: {', '.join(sides)}; each node keeps its own, and parks the rows that it refuses, until the table is"
        " rebuilt alike"
    )


def _listed(texts: list[str]) -> str:
    first = [
        text if len(text) <= CONSTRAINT_CHARS_MAX else f"{text[:CONSTRAINT_CHARS_MAX]}..."
        for text in texts[:CONSTRAINTS_MAX]
    ]
    return " and ".join([*first, f"{len(texts) - CONSTRAINTS_MAX} more"] if len(texts) > CONSTRAINTS_MAX else first)


@functools.lru_cache(maxsize=64)
def _constraints_of(sql: str) -> dict[str, str]:
    """Return the constraints of a CREATE TABLE as written, by their normalized text."""
    try:
        with scratch(sql) as db:
            (table,) = user_tables(db)[0]
            texts = [f"CHECK {check}" for check in checks(db, table)]
            texts += [f"NOT NULL {name}" for name in _not_null(db, table)]
            texts += [f"UNIQUE ({', '.join(names)})" for names in _unique(db, table)]
            texts += _foreign_keys(db, table)
            texts += (generated_of(sql) or {}).values()
    except apsw.Error:  # SQL that only this file's SQLite can read
        return {}
    return {normalize(text): text for text in texts}


def _not_null(db: Any, table: str) -> list[str]:
    listing = 'SELECT name FROM pragma_table_info(?) WHERE "notnull" AND NOT pk ORDER BY cid'
    return [name for (name,) in db.execute(listing, (table,)).fetchall()]


def _unique(db: Any, table: str) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    listing = (
        "SELECT l.name, i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i WHERE l.origin = 'u'"
        " ORDER BY l.seq DESC, i.seqno"
    )
    for index, column in db.execute(listing, (table,)).fetchall():
        found.setdefault(index, []).append(column)
    return list(found.values())


def _foreign_keys(db: Any, table: str) -> list[str]:
    listing = (
        'SELECT id, "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(?) ORDER BY id DESC, seq'
    )
    keys: dict[int, list[tuple[str, ...]]] = {}
    for number, *parts in db.execute(listing, (table,)).fetchall():
        keys.setdefault(number, []).append(tuple(parts))
    texts = []
    for parts in keys.values():
        parent, _, _, on_update, on_delete = parts[0]
        named = [part[2] for part in parts if part[2] is not None]
        text = f"FOREIGN KEY ({', '.join(part[1] for part in parts)}) REFERENCES {parent}"
        text += f"({', '.join(named)})" if named else ""
        text += "".join(
            f" ON {event} {action}"
            for event, action in (("UPDATE", on_update), ("DELETE", on_delete))
            if action != "NO ACTION"
        )
        texts.append(text)
    return texts
