"""Generating: generated columns of this file and the facts that state them are kept in line (ADR 23).

They are computed on every replica, so no row depends on them: the latest text stands, whatever it was before. Owns these
facts, and `generated/TABLE` in `mycomesh_meta`: of each column the text of the mesh that was followed last, and how it stands
here, by which a change of this file's is told from one that has yet to be followed. What always holds: a stored column of the
same name stands in place of a generated one. It must not know rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import apsw

from mycomesh.sync.schema.add_column import add_column
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.policy import generated_fact
from mycomesh.sync.schema.record_facts import definition
from mycomesh.sync.sqlite.create_table import equivalent, mentions
from mycomesh.sync.sqlite.generated_columns import generated_of, in_any_order, rename_text, with_dependents
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import user_indexes
from mycomesh.sync.sqlite.table_spec import TableSpec
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

if TYPE_CHECKING:
    from mycomesh.sync.schema.catalog import Catalog

__all__ = ["GeneratedFacts"]

_SAVEPOINT = "mycomesh_generating"
# By column: (the text of the mesh that was followed last, as it stands here)
_Memory = dict[str, list[str]]


class GeneratedFacts:
    """The generated columns of one file's replicated tables, known by their folded names."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def record(self) -> None:
        """Write a fact for each generated column that is new or another in this file, or gone."""
        listing = "SELECT substr(name, 11), value FROM mycomesh_meta WHERE name GLOB 'generated/*' ORDER BY name"
        known = {mesh: json.loads(value) for mesh, value in self._store.db.execute(listing).fetchall()}
        for mesh, table in self._catalog.tables.items():
            if mesh != SCHEMA_TABLE and (table.spec.generated or mesh in known):
                self._record(table.spec, known.get(mesh))

    def _record(self, spec: TableSpec, before: _Memory | None) -> None:
        here, mesh = self._here(spec), self._on_mesh(spec.folded)
        if here is None or mesh is None:
            return
        memory = dict(before or {})
        stated = self._catalog.policies.generated.get(spec.folded, {})
        facts = []
        for column, text in here.items():
            if column in self._stored(spec.folded):
                continue
            lost = column not in mesh and column not in stated  # another definition of the table has taken its place
            if column in memory and equivalent(memory[column][1], text) and not lost:
                continue
            # A table's fact says as much of a column that is new; it may yet give way to one with an older text.
            told = stated.get(column, "" if column in memory else mesh.get(column, ""))
            memory[column] = [text, text]
            if not equivalent(told, text):
                facts.append(generated_fact(spec.folded, column, text))
        for column in [column for column in memory if column not in here]:
            del memory[column]
            if stated.get(column) != "":
                facts.append(generated_fact(spec.folded, column, ""))
        for fact in facts:
            self._catalog.facts.write(*fact)
        if memory != before:
            self._remember(spec.folded, memory)

    def forget(self, mesh: str) -> None:
        """A table is no more."""
        self._store.db.execute("DELETE FROM mycomesh_meta WHERE name = ?", (f"generated/{mesh}",))

    # ---- following

    def follow(
        self, tables: Collection[Table], again: Callable[[Table, str], Table], between: Callable[[], None]
    ) -> None:
        """Drop what the mesh has no more or has in another way, does what is `between`, and adds what is missing.

        `again` reads a table anew. Inside a transaction in which every captured write has its stamp.
        """
        passes = [_Pass(table) for table in tables]
        for each in passes:
            self._make_way(each, again)
        between()
        for each in passes:
            self._complete(each)

    def _make_way(self, each: _Pass, again: Callable[[Table, str], Table]) -> None:
        spec = each.table.spec
        here, mesh = self._here(spec), self._on_mesh(spec.folded)
        if not spec.generated or here is None or mesh is None:
            return
        memory = self._memory(spec.folded)
        due = self._due(spec.folded, here, mesh, memory)
        if not due:
            return
        self._catalog.uninstall(each.table.table_id)
        each.before = dict(generated_of(spec.sql) or {})
        left = in_any_order(due, lambda column: self._drop(each, column, replaced=column in mesh))
        for column in due:
            if column not in left:
                memory.pop(column, None)
        self._remember(spec.folded, memory)
        self._catalog.install(again(each.table, spec.name))

    def _due(self, mesh: str, here: Mapping[str, str], texts: Mapping[str, str], memory: _Memory) -> list[str]:
        """Return the columns of a table that the mesh has no more or has in another way, and what is computed of these."""
        stored, wanted = self._stored(mesh), {**self._catalog.policies.generated.get(mesh, {}), **texts}
        due = [
            column
            for column, text in here.items()
            if column in stored
            or not (equivalent(wanted.get(column, text), text) or _followed(memory.get(column), wanted[column], text))
        ]
        return with_dependents(here, due)

    def _drop(self, each: _Pass, column: str, *, replaced: bool) -> bool:
        """Drop a generated column, and if it comes in another way the indexes that name it; returns whether it is gone."""
        db, name = self._store.db, each.table.spec.name
        indexes = {
            index: sql
            for index, owner, sql in user_indexes(db)
            if replaced and fold(owner) == fold(name) and mentions(sql, column)
        }
        db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            for index in indexes:
                db.execute(f"DROP INDEX {quoted(index)}")
            db.execute(f"ALTER TABLE {quoted(name)} DROP COLUMN {quoted(column)}")
        except apsw.SQLError:  # something of this file's refers to it: the difference is told
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            return False
        finally:
            db.execute(f"RELEASE {_SAVEPOINT}")
        each.indexes |= indexes
        return True

    def _complete(self, each: _Pass) -> None:
        """Add what the mesh has, or what was there before where SQLite refuses that."""
        mesh = each.table.spec.folded
        table = self._catalog.tables.get(mesh)
        texts = self._on_mesh(mesh)
        if table is None or not texts:
            return
        missing = {column: text for column, text in texts.items() if column not in map(fold, table.spec.generated)}
        if not missing:
            return
        left = in_any_order(list(missing), lambda column: self._add(mesh, table.spec.name, column, missing[column]))
        for column in [column for column in left if column in each.before]:
            add_column(self._store.db, table.spec.name, [each.before[column]])
        for sql in each.indexes.values():
            try:
                self._store.db.execute(sql)
            except apsw.Error as error:
                self._catalog.notes[f"index {sql[:60]}"] = f"not created: {error}"
        here = self._here(self._catalog.spec(mesh, table.spec.name)) or {}
        memory = self._memory(mesh)
        for column, text in here.items():
            if column in texts and column not in memory:
                memory[column] = ["" if column in left else texts[column], text]
        self._remember(mesh, memory)

    def _add(self, mesh: str, name: str, column: str, text: str) -> bool:
        """Add a generated column, in the names that this file has for others; returns whether SQLite takes it."""
        spec = self._catalog.spec(mesh, name)
        sql = definition(self._store.db, spec)
        names = {other.folded: other.name for other in spec.columns if other.canonical}
        if sql is None:
            return False
        try:
            here = rename_text(sql, column, text, names)
        except apsw.Error:
            return False
        return not add_column(self._store.db, name, [here])

    # ---- texts

    def _here(self, spec: TableSpec) -> Mapping[str, str] | None:
        """Return the texts of a table's generated columns in the mesh's names, None if they cannot be told."""
        if not spec.generated:
            return {}
        sql = definition(self._store.db, spec)
        return None if sql is None else generated_of(sql)

    def _on_mesh(self, mesh: str) -> Mapping[str, str] | None:
        """Return the texts of the generated columns that the mesh has of a table."""
        defined = self._catalog.defined(mesh)
        if defined is None or not defined.generated:
            return None if defined is None else {}
        stated = self._catalog.policies.generated.get(mesh, {})
        texts = generated_of(defined.sql) or {}
        return {column: text for column, text in texts.items() if stated.get(column) != ""}

    def _stored(self, mesh: str) -> frozenset[str]:
        """Return the stored columns of the mesh's definition that are not dropped."""
        defined = self._catalog.defined(mesh)
        columns = defined.columns if defined is not None else ()
        return frozenset(column.folded for column in columns) - self._catalog.policies.dropped_of(mesh)

    def _memory(self, mesh: str) -> _Memory:
        return dict(json.loads(self._store.meta(f"generated/{mesh}") or "{}"))

    def _remember(self, mesh: str, memory: _Memory) -> None:
        self._store.meta_set(f"generated/{mesh}", json.dumps(memory))


def _followed(remembered: list[str] | None, text: str, here: str) -> bool:
    """Return True if a column stands here as it came of that text: a file may have other names in it."""
    return remembered is not None and equivalent(remembered[0], text) and equivalent(remembered[1], here)


class _Pass:
    """What following does to one table: texts in this file's names that made way, and indexes to be made again."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.before: dict[str, str] = {}
        self.indexes: dict[str, str] = {}
