"""Keeps the generated columns of this file and the facts that define them in step (ADR 23).

Every replica computes generated columns itself, so no row depends on them, and the latest definition wins whatever it was
before. `generated/TABLE` in `mycomesh_meta` remembers for each column the canonical text that was followed last, and the text
that came of it here. This distinguishes a change that the user made from a fact that is yet to be followed. A stored column
takes the place of a generated one of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping

import apsw

from mycomesh.sync.schema.add_column import add_column
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.policy import generated_fact
from mycomesh.sync.schema.record_facts import canonical_definition
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.create_table import equivalent, mentions
from mycomesh.sync.sqlite.generated_columns import compose, generated_of, in_any_order, rename_text, with_dependents
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.indexes import user_indexes
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import TableSpec
from mycomesh.sync.sqlite.trial import refusal_of
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["GeneratedFacts"]

_SAVEPOINT = "mycomesh_generating"
# By column: [the canonical text that was followed last, the text here].
_Memory = dict[str, list[str]]


class GeneratedFacts:
    """The generated columns of one file's replicated tables, by folded name."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def record(self, only: Collection[str] | None = None) -> None:
        """Write a fact for each generated column that was added, changed or dropped in this file, or in `only` these tables."""
        listing = "SELECT substr(name, 11), value FROM mycomesh_meta WHERE name GLOB 'generated/*' ORDER BY name"
        known = {name: json.loads(value) for name, value in self._store.db.execute(listing).fetchall()}
        for name, table in self._registry.tables.items():
            if name != SCHEMA_TABLE and (table.spec.generated or name in known) and (only is None or name in only):
                self._record(table.spec, known.get(name))

    def _record(self, spec: TableSpec, before: _Memory | None) -> None:
        here, canonical = self._texts_here(spec), self._canonical_texts(spec.folded)
        if here is None or canonical is None:
            return
        memory = dict(before or {})
        stated = self._registry.policies.generated.get(spec.folded, {})
        facts = []
        for column, text in here.items():
            if column in self._stored(spec.folded):
                continue
            # Another definition of the table may have won, which does not have the column.
            lost = column not in canonical and column not in stated
            if column in memory and equivalent(memory[column][1], text) and not lost:
                continue
            # The fact of the table defines a column that is new here, too. But a definition with an older text may win later.
            known = stated.get(column, "" if column in memory else canonical.get(column, ""))
            memory[column] = [text, text]
            if not equivalent(known, text):
                facts.append(generated_fact(spec.folded, column, text))
        for column in [column for column in memory if column not in here]:
            del memory[column]
            if stated.get(column) != "":
                facts.append(generated_fact(spec.folded, column, ""))
        for fact in facts:
            too_new = self._registry.too_new(fact[2])
            if too_new:
                self._registry.notes.put(spec.folded, f"a generated column stays on this node: {too_new}")
            else:
                self._registry.facts.write(*fact)
        if memory != before:
            self._remember(spec.folded, memory)

    def forget(self, name: str) -> None:
        """Forget a table that was dropped."""
        self._store.db.execute("DELETE FROM mycomesh_meta WHERE name = ?", (f"generated/{name}",))

    # ---- following

    def follow(
        self, tables: Collection[Table], reload: Callable[[Table, str], Table], between: Callable[[], None]
    ) -> None:
        """Drop the columns that the mesh has dropped or changed, call `between`, and add those that are missing.

        `reload` reads a table again under a name. Inside a transaction in which every captured write has its stamp.
        """
        passes = [_Pass(table) for table in tables]
        for each in passes:
            self._drop_outdated(each, reload)
        between()
        for each in passes:
            self._add_missing(each)

    def _drop_outdated(self, each: _Pass, reload: Callable[[Table, str], Table]) -> None:
        spec = each.table.spec
        here, canonical = self._texts_here(spec), self._canonical_texts(spec.folded)
        if not spec.generated or here is None or canonical is None:
            return
        memory = self._memory(spec.folded)
        due = self._outdated(spec.folded, here, canonical, memory)
        if not due:
            return
        self._registry.uninstall(each.table.table_id)
        each.before = dict(generated_of(spec.sql) or {})
        left = in_any_order(due, lambda column: self._drop(each, column, replaced=column in canonical))
        for column in due:
            if column not in left:
                memory.pop(column, None)
        self._remember(spec.folded, memory)
        self._registry.install(reload(each.table, spec.name))

    def _outdated(self, name: str, here: Mapping[str, str], texts: Mapping[str, str], memory: _Memory) -> list[str]:
        """Return the columns of a table that the mesh has dropped or changed, and those that are computed of them."""
        stored, wanted = self._stored(name), {**self._registry.policies.generated.get(name, {}), **texts}
        due = [
            column
            for column, text in here.items()
            if column in stored
            or not (equivalent(wanted.get(column, text), text) or _followed(memory.get(column), wanted[column], text))
        ]
        return with_dependents(here, due)

    def _drop(self, each: _Pass, column: str, *, replaced: bool) -> bool:
        """Drop a generated column, and the indexes that name it if the column comes back; return whether it is gone."""
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
        except REFUSALS:  # a view or an index of the user refers to it, so it stays: `drift` notes the difference
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            return False
        finally:
            db.execute(f"RELEASE {_SAVEPOINT}")
        each.indexes |= indexes
        return True

    def _add_missing(self, each: _Pass) -> None:
        """Add the columns that the mesh has; where SQLite refuses one, add the column that was there before."""
        name = each.table.spec.folded
        table = self._registry.tables.get(name)
        texts = self._canonical_texts(name)
        if table is None or not texts:
            return
        missing = {column: text for column, text in texts.items() if column not in map(fold, table.spec.generated)}
        if not missing:
            return
        left = in_any_order(list(missing), lambda column: self._add(name, table.spec.name, column, missing[column]))
        for column in [column for column in left if column in each.before]:
            add_column(self._store.db, table.spec.name, [each.before[column]])
        for sql in each.indexes.values():
            try:
                self._store.db.execute(sql)
            except REFUSALS as error:
                self._registry.notes.put(f"index {sql[:60]}", f"not created: {error}")
        here = self._texts_here(self._registry.spec(name, table.spec.name)) or {}
        memory = self._memory(name)
        for column, text in here.items():
            if column in texts and column not in memory:
                memory[column] = ["" if column in left else texts[column], text]
        self._remember(name, memory)

    def _add(self, name: str, here: str, column: str, text: str) -> bool:
        """Add a generated column to the table called `here`, with the names here in its text; return whether SQLite takes it."""
        spec = self._registry.spec(name, here)
        sql = canonical_definition(self._store.db, spec)
        names = {other.folded: other.name for other in spec.columns if other.canonical}
        if sql is None:
            return False
        try:
            clause = rename_text(sql, column, text, names)
        except apsw.Error:
            return False
        refused = self._registry.too_new(text) or refusal_of(compose(sql, {column: text}))
        if refused:
            self._registry.notes.put(name, f"generated column {column!r} of the mesh is not added here: {refused}")
            return False
        return not add_column(self._store.db, here, [clause])

    # ---- texts

    def _texts_here(self, spec: TableSpec) -> Mapping[str, str] | None:
        """Return the texts of a table's generated columns under canonical names, None if its SQL does not allow that."""
        if not spec.generated:
            return {}
        sql = canonical_definition(self._store.db, spec)
        return None if sql is None else generated_of(sql)

    def _canonical_texts(self, name: str) -> Mapping[str, str] | None:
        """Return the texts of the generated columns that the mesh has of a table, None if it has no definition of it."""
        defined = self._registry.defined(name)
        if defined is None or not defined.generated:
            return None if defined is None else {}
        stated = self._registry.policies.generated.get(name, {})
        texts = generated_of(defined.sql) or {}
        return {column: text for column, text in texts.items() if stated.get(column) != ""}

    def _stored(self, name: str) -> frozenset[str]:
        """Return the stored columns of the canonical definition that are not dropped."""
        defined = self._registry.defined(name)
        columns = defined.columns if defined is not None else ()
        return frozenset(column.folded for column in columns) - self._registry.policies.dropped_of(name)

    def _memory(self, name: str) -> _Memory:
        return dict(json.loads(self._store.meta(f"generated/{name}") or "{}"))

    def _remember(self, name: str, memory: _Memory) -> None:
        self._store.meta_set(f"generated/{name}", json.dumps(memory))


def _followed(remembered: list[str] | None, text: str, here: str) -> bool:
    """Return True if a column here is what came of following that text; the names in the two may differ."""
    return remembered is not None and equivalent(remembered[0], text) and equivalent(remembered[1], here)


class _Pass:
    """One pass over a table: the texts that were dropped, under the names here, and the indexes to create again."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.before: dict[str, str] = {}
        self.indexes: dict[str, str] = {}
