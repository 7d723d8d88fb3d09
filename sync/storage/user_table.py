"""Reads and writes rows of a user's table, each named by its rowid or by its encoded primary key.

A row that SQLite refuses is parked: a constraint of its table is not met, or an expression of its table fails for it. The same
statement may run an index trigger of the user's, which keeps a full-text or R-tree index on this connection alone. Its
errors say nothing of the row, so they are raised as `IndexTriggerError` and park nothing.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import apsw

from mycomesh.sync import codec
from mycomesh.sync.errors import IndexTriggerError, StatementError
from mycomesh.sync.sqlite.create_table import mentions
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import bind_value, is_raw, placeholder, raw_select, restore
from mycomesh.sync.sqlite.refusals import FILE_ERRORS, REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, TableSpec, encode_key
from mycomesh.sync.storage.batch_join import join_numbers
from mycomesh.sync.storage.statement_cache import may_stay
from mycomesh.sync.storage.store import Store

__all__ = ["UNREAD", "UserTable", "key_values"]

UNREAD = object()  # in place of a value that is in the table

_BARE = "constraint failed"  # an index says no more; the constraints of a table say which they are, and of which column
# What an expression may make of a value while a row is inserted: three times the largest change. SQLite's own limit is 1 GB, for
# which a small device has no room; and where it has none, SQLite may roll the whole transaction back.
INSERTED_BYTES_MAX = 64 << 20
_SAVEPOINT = "mycomesh_blame"


def key_values(rows: Sequence[Row]) -> list[list[Any]]:
    """Return the key values in the names of rows of a keyed table, none of which is named by its rowid."""
    encoded = codec.array_head(len(rows)) + b"".join(rows)  # type: ignore[arg-type]
    found: list[list[Any]] = codec.decode(encoded, bytes_max=len(encoded), own=True)
    return found


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
        # A virtual column is computed only where it is read. Without this, a row for which its expression fails would enter the
        # table, and the application's SELECT would fail.
        computed = ", ".join(f"typeof({quoted(name)})" for name in spec.generated)
        # Instead of the table's own ON CONFLICT clauses. Without them it would only override those in index triggers, such as
        # the INSERT OR REPLACE with which GeoPackages update their R-trees.
        self.or_abort = " OR ABORT" if mentions(spec.sql, "conflict") else ""
        self._computing = f" RETURNING {computed}" if computed else ""
        self._insert_sql = functools.lru_cache(maxsize=64)(self._insert_sql_of)
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

    def read(self, row: Row, *, unread: Collection[str] = ()) -> dict[str, Any] | None:
        """Return the values of a row, `UNREAD` for some of its columns; None if it is not in the table."""
        found = self.condition(row)
        if found is None:
            return None
        listed, raw = self.select_list, self.raw_list
        if unread:
            cells = ["NULL" if column.folded in unread else f"t.{quoted(column.name)}" for column in self._spec.columns]
            listed, raw = ", ".join(cells), ", ".join(map(raw_select, cells))
        source = f"FROM {quoted(self._spec.name)} t WHERE {found[0]}"
        try:
            values = self._store.db.execute(f"SELECT {listed} {source}", found[1]).fetchone()
        except UnicodeDecodeError:
            values = restore(self._store.db.execute(f"SELECT {raw} {source}", found[1]).fetchone())
        if values is None:
            return None
        return dict(zip(self._names, values, strict=True)) | dict.fromkeys(unread, UNREAD)

    def read_many(self, rows: Sequence[Row], bytes_max: int | None = None) -> dict[Row, dict[str, Any] | None]:
        """Return many rows at once, as `read` does for one; with `bytes_max` only the first of them, which take about so much."""
        found: dict[Row, dict[str, Any] | None] = {}
        size = 0
        for row, values in self._read_each(rows):
            found[row] = values
            size += 0 if bytes_max is None or values is None else sum(map(sys.getsizeof, values.values()))
            if bytes_max is not None and size > bytes_max:
                break
        return found

    def _read_each(self, rows: Sequence[Row]) -> Iterator[tuple[Row, dict[str, Any] | None]]:
        if self._spec.kind is KeyKind.KEYED:
            yield from ((row, self.read(row)) for row in rows)
            return
        at = 0
        try:
            for record in self.records(rows):
                while rows[at] != record[0]:  # it is not there
                    yield rows[at], None
                    at += 1
                at += 1
                yield record[0], dict(zip(self._names, record[1:], strict=True))
        except UnicodeDecodeError:
            yield from ((row, self.read(row)) for row in rows[at:])
            return
        yield from ((row, None) for row in rows[at:])

    def records(self, rows: Sequence[Row]) -> Any:
        """Return the cursor of (row, values of all columns) of rows, in their order; rows that are not there are left out.

        Of a keyed table the names have no NULL and no text that is not UTF-8 (`key_values`).

        Raises:
            UnicodeDecodeError: while it is read: some text is not UTF-8.
        """
        name = quoted(self._spec.name)
        if self._spec.kind is KeyKind.KEYED:
            listing = f"SELECT ?, {self.select_list} FROM {name} t WHERE {self._key_condition}"
            keys = key_values(rows)
            return self._store.db.executemany(listing, [(row, *key) for row, key in zip(rows, keys, strict=True)])
        rowid = quoted(self._spec.rowid)
        numbers = [row for row in rows if isinstance(row, int)]
        return join_numbers(self._store.db, f"t.{rowid}, {self.select_list}", name, rowid, numbers)

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

    def insert(self, values: dict[str, Any], *, rowid: int | None = None, replacing: bool = False) -> int:
        """Insert a row with these columns; return its rowid (0 without one). `REFUSALS` pass through.

        `rowid` is for a row that had one before: no column of `values` may be the rowid then. With `replacing`, the row removes
        those with which it collides; the ON CONFLICT clauses of the table have no effect.
        """
        self._check_text(values)
        names = tuple([name for name in self._names if name in values])
        insert = self._insert_sql(
            names, tuple([placeholder(values[name]) for name in names]), replacing, rowid is not None
        )
        # The own values of a large row may be more than the limit, which is for what expressions make of a row.
        own = sum(len(value) for value in values.values() if isinstance(value, str | bytes))
        self.execute(
            insert,
            tuple([bind_value(values[name]) for name in names] + ([] if rowid is None else [rowid])),
            bytes_max=INSERTED_BYTES_MAX if own < INSERTED_BYTES_MAX // 2 else 0,
        )
        inserted = self._store.db.last_insert_rowid() if self._spec.rowid else 0
        if self._store.on_write is not None:
            key = tuple(values.get(column.folded) for column in self._spec.key)
            keyed = self._spec.kind is KeyKind.KEYED and not (self._spec.nullable_key and None in key)
            self._on_write([encode_key(self._spec, key) if keyed else inserted])
        return inserted

    def update(self, row: Row, values: dict[str, Any]) -> None:
        """Set columns of one row; `REFUSALS` pass through."""
        found = self.condition(row)
        if found is None or not values:
            return
        self._check_text(values)
        update = self._update_sql(tuple(values), tuple(map(placeholder, values.values())))
        self.execute(f"{update} WHERE {found[0]}{self._computing}", (*map(bind_value, values.values()), *found[1]))
        self._on_write([row])

    def _insert_sql_of(
        self, names: tuple[str, ...], placeholders: tuple[str, ...], replacing: bool, numbered: bool
    ) -> str:
        by_name = {column.folded: quoted(column.name) for column in self._spec.columns}
        columns = [by_name[name] for name in names]
        if numbered:
            columns, placeholders = [*columns, quoted(self._spec.rowid)], (*placeholders, "?")
        body = f"({', '.join(columns)}) VALUES({', '.join(placeholders)})" if columns else "DEFAULT VALUES"
        conflict = " OR REPLACE" if replacing else self.or_abort
        return f"INSERT{conflict} INTO {quoted(self._spec.name)}{body}{self._computing}"

    def _update_sql_of(self, names: tuple[str, ...], placeholders: tuple[str, ...]) -> str:
        by_name = {column.folded: quoted(column.name) for column in self._spec.columns}
        settings = ", ".join(f"{by_name[name]} = {bind}" for name, bind in zip(names, placeholders, strict=True))
        return f"UPDATE{self.or_abort} {quoted(self._spec.name)} AS t SET {settings}"

    def _check_text(self, values: Mapping[str, Any]) -> None:
        if not self._store.utf8 and any(map(is_raw, values.values())):
            raise apsw.ConstraintError("text that is not UTF-8 cannot be stored in a file whose encoding is UTF-16")

    def delete(self, row: Row) -> None:
        """Delete one row if it is there."""
        found = self.condition(row)
        if found is not None:
            self._on_write([row], deleted=True)
            self.execute(f"DELETE FROM {quoted(self._spec.name)} AS t WHERE {found[0]}", found[1])

    def _on_write(self, rows: Iterable[Row], *, deleted: bool = False) -> None:
        on_write = self._store.on_write
        if on_write is not None:
            for row in rows:
                on_write(self._table_id, row, deleted)

    def execute(self, sql: str, values: Sequence[Any], *, bytes_max: int = 0) -> None:
        """Run one statement that writes the table, with values of at most `bytes_max` bytes (0 for SQLite's own limit).

        Raises:
            IndexTriggerError: an index trigger failed.
            StatementError: SQLite has rolled the whole transaction back, as it does where memory is short.
            apsw.Error: the statement itself was refused; nothing of it was done.
        """
        try:
            with self._limited(bytes_max):
                self._store.db.execute(sql, values, can_cache=may_stay(values)).fetchall()
        except apsw.Error as error:
            self._check_transaction(error)
            of_a_trigger = not isinstance(error, FILE_ERRORS) and self._is_of_a_trigger(error)
            if of_a_trigger and not self._fails_without_triggers(sql, values):
                self._raise_index_error(error)
            raise

    @property
    def counts_changes(self) -> bool:
        """True if a write of this table changes no rows of others, as no index trigger of this connection follows it."""
        return not self._indexes.get(self._table_id)

    def update_many(self, names: Sequence[str], rows: Sequence[Row], values: Sequence[Sequence[Any]]) -> None:
        """Set these columns of many rows, named as in `records`. Errors are those of `execute_many`."""
        update = self._update_sql(tuple(names), ("?",) * len(names))
        condition, keys = self._many(rows)
        parameters = [(*cells, *key) for cells, key in zip(values, keys, strict=True)]
        self.execute_many(f"{update} WHERE {condition}{self._computing}", parameters)
        self._on_write(rows)

    def delete_many(self, rows: Sequence[Row]) -> None:
        """Delete many rows, named as in `records`. Errors are those of `execute_many`."""
        condition, keys = self._many(rows)
        self._on_write(rows, deleted=True)
        self.execute_many(f"DELETE FROM {quoted(self._spec.name)} AS t WHERE {condition}", keys)

    def _many(self, rows: Sequence[Row]) -> tuple[str, Sequence[Sequence[Any]]]:
        if self._spec.kind is KeyKind.KEYED:
            return self._key_condition, key_values(rows)
        return f"t.{quoted(self._spec.rowid)} = ?", [(row,) for row in rows]

    def insert_each(
        self, names: Sequence[str], values: Sequence[Sequence[Any]], most: int
    ) -> tuple[int, dict[int, apsw.Error]]:
        """Insert rows with these columns, quoted, until SQLite has refused `most` of them.

        Returns how many rows were tried, and the `REFUSALS` by the number of the row. Other errors are those of `execute_many`.
        """
        into = f"INSERT{self.or_abort} INTO {quoted(self._spec.name)}({', '.join(names)})"
        insert = f"{into} VALUES({', '.join('?' * len(names))}){self._computing}"
        # After an error the changes say how many rows were taken, unless index triggers follow them.
        counted, rows, stays = self.counts_changes, iter(values), may_stay(values[-1])
        refused: dict[int, apsw.Error] = {}
        tried, db = 0, self._store.db
        with self._limited(INSERTED_BYTES_MAX):
            while tried < len(values) and len(refused) < most:
                before = db.total_changes()
                try:
                    db.executemany(insert, rows if counted else (next(rows),), can_cache=stays).fetchall()
                except apsw.Error as error:
                    self._check_many(error)
                    tried += db.total_changes() - before if counted else 0
                    refused[tried] = error
                    tried += 1
                else:
                    tried = len(values) if counted else tried + 1
        return tried, refused

    def execute_many(self, sql: str, values: Sequence[Sequence[Any]]) -> None:
        """Run one write for many rows; an index trigger's failure is a refusal here, since a single row shows the cause."""
        try:
            with self._limited(INSERTED_BYTES_MAX):
                self._store.db.executemany(sql, values, can_cache=not values or may_stay(values[-1])).fetchall()
        except apsw.Error as error:
            self._check_many(error)
            raise

    def _check_many(self, error: apsw.Error) -> None:
        self._check_transaction(error)
        if not isinstance(error, REFUSALS):
            self._raise_index_error(error)
            raise error

    @contextlib.contextmanager
    def _limited(self, bytes_max: int) -> Iterator[None]:
        if not bytes_max:
            yield
            return
        before = self._store.db.limit(apsw.SQLITE_LIMIT_LENGTH, bytes_max)
        try:
            yield
        finally:
            self._store.db.limit(apsw.SQLITE_LIMIT_LENGTH, before)

    def _check_transaction(self, error: apsw.Error) -> None:
        if isinstance(error, REFUSALS) and not self._store.db.in_transaction:
            raise StatementError(f"{self._spec.name}: {error}; SQLite has undone the whole transaction") from error

    def _is_of_a_trigger(self, error: apsw.Error) -> bool:
        """Return True if an index trigger may have caused an error: FTS and R-tree have constraints too."""
        text, indexes = str(error), self._indexes.get(self._table_id, ())
        of_the_row = isinstance(error, apsw.ConstraintError) and not any(f": {name}." in text for name in indexes)
        return text == _BARE or (bool(indexes) and not of_the_row)

    def _fails_without_triggers(self, sql: str, values: Sequence[Any]) -> bool:
        """Return True if SQLite refuses a statement also where no index trigger runs: then the row is to blame."""
        db = self._store.db
        listing = "SELECT name FROM temp.sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE"
        db.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            for (name,) in db.execute(listing, (self._spec.name,)).fetchall():
                db.execute(f"DROP TRIGGER temp.{quoted(name)}")
            db.execute(sql, values).fetchall()
        except REFUSALS:
            return True
        finally:
            db.execute(f"ROLLBACK TO {_SAVEPOINT}")
            db.execute(f"RELEASE {_SAVEPOINT}")
        return False

    def _raise_index_error(self, error: apsw.Error) -> None:
        """Raise `IndexTriggerError` in place of an error of an index trigger; errors of the file say nothing of one."""
        if not isinstance(error, FILE_ERRORS) and self._is_of_a_trigger(error):
            table = self._spec.folded if self._indexes.get(self._table_id) else ""
            raise IndexTriggerError(f"{self._spec.name}: {error}", table) from error
