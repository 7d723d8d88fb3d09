"""Finds the tables to which a program has given another definition, by a rebuild or by ALTER TABLE.

The file records each definition as the last pass has seen it, so that changes are found that were made while no node ran. A
definition that differs from the mesh's is not enough: the mesh's may have changed, and this file's may never have been the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.record_facts import canonical_definition
from mycomesh.sync.sqlite.create_table import clauses
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["DefinitionChanges"]


class DefinitionChanges:
    """The definitions of one file's tables in the last pass."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, Table] = {}  # by canonical name; a table is loaded again when its definition changes

    def take(self, tables: Iterable[Table], *, followed: bool) -> frozenset[str]:
        """Record the definitions as they are, and return the names of the tables that a program has redefined.

        Columns that came or went do not count, because they have facts of their own. Nothing counts if the node itself has
        `followed` other nodes, or a migration, since the last call.
        """
        redefined = []
        for table in tables:
            name = table.spec.folded
            if self._seen.get(name) is not table and name != SCHEMA_TABLE:
                self._seen[name] = table
                if self._record(table) and not followed:
                    redefined.append(name)
        return frozenset(redefined)

    def _record(self, table: Table) -> bool:
        """Record the definition of a table; return whether a column or a constraint that it had before is another one."""
        definition = canonical_definition(self._store.db, table.spec)
        key = f"definition/{table.table_id}"
        before = self._store.meta(key)
        if definition is None or definition == before:
            return False
        self._store.meta_set(key, definition)
        if not isinstance(before, str):
            return False
        was, now = clauses(before), clauses(definition)
        stored = ["", *(column.folded for column in table.spec.columns)]
        return any(was[name] != now.get(name) for name in stored if name in was)
