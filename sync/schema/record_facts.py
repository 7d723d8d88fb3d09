"""Publishes the schema of this file: writes facts for tables, columns, names and indexes that the mesh does not know yet.

A fact is written again only if it lacks something. Otherwise two replicas with different definitions of one table would
answer each other forever.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import apsw

from mycomesh.sync.schema.facts import INDEX, SCHEMA_TABLE, TABLE
from mycomesh.sync.schema.policy import name_fact
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.create_table import clauses, columns, definition_of, mentions
from mycomesh.sync.sqlite.definitions import definition_refusal, rewrite_definition, scratch
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names, user_indexes
from mycomesh.sync.sqlite.table_spec import TableSpec, user_tables

__all__ = ["canonical_definition", "drop_index_facts", "extended_definition", "record_definition", "record_facts"]


def record_facts(
    db: Any,
    registry: Registry,
    adopted: Collection[str] = (),
    redefined: Collection[str] = (),
    only: Collection[str] | None = None,
) -> None:
    """Write a fact for each table that the facts do not fully define, for each name that differs here, and for each index.

    Those of the tables in `adopted` are from before the mesh. The tables in `redefined` are defined as they are here. With
    `only`, look at these tables alone.
    """
    facts, renames = registry.facts, registry.policies.renames
    for name in [key for key in registry.tables if key != SCHEMA_TABLE and (only is None or key in only)]:
        spec = registry.tables[name].spec
        defined = registry.defined(name)
        if defined is None or name in redefined:
            record_definition(db, registry, spec, early=name in adopted)
        elif defined is not spec and not {c.folded for c in spec.columns} <= {c.folded for c in defined.columns}:
            record_definition(db, registry, spec, early=name in adopted, defined=defined)
        if spec.canonical and (name,) not in renames:
            facts.write(*name_fact((name,), spec.name))
        for column in spec.columns:
            if column.canonical and (name, column.folded) not in renames:
                facts.write(*name_fact((name, column.folded), column.name))
    local = {fold(table.spec.name): name for name, table in registry.tables.items() if only is None or name in only}
    for name, table, sql in user_indexes(db) if local else ():
        key = f"{INDEX}:{fold(name)}"
        if fold(table) in local and not facts.of(key):
            too_new = registry.too_new(sql)
            registry.notes.put(f"index {name}", f"it stays on this node: {too_new}" if too_new else "")
            if not too_new:
                facts.write(key, INDEX, sql, early=local[fold(table)] in adopted)


def record_definition(
    db: Any, registry: Registry, spec: TableSpec, *, early: bool = False, defined: TableSpec | None = None
) -> None:
    """Write the definition of a table as a fact, or note that its SQL does not allow that.

    With `defined`, the definition that the mesh has, write that one with the columns that only this file has.
    """
    sql = canonical_definition(db, spec)
    if sql is None:
        registry.notes.put(spec.folded, "its definition cannot be sent to other nodes under its canonical names")
        return
    if defined is not None and not _agree(defined, sql):
        sql = extended_definition(defined, spec, sql) or sql
    refused = registry.too_new(sql) or definition_refusal(sql)
    if refused:  # other nodes could not read it either, and each would go on to write its own
        registry.notes.put(spec.folded, f"its definition stays on this node: {refused}")
    elif registry.facts.of(spec.folded) != sql:
        registry.facts.write(spec.folded, TABLE, sql, early=early)


def _agree(defined: TableSpec, sql: str) -> bool:
    """Return True if a definition has the mesh's constraints and its stored columns, as they are."""
    theirs, own = clauses(defined.sql), clauses(sql)
    return all(own.get(name) == theirs[name] for name in ("", *(column.folded for column in defined.columns)))


def extended_definition(defined: TableSpec, spec: TableSpec, sql: str) -> str | None:
    """Return the mesh's definition of a table with the columns of another one that it lacks; None if SQLite cannot add them.

    Its constraints stay: this file's may be older than a rebuild elsewhere (ADR 36).
    """
    have = {column.folded for column in defined.columns}
    lacking = {column.folded for column in spec.columns} - have
    try:
        with scratch(sql) as own:
            texts = columns(own, user_tables(own)[0][0])
        with scratch(defined.sql) as db:
            (table,) = user_tables(db)[0]
            for column, text in texts.items():
                if column in lacking:
                    db.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {text}")
            return definition_of(db, table) if lacking <= texts.keys() else None
    except apsw.Error:
        return None


def drop_index_facts(db: Any, registry: Registry, spec: TableSpec, columns: Collection[str]) -> None:
    """Write that the indexes on these dropped columns are dropped: they would keep the column on other nodes."""
    present = {f"{INDEX}:{fold(name)}" for name, _, _ in user_indexes(db)}
    for name, sql in registry.facts.all(INDEX):
        on_table = any(mentions(sql, fold(each)) for each in (spec.name, spec.folded))
        if sql and name not in present and on_table and any(mentions(sql, column) for column in columns):
            registry.facts.write(name, INDEX, "")


def canonical_definition(db: Any, spec: TableSpec) -> str | None:
    """Return the CREATE TABLE of a table of this file under canonical names; None if its SQL does not allow that."""
    known = spec.canonical_names
    left = [name for name in column_names(db, spec.name) if fold(name) not in known]
    renamed = {fold(column.name): column.canonical for column in spec.columns if column.canonical}
    if left or renamed or spec.canonical:
        return rewrite_definition(spec.sql, table=spec.folded, columns=renamed, without=left)
    return spec.sql
