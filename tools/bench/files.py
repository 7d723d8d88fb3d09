"""Benchmarks of one file: the cost of capture for an application, and the speed of drain and merge.

Replicas run in this process, stock clients in others. A plain and a captured job alternate and a ratio is the median of such
pairs, so that a busy machine slows both. The ratios compare CPU time, not the disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import cbor2

from mycomesh.sync.replica import Replica, ReplicaConfig, TableDigest
from mycomesh.tools.bench.client import CREATE, INSERT
from mycomesh.tools.bench.figure import Figure, measured

__all__ = ["BenchError", "capture", "edits", "file_size", "opening", "pipeline"]

ROWS = 100_000
ROWS_QUICK = 10_000
SINGLE = 2_000  # transactions of one row, which take some tenths of a second of CPU
PAIRS = 5  # each a plain and a captured job
PIPELINES = 3  # each drains and merges the rows twice
_PREFIX = "mycomesh-bench-"


class BenchError(Exception):
    """A benchmark cannot go on. The text is one line."""


def capture(quick: bool) -> dict[str, Figure]:
    """Return the stock client's CPU time with triggers, as ratios to the same job on a plain file."""
    count = ROWS_QUICK if quick else ROWS
    return measured(
        capture_insert_bulk=_capture_ratio("bulk", count),
        capture_insert_bulk_id=_capture_ratio("bulk", count, "by_id"),
        capture_insert_bulk_name=_capture_ratio("bulk", count, "by_name"),
        capture_insert_single=_capture_ratio("single", SINGLE),
        capture_update_bulk=_capture_ratio("update", count),
        capture_update_bulk_tag=_capture_ratio("update", count, "by_tag"),
    )


def pipeline(quick: bool) -> dict[str, Figure]:
    """Return the rows per second of drain and merge on one core, and the whole path relative to SELECT -> CBOR -> INSERT."""
    count = ROWS_QUICK if quick else ROWS
    found: dict[str, list[float]] = {}
    for _ in range(PIPELINES):
        for name, value in _pipeline_once(count).items():
            found.setdefault(name, []).append(value)
    return measured(**{name: statistics.median(values) for name, values in found.items()})


def edits(quick: bool) -> dict[str, Figure]:
    """Return the CPU microseconds of a row from the write of a stock client in one file until it is in another.

    Rows that need more than a plain edit does are ratios to it: counted, of a text key, in conflict, refused.
    """
    count = ROWS_QUICK if quick else ROWS // 5
    found: dict[str, list[float]] = {}
    for _ in range(PIPELINES):
        plain = _edited(count, "by_id", ("bulk", "update", "update", "delete"))
        insert, update, again, delete = plain
        _, keyed, _ = _edited(count, "by_name", ("bulk", "update", "update"))
        *_, counted = _edited(count, "by_id", ("bulk", "update", "count", "update"))
        conflict, parked = _conflicting(count // 10), _refused(count // 10)
        for name, value in {
            "insert_us_per_row": insert,
            "update_us_per_row": update,
            "update_again_us_per_row": again,
            "delete_us_per_row": delete,
            "update_key_ratio": keyed / update,
            "count_ratio": counted / again,
            "conflict_ratio": conflict / update,
            "parked_ratio": parked / insert,
        }.items():
            found.setdefault(name, []).append(value)
    return measured(**{name: statistics.median(values) for name, values in found.items()})


@contextlib.contextmanager
def _two_files(table: str) -> Iterator[tuple[list[Path], list[Replica]]]:
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as directory:
        paths = [Path(directory) / "here.db", Path(directory) / "there.db"]
        for path in paths:
            _client(path, "create", 0, table)
        replicas = [_open(path, number) for number, path in enumerate(paths, 1)]
        yield paths, replicas
        for replica in replicas:
            replica.close()


def _edited(count: int, table: str, jobs: Sequence[str]) -> list[float]:
    """Return for each job of a client its CPU microseconds a row: the write, stamping and merging.

    The job "count" declares a counter, and updates it once: the first count of a row does more than the next.
    """
    found = []
    with _two_files(table) as (paths, (sender, receiver)):
        for job in jobs:
            if job == "count":
                sender.decisions.declare_counter(table, "altitude")
                _merge(receiver, _drain(sender))
                _drain(receiver)  # the new counter makes both files read every cell once
            client = {"count": "update"}.get(job, job)
            written_s = _client(paths[0], client, count if job == "bulk" else 0, table)
            batches, drained_s = _time(functools.partial(_drain, sender))
            _, merged_s = _time(functools.partial(_merge, receiver, batches))
            found.append((written_s + drained_s + merged_s) / count * 1e6)
    return found


def _conflicting(count: int) -> float:
    """Return the CPU microseconds of a row that two files update at the same time: of one write, its stamp and its merge."""
    with _two_files("by_id") as (paths, replicas):
        _client(paths[0], "bulk", count, "by_id")
        _merge(replicas[1], _drain(replicas[0]))
        spent_s = sum(_client(path, "update", 0, "by_id") for path in paths)
        _client(paths[1], "update", 0, "by_id")  # another value
        drained = [_time(functools.partial(_drain, replica)) for replica in replicas]
        merged = [
            _time(functools.partial(_merge, replicas[number], drained[1 - number][0], 2 - number)) for number in (0, 1)
        ]
        return (spent_s + sum(spent for _, spent in [*drained, *merged])) / (2 * count) * 1e6


def _refused(count: int) -> float:
    """Return the CPU microseconds of an insert that a UNIQUE column of the other file refuses."""
    with _two_files("by_tag") as (paths, (sender, receiver)):
        _client(paths[1], "bulk", count, "by_tag")
        _client(paths[1], "shift", 0, "by_tag")
        _drain(receiver)
        written_s = _client(paths[0], "bulk", count, "by_tag")
        batches, drained_s = _time(functools.partial(_drain, sender))
        _, merged_s = _time(functools.partial(_merge, receiver, batches))
        return (written_s + drained_s + merged_s) / count * 1e6


def file_size(quick: bool) -> dict[str, Figure]:
    """Return the size of a drained and checkpointed file relative to the plain one, never vacuumed."""
    count = ROWS_QUICK if quick else ROWS
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as directory:
        plain, captured = Path(directory) / "plain.db", Path(directory) / "captured.db"
        for path in (plain, captured):
            _client(path, "create", 0)
        replica = _open(captured, 1)
        for path in (plain, captured):
            _client(path, "bulk", count)
        _drain(replica)
        replica.close()
        (whole, used), (plain_whole, _) = _sizes(captured), _sizes(plain)
    return measured(file_ratio=whole / plain_whole, file_used_ratio=used / plain_whole)


def opening(quick: bool) -> dict[str, Figure]:
    """Return the seconds from opening a file of a million rows until its digests are ready; `quick` scales up a tenth."""
    scale = 10 if quick else 1
    count = 1_000_000 // scale
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as directory:
        path = Path(directory) / "large.db"
        _client(path, "create", 0)
        replica = _open(path, 1)
        _client(path, "bulk", count)
        _drain(replica)
        expected = _digest(replica)
        replica.close()
        started = time.perf_counter()
        replica = _open(path, 1)
        found = _digest(replica)
        opened_s = time.perf_counter() - started
        replica.close()
    if found != expected:
        raise BenchError("a file has other digests after it was opened again")
    return measured(open_1m_rows_s=opened_s * scale)


# ---- one measurement


def _capture_ratio(job: str, count: int, table: str = "drones") -> float:
    ratios = []
    for _ in range(PAIRS):
        with tempfile.TemporaryDirectory(prefix=_PREFIX) as directory:
            plain, captured = Path(directory) / "plain.db", Path(directory) / "captured.db"
            for path in (plain, captured):
                _client(path, "bulk" if job == "update" else "create", count, table)
            _open(captured, 1).close()  # the triggers stay
            ratios.append(_client(captured, job, count, table) / _client(plain, job, count, table))
    return statistics.median(ratios)


def _pipeline_once(count: int) -> dict[str, float]:
    """Insert rows, update a column, then update it as a counter: capture and drain in one file, merge in the other."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as directory:
        here, there, plain = (Path(directory) / name for name in ("here.db", "there.db", "plain.db"))
        for path in (here, there):
            _client(path, "create", 0)
        sender, receiver = _open(here, 1), _open(there, 2)
        capture_s = max(_client(here, "bulk", count) - _client(plain, "bulk", count), 0.0)
        for label, job in (("", ""), ("update_", "update"), ("counter_", "update")):
            if label == "counter_":
                sender.decisions.declare_counter("drones", "altitude")
                _merge(receiver, _drain(sender))
                _drain(receiver)  # the new counter makes both files read every cell once
            if job:
                _client(here, job, 0)
            batches, drained_s = _time(functools.partial(_drain, sender))
            _, merged_s = _time(functools.partial(_merge, receiver, batches))
            if _digest(sender) != _digest(receiver):
                raise BenchError(f"the receiver differs from the sender after {count} changes")
            found[f"drain_{label}rows_per_s"] = count / drained_s
            found[f"merge_{label}rows_per_s"] = count / merged_s
            if not job:
                found["wire_bytes_per_row"] = sum(map(len, batches)) / count
                found["pipeline_ratio"] = (capture_s + drained_s + merged_s) / _copying(plain, count)
        sender.close()
        receiver.close()
    return found


def _copying(source_path: Path, count: int) -> float:
    """Return the CPU seconds of the least possible work: read the rows, encode and decode them, insert them elsewhere."""
    source = apsw.Connection(str(source_path))
    target = apsw.Connection(str(source_path.with_name("copy.db")))
    target.execute("PRAGMA journal_mode = WAL").fetchall()
    target.execute("PRAGMA synchronous = NORMAL").fetchall()
    target.execute(CREATE)

    def copy() -> None:
        encoded = cbor2.dumps(source.execute("SELECT * FROM drones ORDER BY rowid LIMIT ?", (count,)).fetchall())
        target.execute("BEGIN")
        target.executemany(INSERT, cbor2.loads(encoded))
        target.execute("COMMIT")

    _, spent_s = _time(copy)
    source.close()
    target.close()
    return spent_s


# ---- replicas and clients


def _open(path: Path, number: int) -> Replica:
    return Replica.open(
        str(path),
        node_id=_node_id(number),
        mesh_key=bytes(32),
        entropy=os.urandom,
        config=ReplicaConfig(),
    )


def _node_id(number: int) -> bytes:
    return bytes([number]) * 16


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _drain(replica: Replica) -> list[bytes]:
    batches: list[bytes] = []
    more = True
    while more:
        found, more = replica.drain(_wall_ms())
        batches += found
    return batches


def _merge(replica: Replica, batches: list[bytes], origin: int = 1) -> None:
    for batch in batches:
        replica.apply(batch, _wall_ms(), origin=_node_id(origin))


def _digest(replica: Replica) -> TableDigest:
    """Return the digest of the measured table alone; each file's table definitions have stamps of their own."""
    return next(each for each in replica.digests() if each.table == "drones")


def _time(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of the work, and its CPU seconds in this process."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def _client(path: Path, job: str, count: int, table: str = "drones") -> float:
    """Return the CPU seconds of a job of the stock client, in a process of its own."""
    command = [sys.executable, "-m", "mycomesh.tools.bench.client", str(path), job, str(count), table]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 -- our own module
    if done.returncode:
        raise BenchError(f"the client's job {job!r} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return float(done.stdout)


def _sizes(path: Path) -> tuple[int, int]:
    """Return the bytes of a file after a checkpoint, and how many of them are in use."""
    db = apsw.Connection(str(path))
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    pages, free, size = (_pragma(db, name) for name in ("page_count", "freelist_count", "page_size"))
    db.close()
    return pages * size, (pages - free) * size


def _pragma(db: apsw.Connection, name: str) -> int:
    (value,) = db.execute(f"PRAGMA {name}").fetchall()[0]
    assert isinstance(value, int)
    return value
