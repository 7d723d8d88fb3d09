"""Benchmarks of two nodes with a million rows: how long they hold the write lock or keep others waiting, and their memory.

The steps: one node adds a file of a million rows to the mesh, an empty node catches up, one transaction updates every row, and
the nodes scrub both files. While the nodes work, a stock client writes to each file all the time. It pauses only during the
application's own large transaction.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mycomesh.tools.bench import probe
from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import connect, equal, memory_mb
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["bulk"]

ROWS = 1_000_000
STEP_ROWS = 50_000  # rows that are inserted at a time
WAIT_S_MAX = 900.0  # a million updates drained and merged on a busy machine
LOOK_S = 0.25
PROBED_MAX = 20  # unstamped writes that may be the probe's own: it makes as many in a tenth of a second


def bulk(quick: bool) -> dict[str, Figure]:
    """Return the longest hold of a write lock, the longest wait for one, and the memory that an update of all rows needs."""
    count = ROWS // 10 if quick else ROWS
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        here, there = NodeProcess.within(Path(directory), "here"), NodeProcess.within(Path(directory), "there")
        with ending((here, there)):
            return _bulk(here, there, count)


def _bulk(here: NodeProcess, there: NodeProcess, count: int) -> dict[str, Figure]:
    here.run("init", "--name", "bench", "--node-name", "here")
    _fill(here.file, count)
    waits: list[float] = []
    with _probing(here.file, 1, waits, "adopted"):
        first = here.up("--no-multicast", "--port", "0")
        _until(lambda: here.serving and _stamped(here), "the adoption")
    peer = f"127.0.0.1:{here.status()['port']}"
    there.run("join", here.run("invite"), "--peer", peer, "--no-multicast", "--node-name", "there")
    second = there.up("--no-multicast", "--port", "0", "--peer", peer)
    _until(lambda: there.serving, "the second node")
    with _probing(here.file, 1, waits, "served"), _probing(there.file, 2, waits, "caught up"):
        _until(lambda: _rows_of(there) == count, "the catch-up")
    _until(lambda: equal(here, there), "equal nodes")
    before_mb = [memory_mb(pid, "VmRSS") for pid in (first, second)]
    with contextlib.closing(connect(here.file)) as db:
        db.execute("UPDATE drones SET altitude = altitude + 1")
    with _probing(here.file, 1, waits, "drained"), _probing(there.file, 2, waits, "merged"):
        _until(lambda: _stamped(here) and _last_altitude(there, count), "the updates")
    _until(lambda: equal(here, there), "equal nodes")
    grown_mb = max(memory_mb(pid, "VmHWM") - was for pid, was in zip((first, second), before_mb, strict=True))
    with _probing(here.file, 1, waits, "scrubbed"):
        here.run("scrub")
        _until(lambda: _stamped(here), "the scrub")
    held = [float(one.status()["lock_held_ms"]) for one in (here, there)]
    return measured(lock_held_ms=max(held), lock_max_ms=max(waits), bulk_1m_rss_mb=grown_mb)


def _fill(file: Path, count: int) -> None:
    """Create the file of an application that has no node yet."""
    with contextlib.closing(connect(file)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(CREATE)
        db.execute(probe.CREATE)
        db.execute("BEGIN")
        for _ in range(0, count, STEP_ROWS):
            db.executemany(INSERT, rows(STEP_ROWS))
        db.execute("COMMIT")


def _stamped(one: NodeProcess) -> bool:
    status = one.status()  # empty while a busy node does not answer
    return "pending" in status and int(status["pending"]) <= PROBED_MAX


def _rows_of(one: NodeProcess) -> int:
    return int(next((table["rows"] for table in one.status().get("tables", ()) if table["name"] == "drones"), 0))


def _last_altitude(one: NodeProcess, count: int) -> bool:
    with contextlib.closing(connect(one.file)) as db:
        (altitude,) = db.execute("SELECT altitude FROM drones WHERE rowid = ?", (count,)).fetchone()
    return int(altitude) == 500 + (STEP_ROWS - 1) % 100 + 1


@contextlib.contextmanager
def _probing(file: Path, row: int, waits: list[float], what: str) -> Iterator[None]:
    """Let a stock client write to the file during the block; append its longest wait to `waits`."""
    command = [sys.executable, "-m", "mycomesh.tools.bench.probe", str(file), str(row)]
    with subprocess.Popen(  # noqa: S603 -- our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            if client.stdout.readline().strip() != "ready":
                raise BenchError(f"the client cannot write to {file}")
            yield
        finally:
            client.stdin.close()
            longest = client.stdout.read().strip()
    if not longest:
        raise BenchError(f"the client that writes to {file} failed")
    print(f"  {what}: the client waited at most {float(longest):.1f} ms", file=sys.stderr, flush=True)
    waits.append(float(longest))


def _until(check: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)
