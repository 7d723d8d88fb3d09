"""Benchmark of one large transaction that spreads live: from the client's BEGIN until the other node's file has every row.

The nodes are linked and idle, in two network namespaces with a virtual cable between them. The CPU time of both nodes is measured
too: on a machine that does other work, the rate by the clock says little.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import connect, cpu_s, equal
from mycomesh.tools.bench.plug import SPACES, cable
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["spread"]

ROWS = 100_000
TURNS = 5
WAIT_S_MAX = 120.0
LOOK_S = 0.002


def spread(quick: bool) -> dict[str, Figure]:
    """Return the rows a second of the median turn and the nodes' CPU time a row; no figure without network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory, cable():
        here, there = (
            NodeProcess.within(Path(directory), name, prefix=("ip", "netns", "exec", space))
            for name, space in zip(("here", "there"), SPACES, strict=True)
        )
        with ending((here, there)):
            return _spread(here, there, ROWS // 10 if quick else ROWS, 1 if quick else TURNS)


def _spread(here: NodeProcess, there: NodeProcess, count: int, turns: int) -> dict[str, Figure]:
    here.run("init", "--name", "bench", "--node-name", "here")
    pids = [here.up("--no-multicast")]
    _until(lambda: here.serving, "the first node")
    peer = f"10.98.0.1:{here.status()['port']}"
    there.run("join", here.run("invite"), "--peer", peer, "--no-multicast", "--node-name", "there")
    pids.append(there.up("--no-multicast", "--peer", peer))
    with contextlib.closing(connect(here.file)) as writer:
        writer.execute(CREATE)
        writer.executemany(INSERT, rows(100))
        _until(lambda: equal(here, there), "the table on both nodes")
        with contextlib.closing(connect(there.file)) as reader:
            found = [_turn(writer, reader, pids, count) for _ in range(turns)]
    return measured(
        spread_rows_per_s=count / statistics.median(seconds for seconds, _, _ in found),
        spread_here_us=statistics.median(spent for _, spent, _ in found) / count * 1e6,
        spread_there_us=statistics.median(spent for _, _, spent in found) / count * 1e6,
    )


def _turn(
    writer: sqlite3.Connection, reader: sqlite3.Connection, pids: list[int], count: int
) -> tuple[float, float, float]:
    """Return the seconds until every row is there, and the CPU seconds of both nodes."""
    data, due = rows(count), _rows_of(writer) + count
    before = [cpu_s(pid) for pid in pids]
    started = time.perf_counter()
    writer.execute("BEGIN IMMEDIATE")
    writer.executemany(INSERT, data)
    writer.execute("COMMIT")
    _until(lambda: _rows_of(reader) == due, "the rows on the other node")
    seconds = time.perf_counter() - started
    here_s, there_s = (cpu_s(pid) - was for pid, was in zip(pids, before, strict=True))
    return seconds, here_s, there_s


def _rows_of(db: sqlite3.Connection) -> int:
    """Return the greatest rowid: no row is ever deleted, and counting them would take the nodes' processor time."""
    return int(db.execute("SELECT coalesce(max(rowid), 0) FROM drones").fetchone()[0])


def _until(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)
