"""Benchmark of taking in a file that has rows already, while an application writes to it 20 times a second.

The rows have a key and an index, as those of an application. The figures are the CPU time of the node, how many rows stay packed
in the change log, how long `status` and the application wait, and how much the file grows.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mycomesh.tools.bench.client import rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import connect, cpu_s
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["adopt"]

ROWS = 500_000
STEP_ROWS = 50_000  # rows that are inserted at a time
WAIT_S_MAX = 300.0
LOOK_S = 0.1
PAUSE_S = 0.05  # between the application's writes
RETRY_S = 0.0005  # the resolution of its waits
WRITES_LEFT = 3  # unstamped writes that may be the application's own
_CREATE = (
    "CREATE TABLE drones(id INTEGER PRIMARY KEY, drone_id, latitude, longitude, altitude, timestamp)",
    "CREATE INDEX drones_by_id ON drones(drone_id)",
)
_INSERT = "INSERT INTO drones(drone_id, latitude, longitude, altitude, timestamp) VALUES (?, ?, ?, ?, ?)"
_UPDATE = "UPDATE drones SET altitude = altitude + 1 WHERE id = ?"
_SPREAD = 104_729  # a prime: each update is far from the one before


def adopt(quick: bool) -> dict[str, Figure]:
    """Return what it costs to take in a file of existing rows."""
    count = ROWS // 10 if quick else ROWS
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        node = NodeProcess.within(Path(directory), "here")
        node.run("init", "--name", "bench", "--node-name", "here")
        _fill(node.file, count)
        before = node.file.stat().st_size
        with ending((node,)):
            pid = node.up("--no-multicast", "--port", "0")
            waits: list[float] = []
            with _writing(node.file, count, waits):
                answers = _status_until_stamped(node)
            spent_s = cpu_s(pid)
        with contextlib.closing(connect(node.file)) as db:
            packed = _packed(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return measured(
            adopt_rows_per_cpu_s=count / spent_s,
            adopt_packed_percent=100 * packed / count,
            adopt_status_ms=max(answers) * 1000,
            adopt_wait_ms=max(waits) * 1000,
            adopt_file_ratio=node.file.stat().st_size / before,
        )


def _fill(file: Path, count: int) -> None:
    with contextlib.closing(connect(file)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in _CREATE:
            db.execute(statement)
        db.execute("BEGIN")
        for at in range(0, count, STEP_ROWS):
            db.executemany(_INSERT, rows(min(STEP_ROWS, count - at)))
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _status_until_stamped(node: NodeProcess) -> list[float]:
    """Return how many seconds each answer of `status` took, until every row has its stamp."""
    answers = []
    end = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end:
        started = time.perf_counter()
        status = node.status()
        if status.get("phase") == "serving":
            answers.append(time.perf_counter() - started)
            if int(status["pending"]) <= WRITES_LEFT:
                return answers
        time.sleep(LOOK_S)
    raise BenchError(f"the file was not taken in within {WAIT_S_MAX:.0f} s")


@contextlib.contextmanager
def _writing(file: Path, count: int, waits: list[float]) -> Iterator[None]:
    """Let an application update and insert rows during the block; append how many seconds each write waited."""
    over = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=0)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            (row,) = rows(1)
            number = 0
            while not over.wait(PAUSE_S):
                statement = (_UPDATE, (number * _SPREAD % count + 1,)) if number % 2 else (_INSERT, row)
                waits.append(_written(db, *statement))
                number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _written(db: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> float:
    """Write once; return how many seconds it waited for the write lock."""
    started = time.perf_counter()
    while True:
        tried = time.perf_counter()
        try:
            db.execute(statement, values)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(RETRY_S)
        else:
            return tried - started


def _packed(db: sqlite3.Connection) -> int:
    """Return how many rows are packed in the change log."""
    names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'mycomesh_runs_*'")
    return sum(db.execute(f"SELECT coalesce(sum(n), 0) FROM {name}").fetchone()[0] for (name,) in names.fetchall())
