"""A flow's SQL as one statement for each change, with the row in a table of the connection as the columns of `new`.

Each change has a statement of its own, so that a row which fails is known, and results derive from one change. The row
is a common table expression under the table's name, before which the user's SELECT of `on` makes `new`. Its columns have the
affinities and the collations of the table, so that they compare as in the table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw
import apsw.ext

from mycomesh.sync.merge.records import value_of
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.table_spec import affinity
from mycomesh.tools.flows.clock import StatementClock
from mycomesh.tools.flows.keys import dot_of, integer_key, text_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["DERIVED", "SHARED_S_MAX", "FunctionError", "Insertion", "NotReadyError", "SqlFunction"]

SHARED_S_MAX = 1  # that SQL of another member may take in a transaction, while other programs wait
DERIVED = ("_id", "_key", "_node", "_at")  # columns of `new` beside those of the table
_NOT_OF_THE_USER = (INTERNAL_PREFIX, "sqlite_", "pragma_")  # names of tables begin so
_ROWS = "temp.mycomesh_flow_rows"
_WITH = re.compile(r"\s*WITH\s+(RECURSIVE\s+)?", re.IGNORECASE)


class FunctionError(Exception):
    """The function does not fit its tables; the text is one line."""


@dataclass(frozen=True, slots=True)
class Insertion:
    """How the rows of a SELECT become results.

    into: the table.
    made: the columns that the SELECT makes.
    missing: the key, if that is derived.
    again: what becomes of a result whose key is there, in SQL.
    """

    into: str
    made: Sequence[str]
    missing: Sequence[str]
    again: str

    def text(self, select: str) -> str:
        """Return the INSERT for a SELECT that has the derived key behind its columns."""
        columns = ", ".join(map(quoted, [*self.made, *self.missing]))
        return f"INSERT INTO main.{quoted(self.into)}({columns}) {select}{self.again}"


class NotReadyError(FunctionError):
    """The flow waits: its function lacks something, or does not fit."""


class SqlFunction:
    """The SQL of one flow on one connection."""

    depends_on_others = False  # whether `make_ready` looks at tables beside those of the flow

    def __init__(self, db: apsw.Connection, settings: FlowSettings) -> None:
        self._db = db
        self._settings = settings
        self._loaded: tuple[str, ...] | None = None  # columns of the table for rows
        self._statements: dict[tuple[str, ...], str] = {}  # columns of the input -> statement
        self.derive: Any = text_key  # (flow, change, number) -> key
        self.insertion: Insertion | None = None  # of a SELECT
        self._uses_key = True
        self.clock = StatementClock(db)
        db.create_scalar_function("mycomesh_flow_key", self._key, 2, deterministic=True)

    def _key(self, *arguments: Any) -> Any:
        dot, number = arguments
        return self.derive(self._settings.name, dot, number)

    @property
    def seconds(self) -> float:
        """The seconds that a statement may take."""
        timeout_s = self._settings.function.timeout_s
        return min(timeout_s, SHARED_S_MAX) if self._settings.author else timeout_s

    @property
    def note(self) -> str:
        """Return the text that people see beside "running"."""
        return ""

    def forget(self) -> None:
        """Read the shapes of the tables again."""
        self._statements.clear()
        self._loaded = None

    def columns(self) -> tuple[str, ...] | None:
        """Return the columns of the input table, None while it or the table of the results does not exist."""
        found = self._shape(self._settings.table)
        return None if not found or not self._shape(self._settings.into) else tuple(name for name, *_ in found)

    def missing(self) -> str:
        """Say which table does not exist, "" if both do."""
        lacking = [table for table in (self._settings.table, self._settings.into) if not self._shape(table)]
        return f"there is no table {' and no table '.join(lacking)} yet" if lacking else ""

    def statement(self, columns: tuple[str, ...]) -> str:
        """Return the statement for rows with these columns.

        Raises:
            FunctionError: the SQL does not compile, or its results have no key.
        """
        found = self._statements.get(columns)
        if found is None:
            try:
                found = self._statements[columns] = self._compile(columns)
            except apsw.Error as error:
                names = ", ".join(columns)
                raise FunctionError(f"{error}; columns of {self._settings.table} are {names}") from error
        return found

    def close(self) -> None:
        """End what runs for the function, which is nothing."""

    def make_ready(self) -> None:
        """Get what the function needs before rows come, which is nothing; raises `NotReadyError` in functions that need more."""

    def prepare(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Do what is to be done for these changes before the transaction, which is nothing."""

    def run(self, columns: tuple[str, ...], changes: Sequence[Mapping[str, Any]]) -> None:
        """Write the results of changes with these columns; inside a transaction."""
        self._db.executemany(self.statement(columns), self.load(columns, changes))

    def sample(self, change: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Write the results of one change; return them."""
        results = []
        columns = tuple(change["values"])
        (bound,) = self.load(columns, [change])
        cursor = self._db.execute(f"{self.statement(columns)} RETURNING *", bound)
        for row in cursor:
            names = [name for name, _ in cursor.get_description()]
            results.append(dict(zip(names, row, strict=True)))
        return results

    def load(self, columns: tuple[str, ...], changes: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """Put the rows of changes where statements find them; return the values for the statement of each change."""
        self._make_rows(columns)
        values, bound = [], []
        for number, change in enumerate(changes):  # runs for each change
            dot = dot_of(change["id"])
            values.append([_bound(value) if type(value) is dict else value for value in change["values"].values()])
            key = self.derive(self._settings.name, dot, 1) if self._uses_key else None
            bound.append((number, dot, key, change["who"], change["at"]))
        self._db.execute(f"DELETE FROM {_ROWS}")
        places = ", ".join("?" * len(columns))
        self._db.executemany(
            f"INSERT INTO {_ROWS} VALUES(?, {places})", ((number, *row) for number, row in enumerate(values))
        )
        return bound

    def _make_rows(self, columns: tuple[str, ...]) -> None:
        """Make the table for rows, whose columns compare as those of the input do: type affinity and collation."""
        if columns == self._loaded:
            return
        table, shape = self._settings.table, {name: kind for name, kind, _ in self._shape(self._settings.table)}
        listing = "SELECT strict FROM pragma_table_list(?) WHERE schema = 'main'"
        (strict,) = self._db.execute(listing, (table,)).fetchone() or (0,)
        made = []
        for number, name in enumerate(columns):
            kind = affinity(shape.get(name, ""), strict=bool(strict))
            collation = self._db.column_metadata("main", table, name)[1] if name in shape else "BINARY"
            made.append(f"c{number} {kind} COLLATE {quoted(collation)}")
        self._db.execute(f"DROP TABLE IF EXISTS {_ROWS}")
        self._db.execute(f"CREATE TEMP TABLE {_ROWS.removeprefix('temp.')}(row INTEGER PRIMARY KEY, {', '.join(made)})")
        self._loaded = columns

    def _compile(self, columns: tuple[str, ...]) -> str:
        settings = self._settings
        shape = self._shape(settings.into)
        key = [(name, kind) for name, kind, place in shape if place]
        self._choose_key(key)
        self._make_rows(columns)
        sql = self._with_new(columns, settings.function.sql)
        self._uses_key = (
            not settings.inserts
            or "_key" in fold(settings.function.sql + settings.select)
            or "*" in settings.function.sql
        )
        if settings.inserts:
            self._check(sql)
            return sql
        made = [each[0] for each in apsw.ext.query_info(self._db, sql).description]
        known = {fold(name) for name, *_ in shape}
        strange = next((name for name in made if fold(name) not in known), None)
        if strange is not None:
            raise FunctionError(f"{settings.into} has no column {strange!r}, which the SELECT makes; name it with AS")
        missing = [name for name, _ in key if fold(name) not in {fold(each) for each in made}]
        if len(missing) > 1 or (missing and len(key) > 1):
            raise FunctionError(
                f"the SELECT must make the key of {settings.into}, {', '.join(name for name, _ in key)}"
            )
        if not key and settings.where != "here":
            raise FunctionError(f"{settings.into} needs a primary key, since several nodes write its rows")
        derived = (
            ", CASE row_number() OVER () WHEN 1 THEN ?3 ELSE mycomesh_flow_key(?2, row_number() OVER ()) END"
            if missing
            else ""
        )
        again = self._on_repetition(made, [name for name, _ in key], derived=bool(missing))
        self.insertion = Insertion(settings.into, made, missing, again)
        text = self.insertion.text(f"SELECT *{derived} FROM ({sql}) WHERE true")
        self._check(text)
        return text

    def _check(self, text: str) -> None:
        """Compile a statement. That of another member may only read the user's tables, and write that of its results."""
        if not self._settings.author:
            apsw.ext.query_info(self._db, text)
            return
        # SQLite names the CTE or the view that an action is within, and a CTE may have any name. So nothing counts as the
        # owner's because of it, and the owner's triggers are left out, which may do what they like.
        self._db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        try:
            actions = apsw.ext.query_info(self._db, text, actions=True).actions or ()
        finally:
            self._db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
        strange = next((each for each in actions if not self._may(each)), None)
        if strange is not None:
            what = f"{strange.action_name.removeprefix('SQLITE_')} {strange.table_name or strange.function_name or ''}"
            raise FunctionError(
                f"a flow that {self._settings.author} shares may read your tables and write {self._settings.into} alone,"
                f" and this one does {what.rstrip()}"
            )

    def _may(self, action: Any) -> bool:
        """Return whether the statement of another member may do this."""
        name, table = action.action_name.removeprefix("SQLITE_"), fold(action.table_name or "")
        if name in ("INSERT", "UPDATE"):
            return table == fold(self._settings.into)
        if (action.database_name, table) == ("temp", _ROWS.removeprefix("temp.")):  # its own row
            return bool(name == "READ")
        if name == "READ":  # one without a column is of a CTE too
            return not table.startswith(_NOT_OF_THE_USER) and (not action.column_name or self._exists(table))
        return name in ("SELECT", "RECURSIVE") or (
            name == "FUNCTION" and fold(action.function_name) != "load_extension"
        )

    def _exists(self, table: str) -> bool:
        listing = "SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view') AND lower(name) = ?"
        return self._db.execute(listing, (table,)).fetchone() is not None

    def _choose_key(self, key: Sequence[tuple[str, str]]) -> None:
        whole = len(key) == 1 and key[0][1].upper() == "INTEGER"
        self.derive = integer_key if whole else text_key

    @staticmethod
    def _on_repetition(made: Sequence[str], key: Sequence[str], *, derived: bool) -> str:
        """Return what becomes of a result whose key is there: a derived one is the same row, another one is written again."""
        if not key:
            return ""
        own = {fold(name) for name in key}
        rest = [quoted(name) for name in made if fold(name) not in own]
        action = (
            "NOTHING"
            if derived or not rest
            else f"UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in rest)}"
        )
        return f" ON CONFLICT({', '.join(map(quoted, key))}) DO {action}"

    def _with_new(self, columns: tuple[str, ...], sql: str) -> str:
        """Return the SQL behind the definition of `new`."""
        settings = self._settings
        names = ", ".join(quoted(name) for name in (*columns, *DERIVED))
        values = ", ".join([*(f"c{number}" for number in range(len(columns))), "?2", "?3", "?4", "?5"])
        row = f"SELECT {values} FROM {_ROWS} WHERE row = ?1"
        if settings.select:
            tables = f"{quoted(settings.table)}({names}) AS ({row}), new AS ({settings.select})"
        else:
            tables = f"new({names}) AS ({row})"
        found = _WITH.match(sql)
        if found is None:
            return f"WITH {tables} {sql}"
        return f"WITH {found[1] or ''}{tables}, {sql[found.end() :]}"

    def _shape(self, table: str) -> list[tuple[str, str, int]]:
        found: list[Any] = self._db.execute(
            "SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid", (table,)
        ).fetchall()
        return found


def _bound(plain: Any) -> Any:
    value = value_of(plain)
    return value[0] if isinstance(value, list) else value
