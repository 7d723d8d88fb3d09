"""The application side of a measurement: the stock sqlite3 module, in a process of its own.

Run as `python -m tools.bench.client FILE JOB ROWS TABLE`; prints the CPU seconds of the job. It must not run in the process of a
replica: two SQLite libraries that open one file in one process release each other's locks. It imports nothing of a node.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable

__all__ = ["CREATE", "INSERT", "JOBS", "TABLES", "main", "rows"]

_COLUMNS = "drone_id, latitude, longitude, altitude, timestamp"
CREATE = f"CREATE TABLE IF NOT EXISTS drones({_COLUMNS})"
INSERT = f"INSERT INTO drones ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)"
# The measured tables, each with its SQL and a function that returns a row's key: the same rows without a key and with one. A key
# costs SQLite itself more.
TABLES: dict[str, tuple[str, Callable[[int], tuple[object, ...]]]] = {
    "drones": (CREATE, lambda _number: ()),
    "by_id": (
        f"CREATE TABLE IF NOT EXISTS by_id(id INTEGER PRIMARY KEY, {_COLUMNS})",
        lambda number: (number,),
    ),
    "by_name": (
        f"CREATE TABLE IF NOT EXISTS by_name(id TEXT PRIMARY KEY, {_COLUMNS})",
        lambda number: (f"row-{number:07}",),
    ),
    "by_tag": (
        f"CREATE TABLE IF NOT EXISTS by_tag(id INTEGER PRIMARY KEY, tag UNIQUE, {_COLUMNS})",
        lambda number: (number, f"tag-{number:07}"),
    ),
}
BUSY_S_MAX = 30  # no other program writes to the file for longer than a moment

Rows = list[tuple[object, ...]]


def rows(count: int) -> Rows:
    """Return rows like those of the first example in the README."""
    return [
        (number % 50, 40.7128 + number * 1e-6, -74.0060 + number * 1e-6, 500 + number % 100, "2023-09-11 12:34:56")
        for number in range(count)
    ]


def main() -> None:
    """Do one job and print its CPU seconds."""
    path, job, count, table = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    create, key = TABLES[table]
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S_MAX)
    # A node serves files in WAL mode. The plain file uses it too, so that the ratios compare triggers and not journals.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(create)
    data = [(*key(number), *row) for number, row in enumerate(rows(count))]
    started = time.process_time()
    JOBS[job](db, table, data)
    print(time.process_time() - started)
    db.close()


def _create(_db: sqlite3.Connection, _table: str, _data: Rows) -> None:
    """Do nothing: the table is created before each job."""


def _bulk(db: sqlite3.Connection, table: str, data: Rows) -> None:
    db.execute("BEGIN")
    db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(data[0]))})", data)
    db.execute("COMMIT")


def _single(db: sqlite3.Connection, table: str, data: Rows) -> None:
    insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(data[0]))})"
    for row in data:
        db.execute(insert, row)


def _update(db: sqlite3.Connection, table: str, _data: Rows) -> None:
    db.execute(f"UPDATE {table} SET altitude = altitude + 1")


def _shift(db: sqlite3.Connection, table: str, _data: Rows) -> None:
    db.execute(f"UPDATE {table} SET id = -1 - id")


def _delete(db: sqlite3.Connection, table: str, _data: Rows) -> None:
    db.execute(f"DELETE FROM {table}")


JOBS: dict[str, Callable[[sqlite3.Connection, str, Rows], None]] = {
    "create": _create,
    "bulk": _bulk,
    "single": _single,
    "update": _update,
    "delete": _delete,
    "shift": _shift,
}


if __name__ == "__main__":
    main()
