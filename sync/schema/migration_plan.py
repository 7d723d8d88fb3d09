"""Plans a migration: finds out what a script of SQL does to the tables of a file, without touching the file.

The script runs on an empty copy of the schema, one statement after the other. A marker trigger on each table shows where the
table goes: RENAME takes the trigger along, DROP drops it. The columns after each statement show which one was dropped and which
one renamed.

Invariant: the plan depends on the schema and the script alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import apsw

from mycomesh.sync.errors import MigrationError
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, SHARED, fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.raw_text import lenient_text, raw_select, restore
from mycomesh.sync.sqlite.table_spec import user_tables
from mycomesh.sync.sqlite.tokens import readable_sql

__all__ = ["Alteration", "Plan", "run"]

_MARKER = f"{INTERNAL_PREFIX}mark_"
# No legacy_alter_table: RENAME must rewrite the triggers.
_PRAGMAS = {
    "foreign_keys", "foreign_key_check", "foreign_key_list", "defer_foreign_keys", "user_version",
    "application_id", "integrity_check", "quick_check", "table_info", "table_xinfo", "index_list", "index_info",
    "data_version",  # FTS5 reads it before it writes
}  # fmt: skip
_FORBIDDEN = {apsw.SQLITE_ATTACH: "ATTACH", apsw.SQLITE_DETACH: "DETACH", apsw.SQLITE_TRANSACTION: "ROLLBACK"}
_BLANK = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_WRITES = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)


@dataclass(slots=True)
class Alteration:
    """The outcome for one table that existed before. Columns are known by their folded names from before.

    name: its name at the end, "" if it is dropped.
    columns: the names of its columns at the end, "" for a dropped one.
    rebuilt: the table was dropped, and another was created under its name.
    written: statements write rows of it.
    uncomputed: generated columns that are dropped; they may be added again with another text.
    """

    name: str
    columns: dict[str, str]
    rebuilt: bool = False
    written: bool = False
    uncomputed: frozenset[str] = frozenset()

    @property
    def dropped(self) -> frozenset[str]:
        """The folded names of the dropped columns."""
        return frozenset(column for column, name in self.columns.items() if not name)


@dataclass(slots=True)
class Plan:
    """The effect of a script: alterations by the folded table names from before, created tables, and dropped indexes.

    consequences: lines on what follows from that, which only decisions of the mesh tell.
    """

    tables: dict[str, Alteration] = field(default_factory=dict)
    created: tuple[str, ...] = ()
    indexes_dropped: tuple[str, ...] = ()
    consequences: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, db: Any, script: str) -> Plan:
        """Return the effect of a script on the schema of a database, which is only read.

        Raises:
            MigrationError: a statement that SQLite refuses, or that a migration may not have, with its line.
        """
        trial: Any = apsw.Connection(":memory:")
        try:
            _copy_schema(db, trial)
            return _Follower(trial).follow(script)
        finally:
            trial.close()

    def lines(self) -> list[str]:
        """Return one line for each change, all of which other nodes make too, as far as the line says."""
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
                lines.append(f"rebuilds {after.name}")
        return lines + [f"drops index {name}" for name in self.indexes_dropped] + self.consequences


def run(db: Any, script: str, seen: Callable[[str | None], None] | None = None) -> None:
    """Run a script's statements in the caller's transaction.

    BEGIN and COMMIT do nothing, because a migration is one transaction. `seen` is called with each table that a statement
    writes, and with None after the statement.

    Raises:
        MigrationError: as for `Plan.of`, or rows that a constraint refuses; the caller rolls the transaction back.
    """
    refused = ""

    def authorize(
        operation: int, first: str | None, _second: str | None, schema: str | None, _trigger: str | None
    ) -> int:
        nonlocal refused
        if operation == apsw.SQLITE_TRANSACTION and first != "ROLLBACK":
            return apsw.SQLITE_IGNORE
        if operation in _FORBIDDEN:
            refused = f"{_FORBIDDEN[operation]} is not allowed in a migration, which is one transaction in one file"
        elif operation == apsw.SQLITE_PRAGMA and fold(first or "") not in _PRAGMAS:
            refused = f"PRAGMA {first} is not allowed in a migration"
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
    """Yield (line number, text) of each statement."""
    start = 0
    for end in (*(found.end() for found in re.finditer(";", script)), len(script)):
        text = script[start:end]
        if end < len(script) and not apsw.complete(text):
            continue  # the semicolon is in a string, a comment or the body of a trigger
        begin = start + len(_BLANK.match(text)[0])  # type: ignore[index]
        if begin < end:
            yield script.count("\n", 0, begin) + 1, text
        start = end


def _copy_schema(db: Any, trial: Any) -> None:
    """Copy the tables, indexes, views and triggers of the user into another database, without rows."""
    trial.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    listing = (
        f"SELECT {raw_select('sql')} FROM sqlite_schema WHERE sql IS NOT NULL"
        " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        f" AND (name NOT LIKE 'mycomesh\\_%' ESCAPE '\\' OR name IN {tuple(sorted(SHARED))})"
        " ORDER BY type <> 'table', sql NOT LIKE 'CREATE VIRTUAL%', rowid"
    )
    for cells in db.execute(listing).fetchall():
        sql = readable_sql(*restore(cells))
        if sql is None:
            continue
        try:
            trial.execute(sql).fetchall()
        except apsw.Error:  # a shadow table that its virtual table has created, or a module that is missing here
            continue


class _Follower:
    """Follows the tables of a database through a script."""

    def __init__(self, db: Any) -> None:
        self._db = db
        names = user_tables(db)[0]
        self._before = {fold(name): column_names(self._db, name) for name in names}
        self._markers = {f"{_MARKER}{number}": name for number, name in enumerate(self._before)}
        # By the folded table name from before: the current columns in order, each with its folded name from before, "" if new.
        self._now = {name: [(column, fold(column)) for column in columns] for name, columns in self._before.items()}
        self._computed = {before: _computed(db, name) for before, name in zip(self._before, names, strict=True)}
        self._uncomputed: dict[str, frozenset[str]] = {}
        self._written: dict[str, None] = {}
        self._pending: list[str] = []
        self._indexes = self._index_names()
        # With the name as it is written in the schema, which `_current_names` then returns.
        for marker, name in zip(self._markers, names, strict=True):
            db.execute(f"CREATE TRIGGER {marker} AFTER DELETE ON {quoted(name)} WHEN 0 BEGIN SELECT 1; END")

    def follow(self, script: str) -> Plan:
        """Run a script and return its plan."""
        run(self._db, script, self._on_statement)
        return Plan(self._alterations(), self._created(), self._dropped_indexes())

    def _on_statement(self, written: str | None) -> None:
        """Note a table that a statement writes; after the statement (None), look at the schema."""
        if written is not None:
            self._pending.append(fold(written))
            return
        here = self._current_names()
        by_name = {fold(name): before for before, name in here.items()}
        self._written.update(dict.fromkeys(by_name.get(name, name) for name in self._pending))
        self._pending.clear()
        for before, name in here.items():
            self._now[before] = _follow_columns(self._now[before], column_names(self._db, name))
            computed = _computed(self._db, name)
            if not self._computed[before] <= computed:
                gone = self._computed[before] - computed
                self._uncomputed[before] = self._uncomputed.get(before, frozenset()) | gone
            self._computed[before] = computed

    def _current_names(self) -> dict[str, str]:
        """Return the current names of the tables that still exist, by their folded names from before."""
        listing = (
            f"SELECT name, tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE '{_MARKER}%' ORDER BY name"
        )
        found: dict[str, str] = {}
        for marker, name in self._db.execute(listing).fetchall():
            if marker in self._markers:
                found[self._markers[marker]] = name
        return found

    def _alterations(self) -> dict[str, Alteration]:
        here = self._current_names()
        present = {fold(name): name for name in user_tables(self._db)[0]}
        found: dict[str, Alteration] = {}
        for before, columns in self._before.items():
            written = before in self._written
            if before in here:
                ends = {origin: name for name, origin in self._now[before] if origin}
                ended = {fold(name): ends.get(fold(name), "") for name in columns}
                gone = self._uncomputed.get(before, frozenset())
                alteration = Alteration(here[before], ended, False, written, gone)
            elif before in present:  # rebuilt under its name: its columns are matched by name
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
        here = self._current_names()
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


def _follow_columns(before: list[tuple[str, str]], now: list[str]) -> list[tuple[str, str]]:
    """Return the columns after one statement, each with its origin; one statement adds, drops or renames one column."""
    if len(now) == len(before):
        return [(name, origin) for name, (_, origin) in zip(now, before, strict=True)]
    if len(now) > len(before):
        return [*before, *((name, "") for name in now[len(before) :])]
    return [(name, origin) for name, origin in before if name in now]
