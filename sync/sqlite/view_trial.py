"""Tries a view or a trigger of another node in a scratch database before it enters the user's file.

A view or a trigger that SQLite cannot read makes every table of the file unreadable, and a trigger that cannot be compiled makes
each write of its table fail. So a text is one CREATE statement that SQLite accepts beside the tables and views of this file, and
what uses it compiles as before. It calls only functions without side effects, and reads and writes only tables of the user.

A trigger runs inside the writes of programs, so it is run too, beside made-up rows: one that never ends, makes large values, or
takes steps by the square of the rows of a table is refused (ADR 73).
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

__all__ = ["RUN_STEPS_MAX", "RUN_VALUE_BYTES_MAX", "TRIGGER", "VIEW", "VIEWS_NAMED_MAX", "Tried", "trial"]

VIEW = "view"
TRIGGER = "trigger"
# Views that one view names, those that they name included: compiling 256 takes 30 ms, and each doubling four times as long.
VIEWS_NAMED_MAX = 256
# Steps of SQLite for one write that fires a trigger, beside `_ROWS` rows in each table that it uses: some passes over a table
# fit, a join of two without a condition does not. Counted, since a replay must not depend on a clock.
RUN_STEPS_MAX = 200_000
RUN_VALUE_BYTES_MAX = 4_096
_ROWS = 256
_TOO_MUCH = (apsw.InterruptError, apsw.NoMemError, apsw.TooBigError)
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
        self.is_spent = False  # some text was so costly that others should wait for the next pass

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
            if self._db.in_transaction:  # RAISE(ROLLBACK) and an interrupt end it
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
            beyond, _, _ = self._effects([f"SELECT * FROM {quoted(made)}"], None)
            return Tried(beyond)
        beyond, writes, used = self._effects(self._statements(owner), made)
        return Tried(beyond or self._cost(owner, used), owner, writes)

    def _cost(self, owner: str, used: Collection[str]) -> str:
        """Return why the triggers of a table are too costly for its writes, "" if they are not. They may fail otherwise."""
        self._db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        self._db.execute("PRAGMA ignore_check_constraints = 1").fetchall()
        for table in sorted({*used, fold(owner)}):
            with contextlib.suppress(*REFUSALS):
                self._db.execute(self._rows_of(table, _ROWS), can_cache=False).fetchall()
        self._db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
        before = self._db.limit(apsw.SQLITE_LIMIT_LENGTH, RUN_VALUE_BYTES_MAX)
        self._db.set_progress_handler(lambda: True, RUN_STEPS_MAX)
        target, names = quoted(owner), self._columns(owner)
        one = f"WHERE {quoted(names[0])} = 1" if names else ""
        settings = ", ".join(f"{quoted(name)} = {quoted(name)}" for name in names)
        try:
            for statement in (
                self._rows_of(fold(owner), 1, start=_ROWS + 1),
                f"UPDATE {target} SET {settings} {one}",
                f"DELETE FROM {target} {one}",
            ):
                with contextlib.suppress(*set(REFUSALS).difference(_TOO_MUCH)):
                    self._db.execute(statement, can_cache=False).fetchall()
        except _TOO_MUCH as error:
            self.is_spent = True
            return f"it is too costly for each write of {owner} ({error})"
        finally:
            limit_scratch(self._db)
            self._db.limit(apsw.SQLITE_LIMIT_LENGTH, before)
        return ""

    def _rows_of(self, table: str, count: int, start: int = 1) -> str:
        """Return an INSERT of made-up rows, which differ in every column."""
        listing = "SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid"
        columns = self._db.execute(listing, (table,)).fetchall()
        names = ", ".join(quoted(str(name)) for name, _ in columns)
        cells = ", ".join("CAST(i AS BLOB)" if fold(str(kind)) == "blob" else "i" for _, kind in columns)
        numbers = f"WITH RECURSIVE n(i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM n LIMIT {count})"
        return f"{numbers} INSERT OR IGNORE INTO {quoted(table)}({names}) SELECT {cells} FROM n"

    def _columns(self, owner: str) -> list[str]:
        """Return the columns of a table or view."""
        return column_names(self._db, owner) or [
            str(name) for (name,) in self._db.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (owner,))
        ]

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
        settings = ", ".join(f"{quoted(name)} = {quoted(name)}" for name in self._columns(owner))
        return [f"INSERT INTO {target} DEFAULT VALUES", f"UPDATE {target} SET {settings}", f"DELETE FROM {target}"]

    def _effects(self, statements: list[str], trigger: str | None) -> tuple[str, frozenset[str], frozenset[str]]:
        """Compile statements; return what a view or trigger does beyond what it may, the tables it writes, and those it uses."""
        beyond: list[str] = []
        writes: set[str] = set()
        used: set[str] = set()
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
            elif operation in (*_WRITES, apsw.SQLITE_READ):
                (used if operation == apsw.SQLITE_READ else writes).add(fold(first or ""))
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
        return (beyond[0] if beyond else ""), frozenset(writes), frozenset(used | writes)

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
