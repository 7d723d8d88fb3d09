"""Messages into rows: writes what came in, what it is recognised by, and dead letters in one transaction of the served file.

The bridge is an ordinary client of the file: the node captures its rows as those of any program. Three local tables belong to
all bridges: `mycomesh_bridge_seen` (ids of messages, the latest `SEEN_MAX`), `mycomesh_bridge_offsets` (positions in partitions
and streams) and `mycomesh_bridge_rows` (the values that a row came in with, so that it does not go out again).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import time
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.mesh.node.judge import Judge
from mycomesh.sync.crdt.hlc import time_text
from mycomesh.sync.feed.letters_sql import ADD_LETTER, CREATE_LETTERS, RECEIVER, why_line
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.tools.bridges.bodies import BodyError, columns_of, sql_value
from mycomesh.tools.bridges.scheme import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mycomesh.tools.bridges.figures import Figures
    from mycomesh.tools.bridges.settings import BridgeSettings
    from mycomesh.tools.bridges.template import Pattern

__all__ = ["SEEN_MAX", "TableShape", "Writer"]

SEEN_MAX = 200_000  # ids of one bridge; more than any system keeps for redelivery
PRUNE_EVERY = 10_000  # ids
BUSY_S = 30
READ_MS = 1_000  # that the event loop waits for a commit of another program
SHOW_MS = 200  # that the file may be busy when the state is written
BODY_BYTES_MAX = 1 << 20  # of a dead letter: all of a message, but of systems with a larger limit
_TABLES = f"""
CREATE TABLE IF NOT EXISTS mycomesh_bridge_seen(bridge TEXT, id TEXT, seq INTEGER, PRIMARY KEY(bridge, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mycomesh_bridge_seen_seq ON mycomesh_bridge_seen(bridge, seq);
CREATE TABLE IF NOT EXISTS mycomesh_bridge_offsets(
    bridge TEXT, source TEXT, position INTEGER, PRIMARY KEY(bridge, source)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_bridges(
    name TEXT PRIMARY KEY, state TEXT, text TEXT, sent INTEGER, received INTEGER, refused INTEGER, duplicates INTEGER, at TEXT);
CREATE TABLE IF NOT EXISTS mycomesh_bridge_rows(
    bridge TEXT, tbl TEXT, row TEXT, digest BLOB, PRIMARY KEY(bridge, tbl, row)) WITHOUT ROWID;
{CREATE_LETTERS}
"""
# Errors of one row. SQLite raises `SQLError` for a trigger that fails, and for a table that a program has changed this moment.
REFUSALS = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError, apsw.SQLError)
_NUMERIC = ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC")


@dataclass(frozen=True, slots=True)
class TableShape:
    """The columns of a table, with their declared types, and those of its primary key in order."""

    columns: Mapping[str, str]
    key: tuple[str, ...]

    @classmethod
    def read(cls, db: apsw.Connection, table: str) -> TableShape | None:
        """Return the shape of a table, None if the file has no such table."""
        found: list[Any] = db.execute(
            "SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid", (table,)
        ).fetchall()
        if not found:
            return None
        key = tuple(name for name, _, pk in sorted(found, key=lambda each: each[2]) if pk)
        return cls({name: kind.upper() for name, kind, _ in found}, key)


class WrongRowError(Exception):
    """A message cannot become a row."""


class Writer:
    """Writes for one bridge. Used from one thread at a time."""

    def __init__(self, file: str, settings: BridgeSettings, figures: Figures, is_own: Callable[[str], bool]) -> None:
        """Open the served file; `is_own` says whether the id of a message is that of a change of this mesh."""
        self._settings = settings
        self._figures = figures
        self._is_own = is_own
        self._reader = f"bridge.{settings.name}{RECEIVER}"
        self._db = apsw.Connection(file, apsw.SQLITE_OPEN_READWRITE)
        self._db.set_busy_timeout(1000 * BUSY_S)
        self._reads = apsw.Connection(file, apsw.SQLITE_OPEN_READONLY)  # for the event loop, while a thread writes
        self._reads.set_busy_timeout(READ_MS)
        self._changed: dict[tuple[str, str], None] = {}  # rows that came in and have other values by now
        self._lock = threading.Lock()  # of the connection that writes: threads write, and follow other nodes
        self._shapes: dict[str, TableShape] = {}
        self._schema_version = -1
        self._seq = 0
        self._since_prune = 0
        self.judge = Judge()
        self._both = {table.casefold() for table in settings.out}
        self._has_rows = False
        self._offsets: dict[str, int] = {}
        self._create()

    def _create(self) -> None:
        with self._db:
            self._db.execute(_TABLES)
        name = self._settings.name
        self._seq = self._number("SELECT coalesce(max(seq), 0) FROM mycomesh_bridge_seen WHERE bridge = ?", name)
        kept: list[Any] = self._db.execute(
            "SELECT source, position FROM mycomesh_bridge_offsets WHERE bridge = ? ORDER BY source", (name,)
        ).fetchall()
        self._offsets = dict(kept)
        self._has_rows = any(pattern.table.casefold() in self._both for pattern in self._settings.incoming)

    def _number(self, select: str, *values: str) -> int:
        found: Any = self._db.execute(select, values).fetchone()
        return int(found[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        self._reads.close()

    def shape(self, table: str) -> TableShape | None:
        """Return the columns of a table as they are by now, None while there is no such table; for the event loop."""
        return TableShape.read(self._reads, table)

    def _shape(self, table: str) -> TableShape | None:
        """Return the same for the thread that writes: a connection takes no calls of two threads at once."""
        version = self._number("PRAGMA schema_version")
        if version != self._schema_version:
            self._schema_version = version
            self._shapes.clear()
        if table not in self._shapes:
            found = TableShape.read(self._db, table)
            if found is None:
                return None
            self._shapes[table] = found
        return self._shapes[table]

    def offsets(self) -> dict[str, int]:
        """Return the position of the last message of each partition or stream."""
        return dict(self._offsets)

    def follow(self, offsets: Mapping[str, int]) -> None:
        """Take over positions that another node has reached."""
        ahead = {source: offset for source, offset in offsets.items() if offset > self._offsets.get(source, -1)}
        if ahead:
            with self._lock, self._db:
                self._store_offsets(ahead)
            self._offsets.update(ahead)

    def execute(self, statement: str) -> None:
        """Run a statement of a scheme that creates its tables."""
        self._db.execute(statement)

    # ---- messages

    def write(self, arrivals: Sequence[Arrival]) -> int:
        """Write messages in one transaction, in order; return how many were dealt with: fewer than all once too many fail.

        Raises:
            apsw.BusyError: another program keeps the write lock.
        """
        with self._lock:
            return self._write(arrivals)

    def _write(self, arrivals: Sequence[Arrival]) -> int:
        done, reached = 0, {}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for table, key in list(self._changed):
                del self._changed[table, key]
                where = (self._settings.name, table, key)
                self._db.execute("DELETE FROM mycomesh_bridge_rows WHERE bridge = ? AND tbl = ? AND row = ?", where)
            for arrival in arrivals:
                self._write_one(arrival)
                done += 1
                if arrival.offset is not None:
                    reached[arrival.source] = max(arrival.offset, self._offsets.get(arrival.source, -1))
                if self.judge.stops:
                    break
            self._store_offsets(reached)
            self._prune(done)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._offsets.update(reached)
        return done

    def _write_one(self, arrival: Arrival) -> None:
        if self._is_known(arrival):
            self._figures.add("duplicates")
            return
        if self._is_own(arrival.headers.get("mesh-id", "")):
            self._figures.add("echoes")
            return
        self._write_known(arrival)

    def _write_known(self, arrival: Arrival) -> None:
        """Write a message that is to be written, or make it a dead letter; inside a transaction."""
        table = ""
        try:
            pattern, captured = self._route(arrival)
            table = pattern.table
            with self._db:  # a savepoint: a refused row leaves nothing behind
                self._write_row(arrival, table, captured)
        except (WrongRowError, BodyError) as error:
            self._set_aside(arrival, table, str(error))
        except REFUSALS as error:
            self._set_aside(arrival, table, f"{table} refuses the row: {error}")
        else:
            self.judge.add(failed=False)
            self._figures.add("received")

    def _is_known(self, arrival: Arrival) -> bool:
        """Return whether a message was committed before; remember it."""
        if arrival.offset is not None:
            return arrival.offset <= self._offsets.get(arrival.source, -1)
        if not arrival.id:
            return False
        self._seq += 1
        self._db.execute(
            "INSERT OR IGNORE INTO mycomesh_bridge_seen VALUES(?, ?, ?)", (self._settings.name, arrival.id, self._seq)
        )
        return self._db.changes() == 0

    def _route(self, arrival: Arrival) -> tuple[Pattern, dict[str, str]]:
        for pattern in self._settings.incoming:
            captured = pattern.matches(arrival.topic)
            if captured is not None:
                return pattern, captured
        raise WrongRowError(f"no pattern of 'in' has the topic {arrival.topic!r}")

    def _write_row(self, arrival: Arrival, table: str, captured: Mapping[str, str]) -> None:
        shape = self._shape(table)
        if shape is None:
            raise WrongRowError(f"there is no table {table}")
        deletes, values = arrival.delete, dict(arrival.values or {})
        if arrival.values is None and arrival.body:
            values, said = columns_of(arrival.body, self._settings.format)
            deletes = deletes or said
        elif arrival.values is None:
            deletes = True
        values = self._checked({**values, **captured}, shape, table, deletes=deletes)
        if deletes:
            self._delete(values, shape, table)
        else:
            self._upsert(values, shape, table)

    def _checked(self, plain: Mapping[str, Any], shape: TableShape, table: str, *, deletes: bool) -> dict[str, Any]:
        """Return the values by the names of the table's columns."""
        here = {name.casefold(): name for name in shape.columns}
        values = {}
        for name, value in plain.items():
            column = here.get(name.casefold())
            if column is None:
                if self._settings.extra == "refuse":
                    raise WrongRowError(
                        f'{table} has no column {name!r}; add it, or set extra = "ignore" in [bridge.{self._settings.name}]'
                    )
                continue
            made = values[column] = sql_value(value)
            if isinstance(made, str) and _is_numeric(shape.columns[column]) and not _is_number(made):
                raise WrongRowError(
                    f"column {column!r} of {table} is {shape.columns[column]}, and the value is {made[:80]!r}"
                )
        missing = [name for name in shape.key if values.get(name) is None]
        alias = len(shape.key) == 1 and shape.columns[shape.key[0]] == "INTEGER" and not deletes
        if missing and not alias:
            raise WrongRowError(f"no value for {missing[0]!r}, which is in the key of {table}")
        if deletes and not shape.key:
            raise WrongRowError(f"{table} has no primary key, so that no row of it can be named to be deleted")
        if not values:
            raise WrongRowError(f"the message has none of the columns of {table}")
        return values

    def _upsert(self, values: Mapping[str, Any], shape: TableShape, table: str) -> None:
        names = list(values)
        sql = f"INSERT INTO {quoted(table)}({', '.join(map(quoted, names))}) VALUES({', '.join('?' * len(names))})"
        if shape.key and all(name in values for name in shape.key):
            rest = [name for name in names if name not in shape.key]
            target = ", ".join(map(quoted, shape.key))
            if rest:
                sets = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in rest)
                sql += f" ON CONFLICT({target}) DO UPDATE SET {sets}{self._guard(values, table)}"
            else:
                sql += f" ON CONFLICT({target}) DO NOTHING"
        if self._has_rows and table.casefold() in self._both:
            sql += f" RETURNING {', '.join(map(quoted, shape.columns))}"
        written = self._db.execute(sql, [values[name] for name in names]).fetchall()
        if written:
            row = dict(zip(shape.columns, written[0], strict=True))
            key = _key_text([row[name] for name in shape.key])
            self._db.execute(
                "INSERT OR REPLACE INTO mycomesh_bridge_rows VALUES(?, ?, ?, ?)",
                (self._settings.name, table.casefold(), key, digest_of(row)),
            )

    def _guard(self, values: Mapping[str, Any], table: str) -> str:
        """Return the condition under which a message overwrites a row: its own time is not before that of the row."""
        time_column = next((name for name in values if name.casefold() == self._settings.time.casefold()), None)
        if time_column is None:
            return ""
        column = quoted(time_column)
        return f" WHERE {quoted(table)}.{column} IS NULL OR excluded.{column} >= {quoted(table)}.{column}"

    def _delete(self, values: Mapping[str, Any], shape: TableShape, table: str) -> None:
        where = " AND ".join(f"{quoted(name)} = ?" for name in shape.key)
        key = [values[name] for name in shape.key]
        self._db.execute(f"DELETE FROM {quoted(table)} WHERE {where}", key)
        if self._has_rows and table.casefold() in self._both:
            self._db.execute(
                "INSERT OR REPLACE INTO mycomesh_bridge_rows VALUES(?, ?, ?, ?)",
                (self._settings.name, table.casefold(), _key_text(key), digest_of(None)),
            )

    def show(self, state: str, text: str) -> None:
        """Write the state and the figures of the bridge for SQL; a file that is busy has the ones before."""
        figures = [int(self._figures.values[name]) for name in ("sent", "received", "refused", "duplicates")]
        at = time_text(time.time_ns() // 1_000_000)
        with self._lock, contextlib.suppress(apsw.BusyError):
            self._db.set_busy_timeout(SHOW_MS)
            try:
                self._db.execute(
                    "INSERT OR REPLACE INTO mycomesh_bridges VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                    (self._settings.name, state, text, *figures, at),
                )
            finally:
                self._db.set_busy_timeout(1000 * BUSY_S)

    def retry(self) -> int:
        """Write the dead letters again that `mycomesh dead --retry` names; return how many there were."""
        with self._lock:
            letters: list[Any] = self._db.execute(
                "SELECT seq, id, body FROM mycomesh_dead_letters WHERE reader = ? AND tries = 0 ORDER BY seq",
                (self._reader,),
            ).fetchall()
            for number, name, body in letters:
                plain = json.loads(body)
                data = base64.b64decode(plain["base64"]) if "base64" in plain else plain.get("body", "").encode()
                values = plain.get("values")
                found = None if values is None else {column: sql_value(value) for column, value in values.items()}
                again = Arrival(plain["topic"], data, name, plain["headers"], values=found, delete=plain["delete"])
                with self._db:
                    self._db.execute("DELETE FROM mycomesh_dead_letters WHERE seq = ?", (number,))
                    self._write_known(again)
        return len(letters)

    def _set_aside(self, arrival: Arrival, table: str, why: str) -> None:
        self.judge.add(failed=True)
        self._figures.add("refused")
        body: dict[str, Any] = {"topic": arrival.topic, "headers": dict(arrival.headers), "delete": arrival.delete}
        try:
            body["body"] = arrival.body[:BODY_BYTES_MAX].decode()
        except UnicodeDecodeError:
            body["base64"] = base64.b64encode(arrival.body[:BODY_BYTES_MAX]).decode()
        if arrival.values is not None:
            body["values"] = {name: _plain(value) for name, value in arrival.values.items()}
        at = time_text(time.time_ns() // 1_000_000)
        reader = self._reader
        name = arrival.id or f"{arrival.topic}@{hashlib.blake2b(arrival.body, digest_size=8).hexdigest()}"
        self._db.execute(
            ADD_LETTER,
            (reader, name, table, arrival.topic, json.dumps(body, ensure_ascii=False), why_line(why), 1, at, at),
        )

    def _store_offsets(self, offsets: Mapping[str, int]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO mycomesh_bridge_offsets VALUES(?, ?, ?)",
            [(self._settings.name, source, offset) for source, offset in offsets.items()],
        )

    def _prune(self, count: int) -> None:
        self._since_prune += count
        if self._since_prune >= PRUNE_EVERY:
            self._since_prune = 0
            self._db.execute(
                "DELETE FROM mycomesh_bridge_seen WHERE bridge = ? AND seq <= ?",
                (self._settings.name, self._seq - SEEN_MAX),
            )

    # ---- rows that came in

    def is_echo(self, change: Mapping[str, Any]) -> bool:
        """Return whether the row of a change still has the values that it came in with; forget them if it has others."""
        if not self._has_rows:
            return False
        table, key = change["table"].casefold(), _key_text([sql_value(each) for each in change["key"].values()])
        if (table, key) in self._changed:
            return False
        found: Any = self._reads.execute(
            "SELECT digest FROM mycomesh_bridge_rows WHERE bridge = ? AND tbl = ? AND row = ?",
            (self._settings.name, table, key),
        ).fetchone()
        if found is None:
            return False
        values = change["values"]
        made = None if values is None else {name: sql_value(value) for name, value in values.items()}
        if found[0] == digest_of(made):
            return True
        self._changed[table, key] = None
        return False


def digest_of(values: Mapping[str, Any] | None) -> bytes:
    """Return a digest of a row's columns and values, of None for a row that is gone."""
    plain = None if values is None else [[name, repr(value)] for name, value in sorted(values.items())]
    return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).digest()


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _key_text(key: Sequence[Any]) -> str:
    return json.dumps([repr(each) for each in key])


def _is_numeric(kind: str) -> bool:
    return any(word in kind for word in _NUMERIC) and "CHAR" not in kind and "TEXT" not in kind


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text)) and "_" not in text  # Python reads nan, inf and 1_000 as numbers, SQLite does not
    except ValueError:
        return False
