"""Follows the schema facts of the mesh: drops, renames, creates and adds in this file what other nodes have changed.

Rows, columns and tables go only if a fact says that they were dropped. A statement that SQLite refuses leaves its table as it
is, with a note, and the rest goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import apsw

from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.merge import records
from mycomesh.sync.schema.add_column import add_column
from mycomesh.sync.schema.drift import differs
from mycomesh.sync.schema.facts import INDEX, SCHEMA_TABLE, TABLE
from mycomesh.sync.schema.generated_facts import GeneratedFacts
from mycomesh.sync.schema.names import distinct_names
from mycomesh.sync.schema.rebuild_table import rebuild_table
from mycomesh.sync.schema.record_facts import canonical_definition, extended_definition
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.create_table import definition_of
from mycomesh.sync.sqlite.definitions import (
    authorize_create,
    column_clauses,
    definition_refusal,
    execute_one,
    index_owner,
    is_null_default,
    missing_collation,
    read_definition,
    rename_columns,
    rename_tables,
    rewrite_definition,
    scratch,
)
from mycomesh.sync.sqlite.generated_columns import compose, generated_of
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import column_names, user_indexes
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import Column, TableSpec, UnsupportedTable, user_tables
from mycomesh.sync.sqlite.trial import refusal_of
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["FactFollower"]

_SAVEPOINT = "mycomesh_follow"


class FactFollower:
    """One pass over the facts, right after `Registry.read_decisions`."""

    def __init__(self, store: Store, registry: Registry, generated: GeneratedFacts) -> None:
        self._db = store.db
        self._registry = registry
        self._generated = generated
        self._refused: dict[str, str] = {}  # notes of what SQLite refused in this pass, by table
        self.rebuilt: set[str] = set()  # folded names here of the tables that this pass has rebuilt
        self.indexed: set[str] = set()  # of those on which it has created an index
        self.made: set[str] = set()  # canonical names of those that it has created

    def follow_definitions(self, tables: Collection[str], indexes: Collection[str]) -> None:
        """Add what the facts of these tables and indexes define; nothing else was stated since the last pass."""
        registry = self._registry
        loaded = [table for table in self._tables() if table.spec.folded in tables]
        facts = registry.facts.some(TABLE, tables)

        def define() -> None:
            for name in sorted((name for name, _ in facts), key=lambda name: name not in registry.tables):
                if registry.admits(name):
                    self._define(name, name)

        self._generated.follow(loaded, self._reload, define)
        for _, sql in registry.facts.some(INDEX, indexes):
            if sql:
                self._create_index(sql)

    def follow(self) -> list[str]:
        """Drop, rename, then add; return the canonical names of the tables that were dropped.

        Inside a transaction in which every captured write has its stamp.
        """
        indexes = self._registry.facts.all(INDEX)
        self._drop_indexes([name for name, sql in indexes if not sql])
        gone = [subject[0] for subject in sorted(self._registry.policies.dropped) if len(subject) == 1]
        dropped = [name for name in gone if self._drop_table(name)]
        self._generated.follow(self._tables(), self._reload, self._follow_stored)
        for _, sql in indexes:
            if sql:
                self._create_index(sql)
        return dropped

    def _follow_stored(self) -> None:
        for table in self._tables():
            self._drop_columns(table)
        for table in self._tables():
            self._rename_columns(table)
        defined = [name for name, _ in self._registry.facts.all(TABLE)]
        names = self._table_names(defined)
        self._rename_tables(names)
        # New tables last: after each of them, SQLite's catalogue is read again for the next one that is here.
        settled = self._settled(defined)
        for name in sorted(defined, key=lambda name: name not in self._registry.tables):
            if name not in settled and self._registry.admits(name):
                self._define(name, names[name])

    def _settled(self, defined: Iterable[str]) -> frozenset[str]:
        """Return those tables that are in this file as the mesh defines them, word for word: most of them, in most passes."""
        registry, found = self._registry, []
        with registry.file.steady():
            for name in defined:
                table, wanted = registry.tables.get(name), registry.defined(name)
                if table is None or wanted is None or table.spec.sql != wanted.sql or wanted.folded != name:
                    continue
                same = table.spec.identity == wanted.identity and name not in registry.refused_definitions
                with contextlib.suppress(UnsupportedTable):
                    if same and registry.spec(name, table.spec.name) is table.spec:
                        found.append(name)
        return frozenset(found)

    def make(self, canonical: str) -> bool:
        """Create one table of the mesh that is not here; return whether it is here then."""
        defined = [name for name, _ in self._registry.facts.all(TABLE)]
        if not self._registry.admits(canonical) or canonical not in defined:
            return False
        self._define(canonical, self._table_names(defined)[canonical])
        return fold(self._registry.names.table(canonical)) in {fold(name) for name in user_tables(self._db)[0]}

    def regenerate(self) -> None:
        """Follow the facts of generated columns alone, in tables whose triggers know every column.

        Writes may be without stamps then, which is why nothing else is followed.
        """
        stated = self._registry.policies.generated
        tables = [
            table
            for table in self._tables()
            if table.columns.installed and (table.spec.generated or table.spec.folded in stated)
        ]
        self._generated.follow(tables, self._reload, lambda: None)

    def _tables(self) -> list[Table]:
        return [table for name, table in sorted(self._registry.tables.items()) if name != SCHEMA_TABLE]

    # ---- dropping

    def _drop_indexes(self, facts: Sequence[str]) -> None:
        """Drop indexes of replicated tables; a fact can name any index, so others are left alone."""
        replicated = {fold(table.spec.name) for table in self._tables()}
        for name, owner, _ in user_indexes(self._db) if facts else ():
            if f"{INDEX}:{fold(name)}" in facts and fold(owner) in replicated:
                self._db.execute(f"DROP INDEX {quoted(name)}")

    def _drop_table(self, canonical: str) -> bool:
        table = self._registry.tables.get(canonical)
        if table is None:
            return False
        with self._refusable("is dropped on the mesh and stays in this file", canonical) as done:
            self._db.execute(f"DROP TABLE {quoted(table.spec.name)}")
            done.append(canonical)
        if done:
            self._registry.discard(canonical)
        return bool(done)

    def _drop_columns(self, table: Table) -> None:
        """Drop what the mesh has dropped since the last time, and what could not be dropped then."""
        registry, spec = self._registry, table.spec
        due = registry.drop_columns(table)
        if not table.columns.dropped:
            return
        known = registry.names.columns(spec.folded)
        here = {fold(name): name for name in column_names(self._db, spec.name)}
        leaving = {
            canonical: name for folded, name in here.items() if (canonical := known.get(folded, folded)) in table.columns.dropped
            and (folded in known or folded in due)
        }  # fmt: skip
        if not leaving:
            return
        registry.uninstall(table.table_id)
        for canonical, name in leaving.items():
            registry.names.forget(spec.folded, [canonical])
            why = f"column {name!r} is dropped on the mesh and stays in this file"
            with self._refusable(why, spec.folded) as done:
                self._db.execute(f"ALTER TABLE {quoted(spec.name)} DROP COLUMN {quoted(name)}")
                done.append(name)
            if not done:
                registry.names.leave(spec.folded, canonical, name)
        try:
            registry.install(self._reload(table, spec.name))
        except UnsupportedTable:
            registry.forget(spec.folded)  # the pass that follows notes why

    def _reload(self, table: Table, name: str) -> Table:
        """Return the table as the file has it by now, under this name."""
        registry, canonical = self._registry, table.spec.folded
        captured = {
            column: bit for column, bit in table.columns.captured.items() if column not in table.columns.dropped
        }
        spec = registry.spec(canonical, name)
        reloaded = registry.reload_stamped(table, spec, captured)
        if canonical in self._refused:  # loading a table drops its notes
            registry.notes.put(canonical, self._refused[canonical])
        return reloaded

    # ---- renaming

    def _column_names(self, canonical: str, columns: Iterable[Column]) -> dict[str, str]:
        """Return the name here of each column, of those in the canonical definition and of those that this file has."""
        policies = self._registry.policies
        defined = self._registry.defined(canonical)
        own = {column.folded: column.name for column in (*columns, *(defined.columns if defined else ()))}
        dropped = policies.dropped_of(canonical)
        wishes = {
            name: policies.renames.get((canonical, name), here if fold(here) == name else name)
            for name, here in own.items()
            if name not in dropped
        }
        return distinct_names(wishes)

    def _rename_columns(self, table: Table) -> None:
        spec = table.spec
        if not self._registry.policies.renames and not any(column.canonical for column in spec.columns):
            return  # each column has the name that it wishes for
        target = self._column_names(spec.folded, spec.columns)
        renamed = {
            column.name: target[column.folded]
            for column in spec.columns
            if fold(column.name) != fold(target[column.folded])
        }
        if not renamed:
            return
        with self._refusable(f"its columns keep their names here ({_pairs(renamed)} on the mesh)", spec.folded) as done:
            rename_columns(self._db, spec.name, renamed)
            done.append(spec.name)
        if done:
            names = {column.folded: renamed.get(column.name, column.name) for column in spec.columns}
            self._registry.names.record(spec.folded, spec.name, names)
            self._reload(table, spec.name)

    def _table_names(self, defined: Sequence[str]) -> dict[str, str]:
        """Return the name here of each table of the mesh."""
        registry = self._registry
        own = {name: name for name in defined}
        for name, table in registry.tables.items():
            own[name] = table.spec.name if fold(table.spec.name) == name else name
        wishes = {name: registry.policies.renames.get((name,), here) for name, here in own.items()}
        return distinct_names({name: wish for name, wish in wishes.items() if (name,) not in registry.policies.dropped})

    def _rename_tables(self, target: Mapping[str, str]) -> None:
        renamed = [
            (table, target[table.spec.folded])
            for table in self._tables()
            if fold(table.spec.name) != fold(target[table.spec.folded])
        ]
        # Two tables that swap names are renamed in one step.
        crossing = {fold(table.spec.name) for table, _ in renamed} & {fold(name) for _, name in renamed}
        for together in [renamed] if crossing else [[each] for each in renamed]:
            names = {table.spec.name: name for table, name in together}
            canonical = [table.spec.folded for table, _ in together]
            with self._refusable(f"keeps its name here ({_pairs(names)} on the mesh)", *canonical) as done:
                rename_tables(self._db, names)
                done.extend(canonical)
            for table, name in together if done else ():
                self._record_rename(table, name)

    def _record_rename(self, table: Table, name: str) -> None:
        self._registry.names.record(table.spec.folded, name, {})
        records.rename_table(table, name)
        self._reload(table, name)

    # ---- creating and adding

    def _define(self, canonical: str, here: str) -> None:
        registry = self._registry
        defined = registry.defined(canonical)
        table = registry.tables.get(canonical)
        if defined is None or defined.folded != canonical:
            why = definition_refusal(registry.facts.of(canonical) or "") or "it names another table"
            kept = "" if table is None else ", and this file keeps its own"
            registry.notes.put(canonical, f"its definition on the mesh cannot be used{kept}: {why}")
            return
        if table is not None:
            if table.spec.identity == defined.identity:
                have = {column.folded for column in table.spec.columns} | registry.policies.dropped_of(canonical)
                missing = [column.folded for column in defined.columns if column.folded not in have]
                self.add_columns(table.spec, missing, table)
                self._redefine(table, defined)
            return
        name = defined.name if fold(here) == canonical else here
        listing = "SELECT type FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type <> 'trigger'"
        taken = self._db.execute(listing, (name,)).fetchone()
        if taken is None:
            self._create(defined, name)
        elif taken[0] != "table":
            registry.notes.put(canonical, f"not created: this file has a {taken[0]} of that name; rename it")

    def _redefine(self, table: Table, defined: TableSpec) -> None:
        """Rebuild a table whose types or constraints are not the mesh's (ADR 39)."""
        registry, canonical, here = self._registry, table.spec.folded, table.spec.name
        try:
            spec = registry.spec(canonical, here)
        except UnsupportedTable:
            return
        key = spec.sql, defined.sql
        if not differs(self._db, spec, defined, registry.policies.dropped_of(canonical)):
            if registry.refused_definitions.pop(canonical, None):
                registry.notes.put(canonical, "")
            return
        if registry.refused_definitions.get(canonical) == key or spec.id_column != table.spec.id_column:
            return  # nothing has changed, or a pass has to give the rows other identities first
        if fold(here) in rebuild_mark.rebuilt_tables(self._db) - self.rebuilt:
            return  # by a program: a pass has to look at it first
        table = self._reload(table, here) if spec != table.spec else table
        own = canonical_definition(self._db, spec)
        whole = defined
        if own is not None and set(spec.canonical_names.values()) - {column.folded for column in defined.columns}:
            whole = read_definition(extended_definition(defined, spec, own) or defined.sql) or defined
        if not {column.folded for column in spec.columns} <= {column.folded for column in whole.columns}:
            return  # of two definitions neither has all columns: this node is about to state one that has
        whole, lost = _with_generated(whole, own or spec.sql, registry.policies.generated.get(canonical, {}))
        text = None if lost else self._renamed_definition(whole, here, self._column_names(canonical, spec.columns))
        refused = lost or ("its names here are others" if text is None else registry.refusal_of(text))
        if text is not None and not refused:
            affinities = {column.folded: column.affinity for column in whole.columns}
            converts = any(affinities.get(column.folded) != column.affinity for column in spec.columns)
            registry.uninstall(table.table_id)
            refused = rebuild_table(table, text)
            if not refused:
                self.rebuilt.add(fold(here))
                self._refused.pop(canonical, None)
                registry.names.forget(canonical, sorted(registry.policies.dropped_of(canonical)))
            table = self._reload(table, here)
            registry.install(table)
            if converts and not refused:
                table_scan.begin(table)
        if refused:
            registry.refused_definitions[canonical] = key
            self._refused[canonical] = f"keeps its definition, the mesh has another: {refused}"
            registry.notes.put(canonical, self._refused[canonical])

    def _create(self, defined: TableSpec, name: str) -> None:
        registry, canonical = self._registry, defined.folded
        dropped = registry.policies.dropped_of(canonical)
        target = self._column_names(canonical, defined.columns)
        text = self._renamed_definition(defined, name, target)
        if text is None:
            registry.notes.put(
                canonical, "not created: its definition on the mesh does not allow the names that it has got"
            )
            return
        missing = missing_collation(text)
        if missing:
            refused = f"{missing}, which only the application defines; let it create the table here"
        else:
            refused = registry.refusal_of(text)
        if refused:
            registry.notes.put(canonical, f"not created: {refused}")
            return
        with registry.file.altering(name), self._refusable("not created", canonical) as done:
            self._db.execute(text)
            done.append(canonical)
        if not done:
            return
        self.made.add(canonical)
        registry.names.record(canonical, name, target)
        for column in column_names(self._db, name):
            if fold(column) in dropped and fold(column) not in map(fold, target.values()):
                registry.names.leave(canonical, fold(column), column)

    def add_columns(
        self, spec: TableSpec, columns: Sequence[str], table: Table | None = None, *, bare: bool = False
    ) -> None:
        """Add columns of the canonical definition to a table of this file, each under its name here.

        With `table`, in which every captured write has its stamp, the rows that a new column refuses are parked. `bare`
        columns come without the constraints that could refuse an INSERT which leaves them out.
        """
        registry, canonical = self._registry, spec.folded
        defined = registry.defined(canonical) if columns else None
        if defined is None:
            return
        real = {column.folded: column for column in defined.columns}
        target = self._column_names(canonical, spec.columns)
        text = self._renamed_definition(defined, spec.name, target)
        if text is None:
            registry.notes.put(
                canonical, "columns of the mesh are not added here: their definition does not allow the names here"
            )
            return
        refused = refusal_of(text)
        if refused:
            registry.notes.put(canonical, f"columns of the mesh are not added here: {refused}")
            return
        with scratch(text) as db:
            (name,) = user_tables(db)[0]
            for column in columns:
                if column not in real:
                    continue
                clauses = column_clauses(db, name, target[column], bare=bare)
                too_new = registry.too_new(clauses[0])
                fitting = [clause for clause in clauses if not registry.too_new(clause)]
                # A default that only this node gives is no reason to park a row.
                given = real[column].not_null and is_null_default(real[column].default)
                refused = add_column(self._db, spec.name, fitting, None if given else table) if fitting else too_new
                if refused:
                    registry.notes.put(
                        canonical, f"column {real[column].name!r} of the mesh cannot be added here: {refused}"
                    )
                else:
                    registry.names.record(canonical, spec.name, {column: target[column]})
                    if too_new:
                        registry.notes.put(
                            canonical, f"column {real[column].name!r} is here without its constraints: {too_new}"
                        )

    def _renamed_definition(self, defined: TableSpec, name: str, target: Mapping[str, str]) -> str | None:
        """Return the canonical definition of a table under these names; None if its SQL does not allow that."""
        dropped = self._registry.policies.dropped_of(defined.folded)
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

    def _create_index(self, sql: str) -> None:
        owner = index_owner(self._db, sql)
        if not owner:
            return  # it exists, its table is not here, or it is more than one CREATE INDEX
        note = f"index {sql[:60]}"
        table = self._captured_table(owner)
        refused = self._registry.refusal_of(definition_of(self._db, owner), sql)
        try:
            if not refused:
                execute_one(self._db, sql, authorize_create(apsw.SQLITE_CREATE_INDEX))
        except REFUSALS as error:
            refused = f"{error}; correct the rows that it fails for, then create it here"
        if refused:
            self._registry.notes.put(note, f"not created: {refused}")
            return
        self._registry.notes.drop(note)
        self.indexed.add(fold(owner))
        if table is not None and self._registry.spec(table.spec.folded, owner) != table.spec:
            # A UNIQUE index needs triggers of its own. No program has written since, so nothing has to be looked for.
            self._registry.install(self._reload(table, owner))

    def _captured_table(self, here: str) -> Table | None:
        """Return the table of this name in the file if capture fits it as it is."""
        registry = self._registry
        table = next((table for table in self._tables() if fold(table.spec.name) == fold(here)), None)
        if table is None or not table.columns.installed or not registry.is_captured(table):
            return None
        return table if registry.spec(table.spec.folded, here) == table.spec else None

    @contextlib.contextmanager
    def _refusable(self, consequence: str, *names: str) -> Iterator[list[str]]:
        """Undo the block with a note for these tables if SQLite refuses it; the block appends to the list when it is done."""
        done: list[str] = []
        self._db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            yield done
        except REFUSALS as error:
            self._db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            self._refused |= dict.fromkeys(names, f"{consequence}: {error}")
            for name, line in self._refused.items():
                self._registry.notes.put(name, line)
        finally:
            self._db.execute(f"RELEASE {_SAVEPOINT}")


def _pairs(names: Mapping[str, str]) -> str:
    return ", ".join(f"{old} is {new}" for old, new in sorted(names.items()))


def _with_generated(whole: TableSpec, own: str, decided: Mapping[str, str]) -> tuple[TableSpec, str]:
    """Return a definition with the generated columns that the mesh has decided, and those of this file's own; or why not."""
    here, known = generated_of(own) or {}, generated_of(whole.sql) or {}
    kept = {name: text for name, text in here.items() if name not in known and name not in decided}
    if not kept and not decided:
        return whole, ""
    sql = compose(whole.sql, {**decided, **kept})  # again: a text may need a column that `whole` has got since
    lost = kept.keys() - (generated_of(sql) or {}).keys()
    if lost:
        return whole, f"SQLite cannot add the generated column {min(lost)!r} of this file to it"
    return read_definition(sql) or whole, ""
