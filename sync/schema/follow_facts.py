"""Following: the file is made to have what the facts of the mesh say: tables, columns, indexes, and the names of all.

Owns the statements that change the user's schema on the word of others. What always holds: rows, columns and tables go only
where a fact says that they were dropped; what SQLite refuses is told and left as it is, and everything else goes on. It must
not know who decided.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import apsw

from mycomesh.sync.merge import records as report
from mycomesh.sync.schema.add_column import add_column
from mycomesh.sync.schema.facts import INDEX, SCHEMA_TABLE, TABLE
from mycomesh.sync.schema.names import shown_names
from mycomesh.sync.sqlite.definitions import (
    authorize_create,
    column_clauses,
    rename_columns,
    rename_tables,
    rewrite_definition,
    scratch,
)
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names, user_indexes
from mycomesh.sync.sqlite.table_spec import Column, TableSpec, UnsupportedTable, user_tables
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

if TYPE_CHECKING:
    from mycomesh.sync.schema.catalog import Catalog

__all__ = ["FactFollower"]

_SAVEPOINT = "mycomesh_follow"


class FactFollower:
    """One pass; the catalogue has just read what the mesh has decided."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._db = store.db
        self._catalog = catalog
        self._refused: dict[str, str] = {}  # what SQLite refused in this pass, by table

    def follow(self) -> None:
        """Drop, renames, then adds; inside a transaction in which every captured write has its stamp."""
        facts = self._catalog.facts
        indexes = facts.all(INDEX)
        self._drop_indexes([name for name, sql in indexes if not sql])
        for subject in sorted(self._catalog.policies.dropped):
            if len(subject) == 1:
                self._drop_table(subject[0])
        self._catalog.generating.follow(self._tables(), self._again, self._follow_stored)
        for _, sql in indexes:
            if sql:
                self._make_index(sql)

    def _follow_stored(self) -> None:
        for table in self._tables():
            self._drop_columns(table)
        for table in self._tables():
            self._rename_columns(table)
        defined = [name for name, _ in self._catalog.facts.all(TABLE)]
        shown = self._shown(defined)
        self._rename_tables(shown)
        for name in defined:
            if self._catalog.admits(name):
                self._define(name, shown[name])

    def make(self, mesh: str) -> bool:
        """Make one table of the mesh that is not here; returns whether it is."""
        defined = [name for name, _ in self._catalog.facts.all(TABLE)]
        if not self._catalog.admits(mesh) or mesh not in defined:
            return False
        self._define(mesh, self._shown(defined)[mesh])
        return fold(self._catalog.names.table(mesh)) in {fold(name) for name in user_tables(self._db)[0]}

    def regenerate(self) -> None:
        """Follows the facts of generated columns alone, where the triggers know every column: writes may have no stamps yet."""
        stated = self._catalog.policies.generated
        tables = [
            table
            for table in self._tables()
            if table.columns.installed and (table.spec.generated or table.spec.folded in stated)
        ]
        self._catalog.generating.follow(tables, self._again, lambda: None)

    def _tables(self) -> list[Table]:
        return [table for name, table in sorted(self._catalog.tables.items()) if name != SCHEMA_TABLE]

    # ---- what is no more

    def _drop_indexes(self, facts: Sequence[str]) -> None:
        """Drop indexes that are a user's, of tables that are replicated here, whatever a fact names."""
        replicated = {fold(table.spec.name) for table in self._tables()}
        for name, owner, _ in user_indexes(self._db):
            if f"{INDEX}:{fold(name)}" in facts and fold(owner) in replicated:
                self._db.execute(f"DROP INDEX {quoted(name)}")

    def _drop_table(self, mesh: str) -> None:
        table = self._catalog.tables.get(mesh)
        if table is None:
            return
        with self._refusable("is dropped on the mesh and stays in this file", mesh) as done:
            self._db.execute(f"DROP TABLE {quoted(table.spec.name)}")
            done.append(mesh)
        if done:
            self._catalog.discard(mesh)

    def _drop_columns(self, table: Table) -> None:
        """Drop what the mesh has dropped since the last time, and what could not be dropped then."""
        catalog, spec = self._catalog, table.spec
        due = catalog.shed(table)
        records = catalog.names.columns(spec.folded)
        here = {fold(name): name for name in column_names(self._db, spec.name)}
        going = {
            mesh: name for folded, name in here.items() if (mesh := records.get(folded, folded)) in table.columns.dropped
            and (folded in records or folded in due)
        }  # fmt: skip
        if not going:
            return
        catalog.uninstall(table.table_id)
        for mesh, name in going.items():
            catalog.names.forget(spec.folded, [mesh])
            why = f"column {name!r} is dropped on the mesh and stays in this file"
            with self._refusable(why, spec.folded) as done:
                self._db.execute(f"ALTER TABLE {quoted(spec.name)} DROP COLUMN {quoted(name)}")
                done.append(name)
            if not done:
                catalog.names.leave(spec.folded, mesh, name)
        try:
            catalog.install(self._again(table, spec.name))
        except UnsupportedTable:
            catalog.forget(spec.folded)  # the refresh that follows notes why

    def _again(self, table: Table, name: str) -> Table:
        """Return the table as it is in the file now."""
        catalog, mesh = self._catalog, table.spec.folded
        captured = {
            column: bit for column, bit in table.columns.captured.items() if column not in table.columns.dropped
        }
        again = catalog.reload(table.table_id, catalog.spec(mesh, name), table.columns.bits, table, captured)
        if mesh in self._refused:  # a table that is loaded has no note of what was before
            catalog.notes[mesh] = self._refused[mesh]
        return again

    # ---- what has another name

    def _column_names(self, mesh: str, columns: Iterable[Column]) -> dict[str, str]:
        """Return how every column of a table is shown: those of the mesh's definition and those that a file has."""
        policies = self._catalog.policies
        defined = self._catalog.defined(mesh)
        own = {column.folded: column.name for column in (*columns, *(defined.columns if defined else ()))}
        wishes = {
            name: policies.shown.get((mesh, name), here if fold(here) == name else name)
            for name, here in own.items()
            if name not in policies.dropped_of(mesh)
        }
        return shown_names(wishes)

    def _rename_columns(self, table: Table) -> None:
        spec = table.spec
        target = self._column_names(spec.folded, spec.columns)
        moving = {
            column.name: target[column.folded]
            for column in spec.columns
            if fold(column.name) != fold(target[column.folded])
        }
        if not moving:
            return
        with self._refusable(f"its columns keep their names here ({_pairs(moving)} on the mesh)", spec.folded) as done:
            rename_columns(self._db, spec.name, moving)
            done.append(spec.name)
        if done:
            names = {column.folded: moving.get(column.name, column.name) for column in spec.columns}
            self._catalog.names.record(spec.folded, spec.name, names)
            self._again(table, spec.name)

    def _shown(self, defined: Sequence[str]) -> dict[str, str]:
        """Return how every table of the mesh is shown."""
        catalog = self._catalog
        own = {name: name for name in defined}
        for name, table in catalog.tables.items():
            own[name] = table.spec.name if fold(table.spec.name) == name else name
        wishes = {name: catalog.policies.shown.get((name,), here) for name, here in own.items()}
        return shown_names({name: wish for name, wish in wishes.items() if (name,) not in catalog.policies.dropped})

    def _rename_tables(self, shown: Mapping[str, str]) -> None:
        moving = [
            (table, shown[table.spec.folded])
            for table in self._tables()
            if fold(table.spec.name) != fold(shown[table.spec.folded])
        ]
        crossing = {fold(table.spec.name) for table, _ in moving} & {fold(name) for _, name in moving}
        for together in [moving] if crossing else [[each] for each in moving]:
            names = {table.spec.name: name for table, name in together}
            meshes = [table.spec.folded for table, _ in together]
            with self._refusable(f"keeps its name here ({_pairs(names)} on the mesh)", *meshes) as done:
                rename_tables(self._db, names)
                done.extend(meshes)
            for table, name in together if done else ():
                self._renamed(table, name)

    def _renamed(self, table: Table, name: str) -> None:
        self._catalog.names.record(table.spec.folded, name, {})
        report.rename_table(table, name)
        self._again(table, name)

    # ---- what is missing

    def _define(self, mesh: str, shown: str) -> None:
        catalog = self._catalog
        defined = catalog.defined(mesh)
        if defined is None or defined.folded != mesh:
            catalog.notes[mesh] = "not created: its definition on the mesh is not one plain CREATE TABLE"
            return
        table = catalog.tables.get(mesh)
        if table is not None:
            if table.spec.identity == defined.identity:
                have = {column.folded for column in table.spec.columns} | catalog.policies.dropped_of(mesh)
                self.add_columns(table.spec, [c.folded for c in defined.columns if c.folded not in have], table)
            return
        name = defined.name if fold(shown) == mesh else shown
        listing = "SELECT type FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type <> 'trigger'"
        taken = self._db.execute(listing, (name,)).fetchone()
        if taken is None:
            self._create(defined, name)
        elif taken[0] != "table":
            catalog.notes[mesh] = f"not created: this file has a {taken[0]} of that name; rename it"

    def _create(self, defined: TableSpec, name: str) -> None:
        catalog, mesh = self._catalog, defined.folded
        dropped = catalog.policies.dropped_of(mesh)
        target = self._column_names(mesh, defined.columns)
        text = self._renamed_definition(defined, name, target)
        if text is None:
            catalog.notes[mesh] = "not created: its definition on the mesh does not allow the names that it has got"
            return
        self._db.execute(text)
        catalog.names.record(mesh, name, target)
        for column in column_names(self._db, name):
            if fold(column) in dropped and fold(column) not in map(fold, target.values()):
                catalog.names.leave(mesh, fold(column), column)

    def add_columns(self, spec: TableSpec, columns: Sequence[str], table: Table | None = None) -> None:
        """Add columns of the mesh's definition to a table of this file, each under the name by which it is shown.

        `table` is the replicated table where every captured write has its stamp: rows that a column refuses are parked.
        """
        catalog, mesh = self._catalog, spec.folded
        defined = catalog.defined(mesh) if columns else None
        if defined is None:
            return
        real = {column.folded: column.name for column in defined.columns}
        target = self._column_names(mesh, spec.columns)
        text = self._renamed_definition(defined, spec.name, target)
        if text is None:
            catalog.notes[mesh] = (
                "columns of the mesh are not added here: their definition does not allow the names here"
            )
            return
        with scratch(text) as db:
            (name,) = user_tables(db)[0]
            for column in columns:
                if column not in real:
                    continue
                refused = add_column(self._db, spec.name, column_clauses(db, name, target[column]), table)
                if refused:
                    catalog.notes[mesh] = f"column {real[column]!r} of the mesh cannot be added here: {refused}"
                else:
                    catalog.names.record(mesh, spec.name, {column: target[column]})

    def _renamed_definition(self, defined: TableSpec, name: str, target: Mapping[str, str]) -> str | None:
        """Return the mesh's definition of a table under these names; None if its SQL does not allow that."""
        dropped = self._catalog.policies.dropped_of(defined.folded)
        renamed = {column: here for column, here in target.items() if fold(here) != column}
        if not renamed and not dropped and fold(name) == defined.folded:
            return defined.sql
        own = {column.folded for column in defined.columns}
        return rewrite_definition(
            defined.sql,
            table=name,
            columns={column: here for column, here in renamed.items() if column in own},
            without=sorted(dropped & own),
        )

    def _make_index(self, sql: str) -> None:
        self._db.authorizer = authorize_create(apsw.SQLITE_CREATE_INDEX)
        try:
            self._db.execute(sql)
        except apsw.ConstraintError as error:
            self._catalog.notes[f"index {sql[:60]}"] = f"not created: {error}"
        except (apsw.SQLError, apsw.AuthError):
            return  # it exists, its table is not here, or it is more than one CREATE INDEX
        finally:
            self._db.authorizer = None

    @contextlib.contextmanager
    def _refusable(self, consequence: str, *meshes: str) -> Iterator[list[str]]:
        """Undoes the block, and notes it of these tables, if SQLite refuses it; the block fills the list when it is done."""
        done: list[str] = []
        self._db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            yield done
        except apsw.SQLError as error:
            self._db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            self._refused |= dict.fromkeys(meshes, f"{consequence}: {error}")
            self._catalog.notes |= self._refused
        finally:
            self._db.execute(f"RELEASE {_SAVEPOINT}")


def _pairs(names: Mapping[str, str]) -> str:
    return ", ".join(f"{old} is {new}" for old, new in sorted(names.items()))
