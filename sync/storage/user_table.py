"""Reads and writes rows of a user's table, each named by its rowid or by its encoded primary key.

A row that a constraint of its table refuses is parked, on every replica alike. The same statement may run an index trigger
of the user's, which keeps a full-text or R-tree index on this connection alone. Its errors say nothing of the row, so they
are raised as `IndexTriggerError`, never taken for a constraint error.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apsw

from mycomesh.sync import codec
from mycomesh.sync.errors import IndexTriggerError
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import bind_value, is_raw, placeholder, raw_select, restore
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, TableSpec
from mycomesh.sync.storage.store import Store

__all__ = ["UserTable"]

_BARE = "constraint failed"  # an index says no more; the constraints of a table say which they are, and of which column
# Errors of the file, its disk or its other users, which say nothing of a trigger.
_OF_THE_FILE = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.NoMemError,
)


class UserTable:
    """The rows of one user's table. Values are those of its stored columns, by folded canonical name."""

    def __init__(self, store: Store, table_id: int, spec: TableSpec, indexes: Mapping[int, Sequence[str]]) -> None:
        """Take the names of the indexes that this connection's triggers keep, by table id; they may change later."""
        self._store = store
        self._table_id = table_id
        self._spec = spec
        self._indexes = indexes
        self._names = tuple(column.folded for column in spec.columns)
        self._counted = ((-1, -1), 0)  # (data version, own changes), rows at that moment
        self._update_sql = functools.lru_cache(maxsize=256)(self._update_sql_of)
        self.select_list = ", ".join(f"t.{quoted(column.name)}" for column in spec.columns)
        self.raw_list = ", ".join(raw_select(f"t.{quoted(column.name)}") for column in spec.columns)

    # ---- reading

    def condition(self, row: Row) -> tuple[str, tuple[Any, ...]] | None:
        """Return (SQL condition on `t`, parameters) that finds a row; None for a name that no row of the table has."""
        if isinstance(row, int):
            return self._rowid_condition, (row,)
        if row[:1] == b"\x00" or self._spec.kind is not KeyKind.KEYED:
            return None
        values = codec.decode(row, bytes_max=len(row))
        if not any(map(is_raw, values)):
            return self._key_condition, tuple(values)
        terms = [f"{column.keyed} = {placeholder(value)}" for column, value in zip(self._spec.key, values, strict=True)]
        return " AND ".join(terms), tuple(map(bind_value, values))

    @functools.cached_property
    def _key_condition(self) -> str:
        return " AND ".join(f"{column.keyed} = ?" for column in self._spec.key)

    @functools.cached_property
    def _rowid_condition(self) -> str:
        """SQL that finds a row by its rowid; a keyed table names only its rows with a NULL in the key so."""
        found = f"t.{quoted(self._spec.rowid)} = ?"
        if self._spec.kind is not KeyKind.KEYED:
            return found
        return f"{found} AND ({' OR '.join(f't.{quoted(column.name)} IS NULL' for column in self._spec.key)})"

    def read(self, row: Row) -> dict[str, Any] | None:
        """Return the values of a row, None if it is not in the table."""
        found = self.condition(row)
        if found is None:
            return None
        source = f"FROM {quoted(self._spec.name)} t WHERE {found[0]}"
        try:
            values = self._store.db.execute(f"SELECT {self.select_list} {source}", found[1]).fetchone()
        except UnicodeDecodeError:
            values = restore(self._store.db.execute(f"SELECT {self.raw_list} {source}", found[1]).fetchone())
        return None if values is None else dict(zip(self._names, values, strict=True))

    def read_many(self, rows: Sequence[Row]) -> dict[Row, dict[str, Any] | None]:
        """Return many rows at once, as `read` does for one."""
        if self._spec.kind is KeyKind.KEYED:
            return {row: self.read(row) for row in rows}
        found: dict[Row, dict[str, Any] | None] = dict.fromkeys(rows)
        rowid = quoted(self._spec.rowid)
        listing = f"SELECT t.{rowid}, {self.select_list} FROM {quoted(self._spec.name)} t WHERE t.{rowid} = ?"
        try:
            for record in self._store.db.executemany(listing, [(row,) for row in rows if isinstance(row, int)]):
                found[record[0]] = dict(zip(self._names, record[1:], strict=True))
        except UnicodeDecodeError:
            return {row: self.read(row) for row in rows}
        return found

    def cells_between(self, first: int, last: int, names: Sequence[str]) -> dict[Row, list[Any]]:
        """Return the cells of these columns, by rowid, of the rows `first` to `last`; None for a column that is not here."""
        here = {column.folded: f"t.{quoted(column.name)}" for column in self._spec.columns}
        rowid = f"t.{quoted(self._spec.rowid)}"
        columns = ", ".join([rowid, *(here.get(name, "NULL") for name in names)])
        listing = f"SELECT {columns} FROM {quoted(self._spec.name)} t WHERE {rowid} BETWEEN ? AND ? ORDER BY {rowid}"
        try:
            return {row: cells for row, *cells in self._store.db.execute(listing, (first, last))}
        except UnicodeDecodeError:
            found = self.read_many(range(first, last + 1))
            return {row: [*map(cells.get, names)] for row, cells in found.items() if cells is not None}

    def count(self) -> int:
        """Return how many rows the table has; it counts again only after a write of some connection."""
        moment = (self._store.data_version(), self._store.db.total_changes())
        if self._counted[0] != moment:
            try:
                found = self._store.db.execute(f"SELECT count(*) FROM {quoted(self._spec.name)}").fetchone()
            except apsw.SQLError:  # dropped a moment ago: the next drain sees that
                found = (0,)
            self._counted = (moment, int(found[0]))
        return self._counted[1]

    # ---- writing

    def insert(self, values: dict[str, Any], *, conflict: str = "ABORT") -> int:
        """Insert a row with these columns; return its rowid (0 without one). Constraint errors pass through.

        `conflict` is SQLite's reaction to them, in place of the ON CONFLICT clauses of the table's own constraints.
        """
        self._check_text(values)
        columns = [column for column in self._spec.columns if column.folded in values]
        names = ", ".join(quoted(column.name) for column in columns)
        placeholders = ", ".join(placeholder(values[column.folded]) for column in columns)
        body = f"({names}) VALUES({placeholders})" if columns else "DEFAULT VALUES"
        self.execute(
            f"INSERT OR {conflict} INTO {quoted(self._spec.name)}{body}",
            tuple(bind_value(values[column.folded]) for column in columns),
        )
        return self._store.db.last_insert_rowid() if self._spec.rowid else 0

    def update(self, row: Row, values: dict[str, Any]) -> None:
        """Set columns of one row; constraint errors pass through."""
        found = self.condition(row)
        if found is None or not values:
            return
        self._check_text(values)
        update = self._update_sql(tuple(values), tuple(map(placeholder, values.values())))
        self.execute(f"{update} WHERE {found[0]}", (*map(bind_value, values.values()), *found[1]))

    def _update_sql_of(self, names: tuple[str, ...], placeholders: tuple[str, ...]) -> str:
        by_name = {column.folded: quoted(column.name) for column in self._spec.columns}
        settings = ", ".join(f"{by_name[name]} = {bind}" for name, bind in zip(names, placeholders, strict=True))
        return f"UPDATE OR ABORT {quoted(self._spec.name)} AS t SET {settings}"

    def _check_text(self, values: Mapping[str, Any]) -> None:
        if not self._store.utf8 and any(map(is_raw, values.values())):
            raise apsw.ConstraintError("text that is not UTF-8 has no place in a file whose text is UTF-16")

    def delete(self, row: Row) -> None:
        """Delete one row if it is there."""
        found = self.condition(row)
        if found is not None:
            self.execute(f"DELETE FROM {quoted(self._spec.name)} AS t WHERE {found[0]}", found[1])

    def execute(self, sql: str, values: Sequence[Any]) -> None:
        """Run one statement that writes the table; raise `IndexTriggerError` for the failure of an index trigger."""
        try:
            self._store.db.execute(sql, values)
        except apsw.Error as error:
            self.raise_index_error(error)
            raise

    def execute_many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run one statement for many rows, as `execute` does for one."""
        try:
            self._store.db.executemany(sql, values)
        except apsw.Error as error:
            self.raise_index_error(error)
            raise

    def raise_index_error(self, error: apsw.Error) -> None:
        """Raise `IndexTriggerError` for an error that an index trigger caused: FTS and R-tree have constraints too."""
        if isinstance(error, _OF_THE_FILE):
            return
        indexes = self._indexes.get(self._table_id, ())
        text = str(error)
        of_the_row = isinstance(error, apsw.ConstraintError) and not any(f": {name}." in text for name in indexes)
        if text == _BARE or (indexes and not of_the_row):
            raise IndexTriggerError(f"{self._spec.name}: {text}", self._spec.folded if indexes else "") from error
