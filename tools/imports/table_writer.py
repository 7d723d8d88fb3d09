"""Writes records into ordinary tables as any SQLite client does, in short transactions that leave the lock to others.

A row is there once: the key is the file's fingerprint and the record's number, or columns of the file. An import that was cut off
is repeated and goes on. Invariant (tests/tools/imports/test_table_writer.py): killed at any point and run again, the table
has each record once.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, quoted
from mycomesh.tools.imports.record import BadFileError, Record
from mycomesh.tools.vehicles.rows import Value

__all__ = ["TableWriter"]

HOLD_S = 0.02  # the longest that one transaction collects rows
PAUSE_S = 0.005  # between two transactions, so that a waiting program gets the lock
WAIT_S = 30.0
STEP = 100  # rows between two looks at the clock

LOG, N = "log", "n"

ColumnsOf = Callable[[str], dict[str, str]]


class TableWriter:
    """Writes into one database file; `counts` has (new rows, rows that were there) by table."""

    def __init__(self, file: Path, table: str, log: str, key: tuple[str, ...] = ()) -> None:
        if table.lower().startswith((INTERNAL_PREFIX, "sqlite_")) or not table:
            raise NodeError(f"{table!r} is a name of the node or of SQLite; choose another table")
        self._db = sqlite3.connect(file.as_uri() + "?mode=rw", uri=True, isolation_level=None, timeout=WAIT_S)
        self._table = table
        self._log = log
        self._key = key
        self._statements: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {}
        self.counts: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def write(self, records: Iterator[Record], columns: ColumnsOf) -> Iterator[Record]:
        """Write all records; yield the last one of each transaction after its commit."""
        waiting = next(records, None)
        while waiting is not None:
            batch, waiting = self._batch(waiting, records)
            for record in batch:  # outside the transaction of the rows: it changes the schema
                self._prepare(record, columns)
            self._commit(batch)
            yield batch[-1]
            time.sleep(PAUSE_S)

    @staticmethod
    def _batch(first: Record, records: Iterator[Record]) -> tuple[list[Record], Record | None]:
        """Return records decoded before the lock is taken, and the one after them."""
        batch = [first]
        for record in records:
            if len(batch) == STEP * 20:
                return batch, record
            batch.append(record)
        return batch, None

    def _commit(self, batch: list[Record]) -> None:
        done = 0
        while done < len(batch):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                until = time.monotonic() + HOLD_S
                while done < len(batch) and time.monotonic() < until:
                    for record in batch[done : done + STEP]:
                        self._insert(record)
                    done += STEP
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise NodeError(
                    f"cannot write: {error}; rows so far are in the table, and the same command goes on"
                ) from error
            if done < len(batch):
                time.sleep(PAUSE_S)

    def _insert(self, record: Record) -> None:
        statement, names, key = self._statements[record.kind]
        values: dict[str, Value] = {LOG: self._log, N: record.n, **record.values}
        empty = next((name for name in key if values[name] is None), None)
        if empty is not None:  # SQLite takes a NULL in a key, as often as it comes
            raise BadFileError(f"{record.place or f'record {record.n:,}'}: no value for {empty!r}, which is of the key")
        try:
            cursor = self._db.execute(statement, [values[name] for name in names])
        except sqlite3.IntegrityError as error:
            raise BadFileError(
                f"{record.place or f'record {record.n:,}'}: {self._name(record.kind)} refuses it: {error}; "
                "the rows before it are imported; repair the file or the table, and run the same command again"
            ) from error
        new, old = self.counts.get(self._name(record.kind), (0, 0))
        self.counts[self._name(record.kind)] = (new + cursor.rowcount, old + 1 - cursor.rowcount)

    def _name(self, kind: str) -> str:
        return f"{self._table}_{kind.lower()}" if kind else self._table

    def _prepare(self, record: Record, columns: ColumnsOf) -> None:
        """Make the table of a kind, or check that the one that is there takes the rows."""
        if record.kind in self._statements:
            return
        table, types = self._name(record.kind), columns(record.kind)
        try:
            known = self._db.execute("SELECT name, pk FROM pragma_table_info(?)", (table,)).fetchall()
            if known:
                names, key = self._fit(table, tuple(types), {str(name): int(pk) for name, pk in known})
            else:
                names, key = self._create(table, types)
        except sqlite3.Error as error:
            raise NodeError(f"cannot make the table {table}: {error}") from error
        marks = ", ".join("?" for _ in names)
        into = ", ".join(map(quoted, names))
        self._statements[record.kind] = (
            f"INSERT INTO {quoted(table)}({into}) VALUES({marks}) ON CONFLICT DO NOTHING",
            names,
            key,
        )

    def _create(self, table: str, types: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        self._check_key(types)
        if self._key:
            all_types, key = types, self._key
        else:
            taken = [name for name in types if name.lower() in (LOG, N)]
            if taken:
                raise NodeError(
                    f"the file has a column {taken[0]!r}, which is a name of an import's own key; "
                    "name the columns that are the rows' key with --key"
                )
            all_types, key = {LOG: "TEXT", N: "INTEGER", **types}, (LOG, N)
        defined = ", ".join(f"{quoted(name)} {kind}".rstrip() for name, kind in all_types.items())
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {quoted(table)}({defined}, PRIMARY KEY({', '.join(map(quoted, key))}))"
        )
        return tuple(all_types), key

    def _check_key(self, types: dict[str, str]) -> None:
        missing = [name for name in self._key if name not in types]
        if missing:
            raise NodeError(f"--key: the file has no column {missing[0]!r}; it has {', '.join(types)}")

    def _fit(
        self, table: str, names: tuple[str, ...], known: dict[str, int]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns to write into an existing table, and its key, which the rows must bring."""
        self._check_key(dict.fromkeys(names, ""))
        folded = {name.lower() for name in known}
        unknown = [name for name in names if name.lower() not in folded]
        if unknown:
            raise NodeError(
                f"the table {table} has no column {unknown[0]!r}; add it with ALTER TABLE, or import into another table"
            )
        key = {name.lower() for name, pk in known.items() if pk}
        brought = {name.lower() for name in names}
        if key and key <= brought:
            return names, tuple(name for name in names if name.lower() in key)
        if key == {LOG, N} and not self._key:
            return (LOG, N, *names), (LOG, N)
        raise NodeError(
            f"the key of {table} is ({', '.join(sorted(key)) or 'none'}), which the file does not have, so a repeated import "
            "would double its rows; import into a new table, and copy from there"
        )
