"""Tries a view or a trigger of another node in a scratch database before it enters the user's file.

A view or a trigger that SQLite cannot read makes every table of the file unreadable, and a trigger that cannot be compiled makes
each write of its table fail. So a text is one CREATE statement that SQLite accepts beside the tables and views of this file, and
what uses it compiles as before. It calls only functions without side effects, and reads and writes only tables of the user.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import apsw

from mycomesh.sync.sqlite.create_table import mentions
from mycomesh.sync.sqlite.definitions import accept_collations, authorize_create, execute_one, limit_scratch
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.raw_text import raw_select, restore
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.tokens import readable_sql

__all__ = ["TRIGGER", "VIEW", "VIEWS_NAMED_MAX", "Tried", "trial"]

VIEW = "view"
TRIGGER = "trigger"
# Views that one view names, those that they name included: compiling 256 takes 30 ms, and each doubling four times as long.
VIEWS_NAMED_MAX = 256
_CREATE = {VIEW: apsw.SQLITE_CREATE_VIEW, TRIGGER: apsw.SQLITE_CREATE_TRIGGER}
_SAVEPOINT = "mycomesh_trial"
_WRITES = (apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE)
_HARMLESS = (*_WRITES, apsw.SQLITE_FUNCTION, apsw.SQLITE_READ, apsw.SQLITE_RECURSIVE, apsw.SQLITE_SELECT)
_INNOCUOUS = 0x200000  # SQLite's flag for a function that a schema from a stranger may call
_SEARCH = frozenset(
    ("bm25", "highlight", "match", "matchinfo", "offsets", "snippet")
)  # of full-text indexes, without the flag
_COMPUTED = frozenset(("json_each", "json_tree"))  # tables of SQLite itself that are functions


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of a trial: why a text is refused, "" if it is not; the table or view of a trigger, and the tables it writes."""

    refused: str = ""
    owner: str = ""
    writes: frozenset[str] = frozenset()


class _Trial:
    """A scratch database with the tables and views of a file, and without rows and triggers."""

    def __init__(self, db: Any, functions: Collection[str] = ()) -> None:
        """Copy the schema of a file, whose programs have these functions too."""
        self._db = apsw.Connection(":memory:")
        accept_collations(self._db)
        self._db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
        listing = (
            f"SELECT {raw_select('sql')} FROM sqlite_schema WHERE type IN ('table', 'view') AND sql IS NOT NULL"
            f" AND name NOT GLOB 'sqlite_*' AND name NOT GLOB '{INTERNAL_PREFIX}*'"
            " ORDER BY type <> 'table', sql NOT LIKE 'CREATE VIRTUAL%', rowid"
        )
        for cells in db.execute(listing).fetchall():
            sql = readable_sql(*restore(cells))
            with contextlib.suppress(
                *REFUSALS
            ):  # a shadow table that its virtual table has created, or a missing module
                self._db.execute(sql or "").fetchall()
        for name in functions:
            self._db.create_scalar_function(name, lambda *_values: None)
        known = self._db.execute("SELECT name, flags & ? FROM pragma_function_list", (_INNOCUOUS,)).fetchall()
        self._functions = {name for name, innocuous in known if innocuous} | _SEARCH | set(map(fold, functions))
        limit_scratch(self._db)

    def close(self) -> None:
        """Close the scratch database."""
        self._db.close()

    def add(self, kind: str, name: str, sql: str) -> Tried:
        """Try a text; if it passes, it stays for those that follow."""
        self._db.execute(f"SAVEPOINT {_SAVEPOINT}")
        tried = Tried("it cannot be read")
        try:
            tried = self._try(kind, name, sql)
        except REFUSALS as error:
            tried = Tried(str(error))
        finally:
            if tried.refused or kind == TRIGGER:
                self._db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            self._db.execute(f"RELEASE {_SAVEPOINT}")
        return tried

    def remove(self, kind: str, name: str) -> None:
        """Remove a view, for another of that name to be tried."""
        if kind == VIEW:
            with contextlib.suppress(apsw.Error):
                self._db.execute(f"DROP VIEW {quoted(name)}")

    def _try(self, kind: str, name: str, sql: str) -> Tried:
        execute_one(self._db, sql, authorize_create(_CREATE[kind]))
        listing = "SELECT name, tbl_name FROM sqlite_schema WHERE type = ? ORDER BY rowid DESC LIMIT 1"
        made, owner = self._db.execute(listing, (kind,)).fetchone() or ("", "")
        if fold(made) != name or name.startswith((INTERNAL_PREFIX, "sqlite_")):
            return Tried(f"it has another name than its fact, or a reserved one: {made}")
        if kind == VIEW:
            if self._views_named(name) > VIEWS_NAMED_MAX:
                return Tried(f"it reads more than {VIEWS_NAMED_MAX} views, with those that they read")
            beyond, _ = self._effects([f"SELECT * FROM {quoted(made)}"], None)
            return Tried(beyond)
        statements = self._statements(owner)
        beyond, writes = self._effects(statements, made)
        return Tried(beyond, owner, writes)

    def _views_named(self, name: str) -> int:
        """Return how often the views of the database are read for one of them."""
        listing = "SELECT name, sql FROM sqlite_schema WHERE type = 'view' ORDER BY name"
        texts = {fold(str(view)): str(sql) for view, sql in self._db.execute(listing).fetchall()}
        named = {
            view: [other for other in texts if other != view and mentions(sql, other)] for view, sql in texts.items()
        }
        total, due = 0, [name]
        while due and total <= VIEWS_NAMED_MAX:
            view = due.pop()
            total += 1
            due += [other for other in named[view] for _ in range(fold(texts[view]).count(other))]
        return total

    def _statements(self, owner: str) -> list[str]:
        """Return the writes of a table or view that could fire a trigger."""
        target = quoted(owner)
        names = column_names(self._db, owner) or [
            name for (name,) in self._db.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (owner,))
        ]
        settings = ", ".join(f"{quoted(name)} = {quoted(name)}" for name in names)
        return [f"INSERT INTO {target} DEFAULT VALUES", f"UPDATE {target} SET {settings}", f"DELETE FROM {target}"]

    def _effects(self, statements: list[str], trigger: str | None) -> tuple[str, frozenset[str]]:
        """Compile statements; return what the view or trigger does beyond what it may, and the tables that it writes."""
        beyond: list[str] = []
        writes: set[str] = set()
        own = {fold(name) for (name,) in self._db.execute("SELECT name FROM sqlite_schema ORDER BY name")} | _COMPUTED

        def authorize(
            operation: int, first: str | None, second: str | None, _schema: str | None, inner: str | None
        ) -> int:
            if trigger is not None and inner is None:
                return apsw.SQLITE_OK  # the statement itself
            if operation == apsw.SQLITE_FUNCTION and fold(second or "") not in self._functions:
                beyond.append(f"it calls {second}()")
            elif operation not in _HARMLESS:
                beyond.append("it does more than read and write tables")
            elif operation in (*_WRITES, apsw.SQLITE_READ) and first and fold(first) not in own:
                beyond.append(f"it uses {first}, which is no table of the user")
            elif operation in _WRITES:
                writes.add(fold(first or ""))
            return apsw.SQLITE_OK

        failed: dict[str, apsw.Error] = {}
        self._db.authorizer = authorize
        try:
            for statement in statements:
                try:
                    self._db.execute(f"EXPLAIN {statement}", can_cache=False).close()
                except apsw.Error as error:
                    if trigger is None:
                        raise
                    failed[statement] = error
        finally:
            self._db.authorizer = None
        for statement, reason in failed.items():
            if self._compiles_without(trigger or "", statement):
                raise reason
        return (beyond[0] if beyond else ""), frozenset(writes)

    def _compiles_without(self, trigger: str, statement: str) -> bool:
        """Return True if a statement compiles without a trigger: a view cannot be written without one for that."""
        self._db.execute(f"DROP TRIGGER IF EXISTS {quoted(trigger)}")
        try:
            self._db.execute(f"EXPLAIN {statement}", can_cache=False).close()
        except apsw.Error:
            return False
        return True


@contextlib.contextmanager
def trial(db: Any, functions: Collection[str] = ()) -> Iterator[_Trial]:
    """Yield a trial of a file's schema."""
    tried = _Trial(db, functions)
    try:
        yield tried
    finally:
        tried.close()
