"""Differences: what of a table in this file is not as the mesh defines it, told in its note.

Of a table that is there no other node changes types, defaults or constraints (ADR 23), so a person has to know. Owns these
lines. What always holds: a definition is compared in the mesh's names, and only where its text is another. It must not know
how a difference came about.
"""

from __future__ import annotations

import functools
from typing import Any

import apsw

from mycomesh.sync.schema.record_facts import definition
from mycomesh.sync.sqlite.create_table import checks, normalize
from mycomesh.sync.sqlite.definitions import rewrite_definition, scratch
from mycomesh.sync.sqlite.generated_columns import generated_of
from mycomesh.sync.sqlite.table_spec import TableSpec, user_tables
from mycomesh.sync.storage.table import Table

__all__ = ["DriftNotes"]

# Of one table: as many constraints, and so much of each, as one line bears.
TOLD_MAX = 4
TOLD_CHARS_MAX = 80


class DriftNotes:
    """What was told of each table, by the mesh's name."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Table, TableSpec | None, str]] = {}  # (table, what the mesh has, the line)

    def tell(self, table: Table, defined: TableSpec | None, notes: dict[str, str]) -> None:
        """Note of a table how it differs, and has it know which columns do; a note that says something else stays."""
        mesh = table.spec.folded
        before, compared, line = self._told.get(mesh, (None, None, ""))
        if before is not table or compared is not defined:
            if line and notes.get(mesh) == line:
                del notes[mesh]
            told = _converting(table.spec, defined)
            table.columns.converting = frozenset(told)
            line = "; ".join([*told.values(), *_others(table, defined)])
            self._told[mesh] = table, defined, line
        if line:
            notes.setdefault(mesh, line)


def _others(table: Table, defined: TableSpec | None) -> list[str]:
    if defined is None or table.spec.sql == defined.sql:
        return []
    here, mesh = definition(table.store.db, table.spec), defined.sql
    dropped = table.columns.dropped & {column.folded for column in defined.columns}
    if dropped:
        mesh = rewrite_definition(mesh, table=defined.name, columns={}, without=sorted(dropped)) or mesh
    line = "" if here is None else _compared(_constraints_of(here), _constraints_of(mesh))
    return [*_defaults(table.spec, defined), *([line] if line else [])]


def _converting(spec: TableSpec, defined: TableSpec | None) -> dict[str, str]:
    """Return the columns that store some values in another form than the mesh's definition, each with a line that says so."""
    theirs = {column.folded: column.affinity for column in defined.columns} if defined is not None else {}
    return {
        column.folded: f"column {column.name!r} stores values as {column.affinity} here and as {theirs[column.folded]} on the"
        " mesh: nodes show '1', 1 or 1.0 for one value; declare it alike"
        for column in spec.columns
        if theirs.get(column.folded, column.affinity) != column.affinity
    }


def _defaults(spec: TableSpec, defined: TableSpec) -> list[str]:
    """Return a line for each column that has two defaults: what nobody has written shows each node its own."""
    theirs = {column.folded: column for column in defined.columns}
    return [
        f"column {mine.name!r} has the default {mine.default or 'NULL'} here and {column.default or 'NULL'} on the"
        " mesh: where nobody has written it, nodes show different values; write it, or drop it and add it again"
        for mine in spec.columns
        if (column := theirs.get(mine.folded)) is not None
        and mine.default != column.default
        and (column.default is not None or not column.not_null)  # else every row of the mesh was written
    ]


def _compared(here: dict[str, str], mesh: dict[str, str]) -> str:
    """Return one line for constraints that are not the same."""
    sides = [
        f"{_listed([text for key, text in own.items() if key not in other])} {where}"
        for own, other, where in ((here, mesh, "here alone"), (mesh, here, "on the mesh and not here"))
        if own.keys() - other.keys()
    ]
    if not sides:
        return ""
    return (
        f"definitions differ: {', '.join(sides)}; each node keeps its own, and parks the rows that it refuses, until the table is"
        " rebuilt alike"
    )


def _listed(texts: list[str]) -> str:
    told = [text if len(text) <= TOLD_CHARS_MAX else f"{text[:TOLD_CHARS_MAX]}..." for text in texts[:TOLD_MAX]]
    return " and ".join([*told, f"{len(texts) - TOLD_MAX} more"] if len(texts) > TOLD_MAX else told)


@functools.lru_cache(maxsize=64)
def _constraints_of(sql: str) -> dict[str, str]:
    """Return the constraints of a CREATE TABLE as texts, by what is equal where they are alike."""
    try:
        with scratch(sql) as db:
            (table,) = user_tables(db)[0]
            texts = [f"CHECK {check}" for check in checks(db, table)]
            texts += [f"NOT NULL {name}" for name in _not_null(db, table)]
            texts += [f"UNIQUE ({', '.join(names)})" for names in _unique(db, table)]
            texts += _foreign_keys(db, table)
            texts += (generated_of(sql) or {}).values()
    except apsw.Error:  # a text that stands in this file alone
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
