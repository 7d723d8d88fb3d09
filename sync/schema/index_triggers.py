"""Echoes: triggers of the user's that keep a full-text or R-tree index, run for what other nodes write too.

The node writes rows with triggers switched off, since what a trigger wrote elsewhere comes as rows. A virtual table is not
replicated: without its trigger it knows nothing of such a row, and the program's next write of it fails, as FTS5 finds the
index malformed. The node's connection therefore carries these triggers as TEMP ones, which run all the same.

Owns these TEMP triggers. What always holds: none writes anything but virtual tables, or has
RAISE; a table has all of its own or none, as half of them would ruin the index; one that fails is taken off and told, and what
peers have sent comes in. It must not know why a row is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import apsw

from mycomesh.sync.errors import IndexTriggerError
from mycomesh.sync.sqlite.create_table import mentions
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore
from mycomesh.sync.sqlite.tokens import TOKEN

if TYPE_CHECKING:
    from mycomesh.sync.schema.catalog import Catalog
    from mycomesh.sync.sqlite.table_spec import FileSchema
    from mycomesh.sync.storage.store import Store
    from mycomesh.sync.storage.table import Table

__all__ = ["IndexTriggers"]

_SAVEPOINT = "mycomesh_echo"
_WRITES = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)
_STALE = (
    "index {0} is not kept up to date with what other nodes write: {1}; INSERT INTO {0}({0}) VALUES('rebuild') does it"
)
_FAILED = "its trigger failed ({}), and is off until the node starts again: rebuild it before"

Trigger = tuple[str, str]  # its name, and its SQL as it stands in SQLite's catalogue


class IndexTriggers:
    """The triggers that one connection carries."""

    def __init__(self, store: Store, catalog: Catalog, file: FileSchema, kept: dict[int, tuple[str, ...]]) -> None:
        """Take the dict that names the indexes which this connection keeps, by table id; it is filled here."""
        self._store = store
        self._catalog = catalog
        self._file = file
        self._kept = kept
        self._made = 0  # no name is given twice: a trigger whose table went comes back with a table of that name
        # By table: what was put on last, and the indexes that it keeps.
        self._carried: dict[str, tuple[tuple[Trigger, ...], tuple[str, ...]]] = {}
        self._failed: dict[tuple[str, tuple[Trigger, ...]], str] = {}  # what is off, and the line that says why
        self._told: dict[str, str] = {}
        self._stood: dict[str, str] = {}  # what was told before the running transaction
        store.undone = self._undone
        store.enlist(self)

    def committed(self) -> None:
        """The transaction stands, and what it has told."""
        self._stood = self._told

    def rolled_back(self) -> None:
        """The transaction is undone; so are the TEMP triggers that it made, and what it told."""
        self._told = self._stood

    def renew(self) -> None:
        """Has the connection carry what the catalogue has now, and tells what it cannot; inside a transaction."""
        self.take_off()
        tables = {mesh: table for mesh, table in self._catalog.tables.items() if self._triggers(table)}
        virtual = self._virtual() if tables else []
        told = {}
        for mesh, table in tables.items():
            own = self._triggers(table, virtual)
            if (mesh, own) in self._failed:
                told[mesh] = self._failed[mesh, own]
            elif own:
                refused = self._put_on(table, own, virtual)
                told |= {mesh: _STALE.format(_named(own, virtual), refused)} if refused else {}
        self._tell(told)

    def take_off(self) -> None:
        """Take every one off; those of a table that went have gone with it, or go when it is back."""
        self._kept.clear()
        if self._made:
            self._drop("")

    def _triggers(self, table: Table, naming: Sequence[str] | None = None) -> tuple[Trigger, ...]:
        """Return a table's triggers that are the user's, in their order; those that name one of these tables, if given."""
        return tuple(
            (name, sql)
            for kind, name, sql in self._file.catalogue_entries(table.spec.name)
            if kind == "trigger"
            and not fold(name).startswith(INTERNAL_PREFIX)
            and (naming is None or any(mentions(sql, fold(each)) for each in naming))
        )

    def _virtual(self) -> list[str]:
        listing = f"SELECT {raw_select('name')} FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%' ORDER BY name"
        return [lenient_text(restore(cells)[0]) for cells in self._store.db.execute(listing).fetchall()]

    def _put_on(self, table: Table, own: tuple[Trigger, ...], virtual: Sequence[str]) -> str:
        """Put on those of a table's triggers that keep an index; returns why it has put on none, "" if that is not so."""
        db = self._store.db
        refused = ""
        carried: set[str] = set()
        db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            names = {self._create(sql): name for name, sql in own}
            for echo, written in self._written(table, names).items():
                more = written - set(map(fold, virtual))
                if written == more:  # it reads an index alone
                    db.execute(f"DROP TRIGGER temp.{echo}")
                elif more:
                    refused = f"trigger {names[echo]} writes {', '.join(sorted(more))} too"
                carried |= written
        except (apsw.Error, ValueError) as error:  # a function or module of the program's, text that is not UTF-8
            refused = f"this node cannot run its triggers ({error})"
        if refused:
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        else:
            kept = tuple(name for name in virtual if fold(name) in carried)
            if kept:
                self._store.echoing = True
                self._kept[table.table_id] = kept
                self._carried[table.spec.folded] = own, kept
        db.execute(f"RELEASE {_SAVEPOINT}")
        return refused

    def _create(self, sql: str) -> str:
        pieces = TOKEN.findall(sql)
        if "raise" in map(fold, pieces):
            raise ValueError("RAISE in a trigger would decide on rows of others")
        self._made += 1
        name = f"{_SAVEPOINT}_{self._made}"
        self._store.db.execute(
            f"CREATE TEMP TRIGGER {name} {''.join(pieces[5:])}"
        )  # what follows CREATE TRIGGER and its name
        return name

    def _written(self, table: Table, names: Iterable[str]) -> dict[str, set[str]]:
        """Return which tables each of these triggers writes, folded, as SQLite tells where it compiles them."""
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
        """Drop those of a table of this file, "" for all."""
        db = self._store.db
        listing = (
            "SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND (?1 = '' OR tbl_name = ?1 COLLATE NOCASE)"
        )
        for (name,) in db.execute(listing, (table,)).fetchall():
            db.execute(f"DROP TRIGGER IF EXISTS temp.{name}")

    def _undone(self, error: BaseException) -> None:
        """A transaction was undone: takes off what made it fail, for as long as these triggers stand in this run."""
        if not isinstance(error, IndexTriggerError):
            return
        told = dict(self._stood)
        text = str(error.__cause__ or error)
        named = [
            mesh
            for mesh, (_, indexes) in self._carried.items()
            if mesh == error.table or (not error.table and any(f'"{name}"' in text for name in indexes))
        ]
        for mesh in named or list(self._carried):
            own, indexes = self._carried[mesh]
            told[mesh] = self._failed[mesh, own] = _STALE.format(indexes[0], _FAILED.format(text))
            table = self._catalog.tables.get(mesh)
            if table is not None:
                self._kept.pop(table.table_id, None)
                with contextlib.suppress(apsw.BusyError, apsw.LockedError):
                    self._drop(table.spec.name)
        self._tell(told)
        self._stood = told

    def _tell(self, told: dict[str, str]) -> None:
        """Has the notes of tables say these lines, beside whatever else they say, and none that it told before."""
        notes = self._catalog.notes
        for mesh, line in self._told.items():
            if notes.get(mesh, "").endswith(line):
                notes[mesh] = notes[mesh].removesuffix(line).removesuffix("; ")
                if not notes[mesh]:
                    del notes[mesh]
        for mesh, line in told.items():
            notes[mesh] = f"{notes[mesh]}; {line}" if mesh in notes else line
        self._told = told


def _named(own: Sequence[Trigger], virtual: Sequence[str]) -> str:
    """Return the first of these tables that a trigger names."""
    return next(name for name in virtual if any(mentions(sql, fold(name)) for _, sql in own))
