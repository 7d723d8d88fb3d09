"""Index triggers: keep the user's full-text and R-tree indexes current when the node writes rows of other nodes.

The node writes rows with triggers switched off, since the rows that a trigger wrote elsewhere replicate themselves. But a
virtual table is not replicated. Without its trigger it would miss the row, and the application's next write of that row
would fail, as FTS5 finds the index malformed. So the node's connection carries copies of these triggers as TEMP triggers,
which run even so.

Invariants: a copied trigger writes virtual tables and nothing else, and has no RAISE. A table has all of its index triggers
copied, or none, as half of them would ruin the index. A trigger that fails is switched off with a note, and the rows of
peers come in.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence

import apsw

from mycomesh.sync.errors import IndexTriggerError
from mycomesh.sync.schema.index_copies import temp_trigger
from mycomesh.sync.schema.index_refill import IndexRefill, feeders
from mycomesh.sync.schema.index_remedies import remedy
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.create_table import mentions
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.virtual_tables import VirtualTable, caches, virtual_tables
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["IndexTriggers"]

_PREFIX = "mycomesh_echo"
_WRITES = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)
_FAILED = "its trigger failed ({}), and is off until the node starts again, which fills it"

_MISSING = re.compile("no such (?:module|function|collation)", re.IGNORECASE)
_LOADABLE = "; 'extensions' in config.toml loads a library that has it"

Trigger = tuple[str, str]  # its name, and its SQL in SQLite's catalogue


class IndexTriggers:
    """The TEMP triggers that one connection carries."""

    def __init__(self, store: Store, registry: Registry, indexes: dict[int, tuple[str, ...]]) -> None:
        """Take the dict to fill: the names of the indexes that the triggers keep, by table id."""
        self._store = store
        self._registry = registry
        self._indexes = indexes
        self._created = (
            0  # no name is used twice: a trigger whose table was dropped comes back with a table of that name
        )
        # By table: the triggers that were copied last, and the indexes that they keep.
        self._carried: dict[str, tuple[tuple[Trigger, ...], tuple[VirtualTable, ...]]] = {}
        self._failed: dict[tuple[str, tuple[Trigger, ...]], str] = {}  # triggers that are switched off, and their notes
        self._refill = IndexRefill(store)
        self._unfilled: dict[str, str] = {}  # notes of tables whose index has no rows of before, in this run
        self.unmarked = False  # whether triggers are off that the file has no record of
        self._notes: dict[str, str] = {}
        self._committed_notes: dict[str, str] = {}
        self._committed_indexes: dict[int, tuple[str, ...]] | None = None  # None: not changed since the last commit
        store.enlist(self)

    def committed(self) -> None:
        """Keep the notes and the index names of the transaction."""
        self._committed_notes = self._notes
        self._committed_indexes = None

    def rolled_back(self) -> None:
        """Go back to the notes and index names of before the transaction; switch off the triggers that made it fail.

        SQLite has rolled the TEMP triggers back. The catalog is enlisted first, so the registry is as before already.
        """
        self._notes = self._committed_notes
        if self._committed_indexes is not None:
            self._indexes.clear()
            self._indexes.update(self._committed_indexes)
            self._committed_indexes = None
        if isinstance(self._store.rollback_cause, IndexTriggerError):
            self._switch_off(self._store.rollback_cause)

    @property
    def filling(self) -> bool:
        """True if the file has indexes that lack rows."""
        return bool(self._refill.marked)

    def renew(self, *, filling: bool) -> None:
        """Copy the triggers that SQLite's catalogue has by now, and note those that cannot be copied; inside a transaction.

        With `filling`, indexes that lack rows get them as soon as their triggers can be copied.
        """
        self.take_off()
        having = self._registry.file.tables_with_triggers()
        tables = {
            name: table
            for name, table in self._registry.tables.items()
            if fold(table.spec.name) in having and self._triggers(table)
        }
        virtual = (*virtual_tables(self._store.db), *caches(self._store.db)) if tables else ()
        notes, stale = {}, set()
        for name, table in tables.items():
            own = self._triggers(table, virtual)
            if (name, own) in self._failed:
                notes[name] = self._failed[name, own]
            elif own:
                refused = self._put_on(table, own, virtual)
                if refused:
                    notes[name] = self._stale(_first_named(own, virtual), table, own, refused)
            if name in notes:
                stale |= {
                    fold(each.name)
                    for each in virtual
                    if each.module and any(mentions(sql, fold(each.name)) for _, sql in own)
                }
        self._refill.mark(stale)
        self.unmarked = False
        if filling and self.filling:
            self._fill()
        self._set_notes(self._unfilled | notes)

    def _fill(self) -> None:
        """Fill the indexes that lack rows and are kept by now."""
        for name, index, triggers in self.kept():
            table = self._registry.tables[name]
            refused = self._refill.run(index, table.spec.name, triggers)
            if refused:
                done = self._remedy(index, table.spec.name, triggers)
                self._unfilled[name] = (
                    f"index {index.name} lacks rows of before, as this node cannot fill it: {refused}; {done}"
                )

    def kept(self) -> list[tuple[str, VirtualTable, list[str]]]:
        """Return each index that the copied triggers keep: its table's canonical name, and the SQL of its triggers."""
        return [
            (name, index, [sql for _, sql in own if mentions(sql, fold(index.name))])
            for name, (own, indexes) in sorted(self._carried.items())
            if name in self._registry.tables and self._indexes.get(self._registry.tables[name].table_id)
            for index in indexes
        ]

    def take_off(self) -> None:
        """Drop every copied trigger. Those of a dropped table went with it, or go when a table of that name is back."""
        if self._committed_indexes is None:
            self._committed_indexes = dict(self._indexes)
        self._indexes.clear()
        if self._created:
            self._drop("")

    def _triggers(self, table: Table, naming: Sequence[VirtualTable] | None = None) -> tuple[Trigger, ...]:
        """Return the user's triggers of a table in their order; if `naming` is given, those that name one of these tables."""
        return tuple(
            (name, sql)
            for kind, name, sql in self._registry.file.catalogue_entries(table.spec.name)
            if kind == "trigger"
            and not fold(name).startswith(INTERNAL_PREFIX)
            and (naming is None or any(mentions(sql, fold(each.name)) for each in naming))
        )

    def _put_on(self, table: Table, own: tuple[Trigger, ...], virtual: Sequence[VirtualTable]) -> str:
        """Copy those of a table's triggers that keep an index; return why none was copied, "" otherwise."""
        db = self._store.db
        refused = ""
        carried: set[str] = set()
        db.execute(f"SAVEPOINT {_PREFIX}")
        try:
            names = {self._create(sql): name for name, sql in own}
            for copy, written in self._written_tables(table, names).items():
                others = written - {fold(each.name) for each in virtual}
                if written == others:  # it only reads an index
                    db.execute(f"DROP TRIGGER temp.{copy}")
                elif others:
                    refused = f"trigger {names[copy]} writes {', '.join(sorted(others))} too"
                carried |= written
        except (apsw.Error, ValueError) as error:  # it needs a function of the application, or is not UTF-8
            refused = f"this node cannot run its triggers ({error}{_LOADABLE if _MISSING.search(str(error)) else ''})"
        if refused:
            db.execute(f"ROLLBACK TO {_PREFIX}")
        else:
            kept = tuple(each for each in virtual if fold(each.name) in carried)
            if kept:
                self._store.expect_index_errors()
                self._indexes[table.table_id] = tuple(each.name for each in kept)
                self._carried[table.spec.folded] = own, kept
        db.execute(f"RELEASE {_PREFIX}")
        return refused

    def _create(self, sql: str) -> str:
        self._created += 1
        name = f"{_PREFIX}_{self._created}"
        self._store.db.execute(temp_trigger(sql, name))
        return name

    def _written_tables(self, table: Table, names: Iterable[str]) -> dict[str, set[str]]:
        """Return the folded names of the tables that each of these triggers writes, as SQLite's authorizer reports them."""
        db = self._store.db
        written: dict[str, set[str]] = {name: set() for name in names}

        def authorize(
            operation: int, first: str | None, _second: str | None, _schema: str | None, trigger: str | None
        ) -> int:
            if operation in _WRITES and trigger in written:
                written[trigger].add(fold(first or ""))
            return apsw.SQLITE_OK

        target = quoted(table.spec.name)
        settings = ", ".join(f"{quoted(column.name)} = {quoted(column.name)}" for column in table.spec.columns)
        db.authorizer = authorize
        try:
            for statement in (
                f"INSERT INTO {target} DEFAULT VALUES",
                f"UPDATE {target} SET {settings}",
                f"DELETE FROM {target}",
            ):
                db.execute(f"EXPLAIN {statement}", can_cache=False).close()
        finally:
            db.authorizer = None
        return written

    def _drop(self, table: str) -> None:
        """Drop the copied triggers of one table of this file, "" for all."""
        db = self._store.db
        listing = (
            "SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND (?1 = '' OR tbl_name = ?1 COLLATE NOCASE)"
        )
        for (name,) in db.execute(listing, (table,)).fetchall():
            db.execute(f"DROP TRIGGER IF EXISTS temp.{name}")

    def _switch_off(self, error: IndexTriggerError) -> None:
        """Drop the triggers that made a transaction fail, until the node starts again or the triggers change."""
        self.unmarked = True
        notes = dict(self._committed_notes)
        text = str(error.__cause__ or error)
        named = [
            name
            for name, (_, indexes) in self._carried.items()
            if name == error.table or (not error.table and any(f'"{index.name}"' in text for index in indexes))
        ]
        for name in named or list(self._carried):
            own, indexes = self._carried[name]
            table = self._registry.tables.get(name)
            notes[name] = self._failed[name, own] = self._stale(indexes[0], table, own, _FAILED.format(text))
            if table is not None:
                self._indexes.pop(table.table_id, None)
                with contextlib.suppress(apsw.BusyError, apsw.LockedError):
                    self._drop(table.spec.name)
        self._set_notes(notes)
        self._committed_notes = notes

    def _stale(self, index: VirtualTable, table: Table | None, own: Sequence[Trigger], why: str) -> str:
        """Return the note of an index that misses rows, with what to do."""
        triggers = [sql for _, sql in own if mentions(sql, fold(index.name))]
        done = self._remedy(index, table.spec.name if table else "", triggers)
        return f"index {index.name} is not kept up to date with what other nodes write: {why}; {done}"

    def _remedy(self, index: VirtualTable, table: str, triggers: Sequence[str]) -> str:
        """Return what fills an index again; SQL for one table would lose what another has entered."""
        alone = len(feeders(self._store.db, index)) < 2
        return remedy(index, table, triggers if alone else ())

    def _set_notes(self, notes: dict[str, str]) -> None:
        self._registry.notes.replace(Source.INDEX, notes)
        self._notes = notes


def _first_named(own: Sequence[Trigger], virtual: Sequence[VirtualTable]) -> VirtualTable:
    """Return the first of these tables that a trigger names."""
    return next(each for each in virtual if any(mentions(sql, fold(each.name)) for _, sql in own))
