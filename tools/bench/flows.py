"""Benchmarks of flows: rows a second of CPU through SQL, beside the same INSERT by hand and its capture, and the delay."""

from __future__ import annotations

import resource
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools.bench.child_node import node_with, running_child
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import cpu_s

__all__ = ["flows"]

ROWS = 200_000
WRITES = 100
WAIT_S_MAX = 120
QUIET_S = 0.6  # without CPU of the node: it has captured everything
_CREATE = """
CREATE TABLE drones(id INTEGER PRIMARY KEY, name TEXT, latitude REAL, longitude REAL, at INTEGER);
CREATE TABLE alerts(id INTEGER PRIMARY KEY, name TEXT, at INTEGER);
CREATE TABLE by_hand(id INTEGER PRIMARY KEY, name TEXT, at INTEGER);
"""
_FILL = (
    "WITH RECURSIVE n(i) AS (SELECT {} UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    " INSERT INTO drones SELECT i, 'drone ' || (i % 50), 40.7, -74.0, 0 FROM n"
)
_SECTION = '[flow.bench]\non = "drones"\nfrom = "start"\nrun = "sql: INSERT INTO alerts SELECT id, name, at FROM new"\n'


def flows(quick: bool) -> dict[str, Figure]:
    """Return the figures of flows."""
    scale = 10 if quick else 1
    rows = ROWS // scale
    with (
        tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory,
        node_with(Path(directory), _SECTION, _CREATE) as (node, home, app),
    ):
        running_child(home)
        ask(home, "children", action="pause", kind="flow", name="bench")
        app.execute(_FILL.format(1, rows))
        app.commit()
        _wait_until_quiet(node)
        before = cpu_s(node)
        app.execute("BEGIN IMMEDIATE")  # the flow starts, and can write nothing yet
        ask(home, "children", action="resume", kind="flow", name="bench")
        child = running_child(home)["pid"]
        started = cpu_s(child)
        app.rollback()
        _wait_for(app, rows)
        _wait_until_quiet(node)
        flow_s = cpu_s(child) - started
        node_s = cpu_s(node) - before
        before, own = cpu_s(node), _own_cpu_s()
        app.execute("INSERT INTO by_hand SELECT id, name, at FROM drones")
        app.commit()
        own_s = _own_cpu_s() - own
        _wait_until_quiet(node)
        by_hand_s = own_s + cpu_s(node) - before
        delays = _delays_ms(app, rows, WRITES // scale)
    return measured(
        flow_rows_per_s=rows / max(flow_s, node_s),
        flow_rows_per_s_all=rows / (flow_s + node_s),
        flow_by_hand_ratio=(flow_s + node_s) / by_hand_s,
        flow_latency_p50_ms=statistics.median(delays),
    )


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _wait_until_quiet(node: int) -> None:
    """Return once the node has taken next to no CPU for `QUIET_S`."""
    end = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end:
        before = cpu_s(node)
        time.sleep(QUIET_S)
        if cpu_s(node) - before < 0.02:
            return
    raise BenchError("the node did not come to rest")


def _wait_for(app: sqlite3.Connection, rows: int) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end:
        (count,) = app.execute("SELECT max(id) FROM alerts").fetchone()
        if count == rows:
            return
        time.sleep(0.1)
    raise BenchError(f"the flow had written {count} of {rows} rows")


def _delays_ms(app: sqlite3.Connection, rows: int, writes: int) -> list[float]:
    """Return how long after the commit of each row its result is visible to another client."""
    delays = []
    for number in range(rows + 1, rows + writes + 1):
        app.execute("INSERT INTO drones VALUES(?, 'x', 1.0, 2.0, 3)", (number,))
        app.commit()
        started = time.perf_counter()
        while app.execute("SELECT 1 FROM alerts WHERE id = ?", (number,)).fetchone() is None:
            time.sleep(0.0005)
            if time.perf_counter() - started > WAIT_S_MAX:
                raise BenchError("a row had no result")
        delays.append(1000 * (time.perf_counter() - started))
        time.sleep(0.01)
    return delays
