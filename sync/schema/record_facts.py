"""Recording: what this file has and the facts of the mesh lack is written down as facts.

Owns the form in which a table's definition is told: as it is in this file, in the mesh's names. What always holds: a fact is
written again only where it lacks something, so that replicas do not answer each other for good. It must not know what
others make of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.sync.schema.facts import INDEX, SCHEMA_TABLE, TABLE
from mycomesh.sync.schema.policy import name_fact
from mycomesh.sync.sqlite.definitions import rewrite_definition
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.indexes import column_names, user_indexes
from mycomesh.sync.sqlite.table_spec import TableSpec

if TYPE_CHECKING:
    from mycomesh.sync.schema.catalog import Catalog

__all__ = ["define", "definition", "record_facts"]


def record_facts(db: Any, catalog: Catalog) -> None:
    """Write a fact for every table that the facts do not fully define, every name of its own, and every index."""
    facts, shown = catalog.facts, catalog.policies.shown
    for mesh in [key for key in catalog.tables if key != SCHEMA_TABLE]:
        spec = catalog.tables[mesh].spec
        defined = catalog.defined(mesh)
        if defined is None or not {c.folded for c in spec.columns} <= {c.folded for c in defined.columns}:
            define(db, catalog, spec)
        if spec.canonical and (mesh,) not in shown:
            facts.write(*name_fact((mesh,), spec.name))
        for column in spec.columns:
            if column.canonical and (mesh, column.folded) not in shown:
                facts.write(*name_fact((mesh, column.folded), column.name))
    local = {fold(table.spec.name) for table in catalog.tables.values()}
    for name, table, sql in user_indexes(db):
        key = f"{INDEX}:{fold(name)}"
        if fold(table) in local and not facts.of(key):
            facts.write(key, INDEX, sql)


def define(db: Any, catalog: Catalog, spec: TableSpec) -> None:
    """Write down a table's definition as it is in this file, in the mesh's names."""
    sql = definition(db, spec)
    if sql is None:
        catalog.notes[spec.folded] = "its definition cannot be told to other nodes under its first names"
        return
    catalog.facts.write(spec.folded, TABLE, sql)


def definition(db: Any, spec: TableSpec) -> str | None:
    """Return the CREATE TABLE of a table of this file in the mesh's names; None if its SQL does not allow that."""
    left = [name for name in column_names(db, spec.name) if fold(name) not in spec.canonical_names]
    renamed = {fold(column.name): column.canonical for column in spec.columns if column.canonical}
    if left or renamed or spec.canonical:
        return rewrite_definition(spec.sql, table=spec.folded, columns=renamed, without=left)
    return spec.sql
