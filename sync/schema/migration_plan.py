"""Migrations: what a script of SQL does to the tables of a file, found out before it runs.

A script is tried on an empty copy of the schema, one statement after the other, so that a column which goes can be told from
one that gets another name, and nothing in the file is touched before it is known what the mesh has to be told.

Owns this plan and which statements a migration may have. What always holds: a table is followed by a trigger that goes where
it goes (RENAME takes it along, DROP takes it away); the plan depends on the schema and the script alone. It must not know
facts, the change log or peers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apsw

from mycomesh.sync.errors import MigrationError
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore
from mycomesh.sync.sqlite.table_spec import user_tables
from mycomesh.sync.sqlite.tokens import readable_sql

__all__ = ["Alteration", "Plan", "run"]

_MARK = f"{INTERNAL_PREFIX}mark_"
# No legacy_alter_table: RENAME must rewrite the triggers.
_PRAGMAS = {
    "foreign_keys", "foreign_key_check", "foreign_key_list", "defer_foreign_keys", "user_version",
    "application_id", "integrity_check", "quick_check", "table_info", "table_xinfo", "index_list", "index_info",
    "data_version",  # FTS5 reads it before it writes
}  # fmt: skip
_NO_PLACE = {apsw.SQLITE_ATTACH: "ATTACH", apsw.SQLITE_DETACH: "DETACH", apsw.SQLITE_TRANSACTION: "ROLLBACK"}
_BLANK = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_WRITES = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)


@dataclass(slots=True)
class Alteration:
    """What becomes of one table that was there before: `name` is "" if it is dropped.

    `columns` has, by the folded names from before, the names that its columns end with, "" for one that is dropped;
    `rebuilt` says that another table stands in its place, `written` that statements write rows of it, and `uncomputed` has the
    folded names of generated columns that go, though they may come back in another way.
    """

    name: str
    columns: dict[str, str]
    rebuilt: bool = False
    written: bool = False
    uncomputed: frozenset[str] = frozenset()

    @property
    def dropped(self) -> frozenset[str]:
        """The folded names of the columns that go."""
        return frozenset(column for column, name in self.columns.items() if not name)


@dataclass(slots=True)
class Plan:
    """What a script does: by folded names from before, what becomes of each table; and names of indexes that go."""

    tables: dict[str, Alteration] = field(default_factory=dict)
    created: tuple[str, ...] = ()
    indexes_dropped: tuple[str, ...] = ()

    @classmethod
    def of(cls, db: Any, script: str) -> Plan:
        """Return what a script does to the schema of a database, which is only read.

        Raises:
            MigrationError: a statement that SQLite refuses, or that has no place in a migration, with its line.
        """
        trial: Any = apsw.Connection(":memory:")
        try:
            _copy_schema(db, trial)
            return _Follower(trial).follow(script)
        finally:
            trial.close()

    def told(self) -> list[str]:
        """Return one line for each thing that other nodes will do as well, or cannot."""
        lines = [f"creates {name}" for name in self.created]
        for before, after in self.tables.items():
            if not after.name:
                lines.append(f"drops {before} and its rows")
                continue
            lines += [f"drops {before}.{column} and its values" for column in sorted(after.dropped)]
            lines += [f"drops {before}.{column}, which is computed" for column in sorted(after.uncomputed)]
            lines += [
                f"renames {before}.{column} to {name}"
                for column, name in sorted(after.columns.items())
                if name and fold(name) != column
            ]
            if fold(after.name) != before:
                lines.append(f"renames {before} to {after.name}")
            if after.rebuilt:
                lines.append(f"rebuilds {after.name}: other nodes get its columns, not its constraints")
        return lines + [f"drops index {name}" for name in self.indexes_dropped]


def run(db: Any, script: str, seen: Callable[[str | None], None] | None = None) -> None:
    """Run a script's statements in the caller's transaction.

    BEGIN and COMMIT do nothing: a migration is one transaction. `seen` is told of each table that a statement writes to,
    and with None when it has been done.

    Raises:
        MigrationError: as for `Plan.of`, or rows that a constraint refuses; the caller undoes the transaction.
    """
    refused = ""

    def authorize(
        operation: int, first: str | None, _second: str | None, schema: str | None, _trigger: str | None
    ) -> int:
        nonlocal refused
        if operation == apsw.SQLITE_TRANSACTION and first != "ROLLBACK":
            return apsw.SQLITE_IGNORE
        if operation in _NO_PLACE:
            refused = f"{_NO_PLACE[operation]} has no place in a migration, which is one transaction in one file"
        elif operation == apsw.SQLITE_PRAGMA and fold(first or "") not in _PRAGMAS:
            refused = f"PRAGMA {first} has no place in a migration"
        elif operation in _WRITES and schema == "main" and first is not None and seen is not None:
            seen(first)
        return apsw.SQLITE_DENY if refused else apsw.SQLITE_OK

    db.authorizer = authorize
    try:
        for line, statement in _statements(script):
            try:
                db.execute(statement).fetchall()
            except (apsw.Error, UnicodeError) as error:
                raise MigrationError(f"line {line}: {refused or error}; nothing was changed") from error
            if seen is not None:
                seen(None)
    finally:
        db.authorizer = None


def _statements(script: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with the line that it begins on."""
    start = 0
    for end in (*(found.end() for found in re.finditer(";", script)), len(script)):
        text = script[start:end]
        if end < len(script) and not apsw.complete(text):
            continue  # in a string, a comment or the body of a trigger
        begin = start + len(_BLANK.match(text)[0])  # type: ignore[index]
        if begin < end:
            yield script.count("\n", 0, begin) + 1, text
        start = end


def _copy_schema(db: Any, trial: Any) -> None:
    """Make the tables, indexes, views and triggers of a database in another, without rows and without ours."""
    trial.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    listing = (
        f"SELECT {raw_select('sql')} FROM sqlite_schema WHERE sql IS NOT NULL"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'mycomesh\\_%' ESCAPE '\\'"
        " ORDER BY type <> 'table', sql NOT LIKE 'CREATE VIRTUAL%', rowid"
    )
    for cells in db.execute(listing).fetchall():
        sql = readable_sql(*restore(cells))
        if sql is None:
            continue
        try:
            trial.execute(sql).fetchall()
        except apsw.Error:  # a shadow table that its virtual table has made, or a module that is not here
            continue


class _Follower:
    """Follows the tables of a database through a script."""

    def __init__(self, db: Any) -> None:
        self._db = db
        names = user_tables(db)[0]
        self._before = {fold(name): column_names(self._db, name) for name in names}
        self._marks = {f"{_MARK}{number}": name for number, name in enumerate(self._before)}
        # By the folded name from before: the columns now in order, each with its folded name from before, "" for a new one.
        self._now = {name: [(column, fold(column)) for column in columns] for name, columns in self._before.items()}
        self._computed = {before: _computed(db, name) for before, name in zip(self._before, names, strict=True)}
        self._uncomputed: dict[str, frozenset[str]] = {}
        self._written: dict[str, None] = {}
        self._pending: list[str] = []
        self._indexes = self._index_names()
        for mark, name in zip(
            self._marks, names, strict=True
        ):  # by its own letters: the schema shows them as written here
            db.execute(f"CREATE TRIGGER {mark} AFTER DELETE ON {quoted(name)} WHEN 0 BEGIN SELECT 1; END")

    def follow(self, script: str) -> Plan:
        run(self._db, script, self._seen)
        return Plan(self._alterations(), self._created(), self._dropped_indexes())

    def _seen(self, written: str | None) -> None:
        if written is not None:
            self._pending.append(fold(written))
            return
        here = self._marked()
        by_name = {fold(name): before for before, name in here.items()}
        self._written.update(dict.fromkeys(by_name.get(name, name) for name in self._pending))
        self._pending.clear()
        for before, name in here.items():
            self._now[before] = _moved(self._now[before], column_names(self._db, name))
            computed = _computed(self._db, name)
            if not self._computed[before] <= computed:
                gone = self._computed[before] - computed
                self._uncomputed[before] = self._uncomputed.get(before, frozenset()) | gone
            self._computed[before] = computed

    def _marked(self) -> dict[str, str]:
        """Return, by folded names from before, what the tables are called that are still themselves."""
        listing = (
            f"SELECT name, tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '{_MARK}%' ORDER BY name"
        )
        found: dict[str, str] = {}
        for mark, name in self._db.execute(listing).fetchall():
            if mark in self._marks:
                found[self._marks[mark]] = name
        return found

    def _alterations(self) -> dict[str, Alteration]:
        here = self._marked()
        present = {fold(name): name for name in user_tables(self._db)[0]}
        found: dict[str, Alteration] = {}
        for before, columns in self._before.items():
            written = before in self._written
            if before in here:
                ends = {origin: name for name, origin in self._now[before] if origin}
                ended = {fold(name): ends.get(fold(name), "") for name in columns}
                gone = self._uncomputed.get(before, frozenset())
                alteration = Alteration(here[before], ended, False, written, gone)
            elif before in present:  # made anew under its name: its columns are known by theirs
                ends = {fold(name): name for name in column_names(self._db, before)}
                alteration = Alteration(
                    present[before], {fold(name): ends.get(fold(name), "") for name in columns}, True, True
                )
            else:
                alteration = Alteration("", {})
            unchanged = fold(alteration.name) == before and all(
                fold(new) == old for old, new in alteration.columns.items()
            )
            if not unchanged or alteration.rebuilt or alteration.uncomputed or written:
                found[before] = alteration
        return found

    def _created(self) -> tuple[str, ...]:
        here = self._marked()
        known = {fold(name) for name in here.values()} | {name for name in self._before if name not in here}
        return tuple(name for name in user_tables(self._db)[0] if fold(name) not in known)

    def _dropped_indexes(self) -> tuple[str, ...]:
        left = {fold(name) for name in self._index_names()}
        return tuple(name for name in self._indexes if fold(name) not in left)

    def _index_names(self) -> list[str]:
        listing = (
            f"SELECT {raw_select('name')} FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        )
        return [lenient_text(*restore(cells)) for cells in self._db.execute(listing).fetchall()]


def _computed(db: Any, table: str) -> frozenset[str]:
    """Return the folded names of a table's generated columns."""
    listing = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden IN (2, 3) ORDER BY cid"
    return frozenset(fold(name) for (name,) in db.execute(listing, (table,)).fetchall())


def _moved(before: list[tuple[str, str]], now: list[str]) -> list[tuple[str, str]]:
    """Return the columns after one statement, each with its origin: it can have added, dropped or renamed one."""
    if len(now) == len(before):
        return [(name, origin) for name, (_, origin) in zip(now, before, strict=True)]
    if len(now) > len(before):
        return [*before, *((name, "") for name in now[len(before) :])]
    return [(name, origin) for name, origin in before if name in now]
