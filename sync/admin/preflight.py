"""Look at a file before a node serves it: which of its tables give two rows one id, or two copies of a row, on two nodes.

The file is read and nothing is changed. SQLite makes two files beside a database in WAL mode that no program has open, so such a
file is opened as immutable.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from mycomesh.sync.errors import DatabaseError
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.own_ids import is_automatic
from mycomesh.sync.schema.policy import KEEP_BOTH, KEEP_BOTH_ROWS_MAX, OWN_IDS, Policies
from mycomesh.sync.sqlite.file_format import format_of
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.table_spec import KeyKind, TableSpec, UnsupportedTable, read_table, user_tables
from mycomesh.sync.storage.connection import FileErrors, read_once
from mycomesh.sync.storage.store import is_replica

__all__ = ["Look", "look"]


@dataclass(frozen=True, slots=True)
class Look:
    """One line about a table, and what to do; None in `well` marks a warning."""

    table: str
    well: bool | None
    found: str
    remedy: str = ""


def look(path: Path) -> list[Look]:
    """Return one line for each table of a file, by name.

    Raises:
        DatabaseError: there is no such file, or it is not an SQLite database.
    """
    try:
        with contextlib.closing(_open_untouched(path)) as db, FileErrors(str(path)):
            policies = Policies.read(db, SCHEMA_TABLE) if is_replica(db) else Policies()
            names, skipped = user_tables(db)
            looks = [_look(db, policies, name) for name in names]
            looks += [Look(name, None, f"is not replicated: {why}") for name, why in skipped]
    except apsw.Error as error:
        raise DatabaseError(f"{path}: {error}; see whether the sqlite3 shell can read it") from error
    return sorted(looks, key=lambda each: each.table)


def _look(db: Any, policies: Policies, name: str) -> Look:
    try:
        spec = policies.applied(read_table(db, name))
    except UnsupportedTable as reason:
        return Look(name, None, f"is not replicated: {reason}")
    if spec.id_column or spec.kind is KeyKind.ROWID:
        return _look_at_ids(spec, policies, automatic=is_automatic(db, spec), rows=_rows(db, name))
    if spec.kind is KeyKind.KEYED:
        return Look(name, True, "each row is named by the key that its program gives it")
    rows = _rows(db, name)
    if not rows:
        return Look(name, True, "has no primary key: each insert is a row of its own")
    return Look(
        name,
        None,
        "has no primary key: each insert is a row of its own, and a second node that starts with a copy of this file doubles the"
        " rows, unless both copies are untouched",
        "give the second node a path where no file exists: it gets the rows from the first",
    )


def _look_at_ids(spec: TableSpec, policies: Policies, *, automatic: bool, rows: int) -> Look:
    own = automatic and spec.folded in policies.own_ids
    if own:
        return Look(spec.name, True, f"each node gives out ids of its own ({OWN_IDS})")
    if spec.id_column:
        return Look(spec.name, True, f"two rows that get one id on two nodes are both kept ({KEEP_BOTH})")
    name = shlex.quote(spec.name)
    choices = [f"mycomesh policy {name} {OWN_IDS}"] if automatic else []
    if rows <= KEEP_BOTH_ROWS_MAX:
        choices.append(f"mycomesh policy {name} {KEEP_BOTH}")
    choices.append("or let the programs draw the key themselves (UUIDs)")
    if not automatic:
        choices.append(f"with AUTOINCREMENT it could have {OWN_IDS}")
    kind = "INTEGER PRIMARY KEY" + " AUTOINCREMENT" * automatic
    return Look(
        spec.name,
        None,
        f"{kind}: two nodes that insert at about the same time, or while split, give two rows one id, and one row is lost to"
        " the conflicts",
        "once it is served: " + "; ".join(choices),
    )


def _rows(db: Any, name: str) -> int:
    """Return the number of rows, counted only as far as it matters."""
    listing = f"SELECT count(*) FROM (SELECT 1 FROM {quoted(name)} LIMIT {KEEP_BOTH_ROWS_MAX + 1})"
    return int(db.execute(listing).fetchone()[0])


def _open_untouched(path: Path) -> apsw.Connection:
    if not path.exists():
        raise DatabaseError(f"{path}: there is no such file; check the path")
    if not path.is_file():
        raise DatabaseError(f"{path}: not a regular file; give the path of an SQLite database")
    with FileErrors(str(path), opening=True):
        immutable = _in_wal_mode(path) and not any(Path(f"{path}{suffix}").exists() for suffix in ("-wal", "-shm"))
        uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
        return read_once(apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI))


def _in_wal_mode(path: Path) -> bool:
    """Return True if the header of a file says that SQLite keeps a write-ahead log beside it.

    Raises:
        DatabaseError: not an SQLite database.
    """
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        raise DatabaseError(f"{path}: cannot be read: {error.strerror}; check its permissions") from error
    if not header.startswith(b"SQLite format 3\0"):
        raise DatabaseError(f"{path}: {format_of(str(path))}")
    return header[18:20] == b"\2\2"
