"""Measurements of one file: what capture costs the application, and how fast changes are drained and merged."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import cbor2

from sync import Replica, ReplicaConfig
from tools.bench.client import CREATE, INSERT
from tools.bench.figure import Figure

__all__ = ["capture", "file_size", "opening", "pipeline"]

ROUNDS = 5


def capture(quick: bool) -> dict[str, Figure]:
    """The stock client's CPU time with triggers, as ratios to the same job on a plain file, run in turn."""
    scale = 10 if quick else 1
    jobs = {
        "capture_insert_bulk": ("bulk", 100_000 // scale, "<= 2.0"),
        "capture_insert_single": ("single", 2_000, "<= 1.5"),
        "capture_update_bulk": ("update", 100_000 // scale, "<= 3.5"),
    }
    figures = {}
    for name, (job, count, goal) in jobs.items():
        ratios = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as place:
                plain, captured = Path(place) / "plain.db", Path(place) / "captured.db"
                for path in (plain, captured):
                    _client(path, "create", 0)
                    if job == "update":
                        _client(path, "bulk", count)
                _open(captured, 1).close()
                ratios.append(_client(captured, job, count) / _client(plain, job, count))
        figures[name] = Figure(statistics.median(ratios), "ratio", "plain SQLite, CPU time", goal)
    return figures


def pipeline(quick: bool) -> dict[str, Figure]:
    """Rows a second of one core for drain and merge, and the whole way relative to SELECT -> CBOR -> INSERT."""
    count = 10_000 if quick else 100_000
    rates: dict[str, list[float]] = {}
    ratios = []
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as place:
            here, there = Path(place) / "here.db", Path(place) / "there.db"
            _client(here, "create", 0)
            _client(there, "create", 0)
            sender, receiver = _open(here, 1), _open(there, 2)
            spent = _client(here, "bulk", count) - _plain_insert(Path(place), count)
            for label, job in (("", None), ("update_", "UPDATE drones SET altitude = altitude + 1")):
                if job is not None:
                    _client(here, "update", 0)
                started = time.process_time()
                batches = _drain(sender)
                drained_s = time.process_time() - started
                merged_s = _timed(functools.partial(_merge, receiver, batches))
                assert _count(receiver) == count, "every row has arrived"
                rates.setdefault(f"drain_{label}rows_per_s", []).append(count / drained_s)
                rates.setdefault(f"merge_{label}rows_per_s", []).append(count / merged_s)
                if job is None:
                    ratios.append((max(spent, 0.0) + drained_s + merged_s) / _copying(Path(place), count))
            sender.close()
            receiver.close()
    goals = {"drain_rows_per_s": ">= 150,000", "merge_rows_per_s": ">= 120,000"}
    figures = {
        name: Figure(statistics.median(values), "rows/s", goal=goals.get(name, "")) for name, values in rates.items()
    }
    figures["pipeline_ratio"] = Figure(
        statistics.median(ratios), "ratio", "SELECT -> CBOR -> INSERT, CPU time", "<= 4.0"
    )
    return figures


def file_size(quick: bool) -> dict[str, Figure]:
    """The size of a drained file relative to the plain one."""
    count = 10_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as place:
        plain, captured = Path(place) / "plain.db", Path(place) / "captured.db"
        for path in (plain, captured):
            _client(path, "create", 0)
        replica = _open(captured, 1)
        for path in (plain, captured):
            _client(path, "bulk", count)
        _drain(replica)
        replica.close()
        sizes = [_live_bytes(path) for path in (captured, plain)]
    return {"file_ratio": Figure(sizes[0] / sizes[1], "ratio", "plain SQLite file", "<= 1.8")}


def opening(quick: bool) -> dict[str, Figure]:
    """Opening a file of a million rows: digests ready."""
    count = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as place:
        path = Path(place) / "large.db"
        _client(path, "create", 0)
        replica = _open(path, 1)
        _client(path, "bulk", count)
        _drain(replica)
        replica.close()
        started = time.perf_counter()
        replica = _open(path, 1)
        replica.digests()
        opened_s = time.perf_counter() - started
        assert _count(replica) == count, "the file is as large as it should be"
        replica.close()
    return {"open_1m_rows_s": Figure(opened_s * (1_000_000 / count), "s", goal="<= 2.0")}


def _open(path: Path, number: int) -> Replica:
    return Replica.open(
        str(path),
        node_id=bytes([number]) * 16,
        mesh_key=bytes(32),
        wall_ms=_wall_ms(),
        entropy=os.urandom,
        config=ReplicaConfig(),
    )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _drain(replica: Replica) -> list[bytes]:
    batches: list[bytes] = []
    more = True
    while more:
        found, more = replica.drain(_wall_ms())
        batches += found
    return batches


def _merge(replica: Replica, batches: list[bytes]) -> None:
    for batch in batches:
        replica.apply(batch, _wall_ms(), origin=bytes([1]) * 16)


def _count(replica: Replica) -> int:
    return next(table.rows for table in replica.status().tables if table.name == "drones")


def _timed(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _client(path: Path, job: str, count: int) -> float:
    command = [sys.executable, "-m", "tools.bench.client", str(path), job, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 -- our own module
    return float(done.stdout)


def _plain_insert(place: Path, count: int) -> float:
    return _client(place / "baseline.db", "bulk", count)


def _copying(place: Path, count: int) -> float:
    """CPU seconds of the floor: read the rows, encode and decode them, insert them elsewhere."""
    source = apsw.Connection(str(place / "baseline.db"))
    target = apsw.Connection(str(place / "copy.db"))
    target.execute("PRAGMA journal_mode = WAL").fetchall()
    target.execute("PRAGMA synchronous = NORMAL").fetchall()
    target.execute(CREATE)

    def copy() -> None:
        encoded = cbor2.dumps(source.execute("SELECT * FROM drones ORDER BY rowid LIMIT ?", (count,)).fetchall())
        target.execute("BEGIN")
        target.executemany(INSERT, cbor2.loads(encoded))
        target.execute("COMMIT")

    spent = _timed(copy)
    source.close()
    target.close()
    return spent


def _live_bytes(path: Path) -> int:
    """The pages in use after a checkpoint: what the file would be without free pages."""
    db = apsw.Connection(str(path))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]  # type: ignore[index]
        for name in ("page_count", "freelist_count", "page_size")
    )
    db.close()
    return int((pages - free) * size)
