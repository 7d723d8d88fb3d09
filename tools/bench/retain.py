"""Benchmark of retention: a million rows older than the horizon, removed in steps, and the space that the file gives back."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import apsw

from mycomesh.sync.replica import Hooks, Replica, ReplicaConfig
from mycomesh.sync.storage.horizon import RetainRule
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError

__all__ = ["retain"]

ROWS = 1_000_000
KEPT = 1_000
AGE_MS = 7 * 86_400_000
_CREATE = "CREATE TABLE telemetry(drone TEXT, at INTEGER, latitude REAL, longitude REAL, altitude REAL)"
_FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    " INSERT INTO telemetry SELECT 'drone ' || (i % 50), {} + i, 40.7 + i * 1e-6, -74.0, 100.0 + i % 500 FROM n"
)


class _Holds:
    """The CPU time of the longest hold of the write lock."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._since = 0.0

    def on_lock(self, held: bool) -> None:
        if held:
            self._since = time.thread_time()
        else:
            self.longest_ms = max(self.longest_ms, 1_000 * (time.thread_time() - self._since))


def retain(quick: bool) -> dict[str, Figure]:
    """Return the figures of removing the rows of a window."""
    count = ROWS // 10 if quick else ROWS
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        path, holds, now_ms = Path(directory) / "retain.db", _Holds(), time.time_ns() // 1_000_000
        app = apsw.Connection(str(path))
        app.execute("PRAGMA auto_vacuum = INCREMENTAL")
        app.execute(_CREATE)
        replica = Replica.open(
            str(path),
            node_id=bytes([1]) * 16,
            mesh_key=bytes(32),
            entropy=os.urandom,
            config=ReplicaConfig(),
            hooks=Hooks(on_lock=holds.on_lock),
        )
        try:
            app.execute(_FILL.format(count, (now_ms - 2 * AGE_MS) // 1_000 - count))
            app.execute(_FILL.format(KEPT, now_ms // 1_000 - KEPT))
            _drain(replica)
            replica.store.wal.empty()
            before = path.stat().st_size
            replica.retention.decide(replica.tables["telemetry"], RetainRule(AGE_MS, "at"), now_ms)
            _drain(replica)
            holds.longest_ms, started = 0.0, time.process_time()
            while (replica.retention.next_due(now_ms) or now_ms + 1) <= now_ms:
                replica.retention.step(now_ms)
            spent_s = time.process_time() - started
            replica.store.wal.empty()
            left = app.execute("SELECT count(*) FROM telemetry").fetchone()
            if left != (KEPT,):
                raise BenchError(f"{left} rows are left of {KEPT}")
            freed = 100 * (1 - path.stat().st_size / before)
        finally:
            app.close()
            replica.close()
    return measured(
        retain_us_per_row=1e6 * spent_s / count, retain_lock_ms=holds.longest_ms, retain_freed_percent=freed
    )


def _drain(replica: Replica) -> None:
    more = True
    while more:
        _, more = replica.drain(time.time_ns() // 1_000_000)
