"""Benchmarks of the change feed: changes a second into Python, beside polling a table, and the time from a commit to a reader."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apsw

from mycomesh.sync.feed.reader import Page
from mycomesh.sync.replica import Replica, ReplicaConfig
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError

__all__ = ["feed"]

ROWS = 1_000_000
CHANGED = 1_000
WRITES = 300
ROUNDS = 5
PAUSE_S = 0.01
WAIT_S_MAX = 60
_CREATE = "CREATE TABLE drones(id INTEGER PRIMARY KEY, name TEXT, latitude REAL, longitude REAL, at INTEGER)"
_FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    " INSERT INTO drones SELECT i, 'drone ' || (i % 50), 40.7, -74.0, 0 FROM n"
)
# A program that embeds a node and prints how long ago each row that it gets was written: the row holds that moment.
_READER = """
import asyncio, sys, time, mesh

async def main():
    config = mesh.NodeConfig(port=0, multicast=False)
    async with mesh.open(sys.argv[1], home=sys.argv[2], config=config) as node:
        await node.execute(sys.argv[3])
        async for change in node.changes("drones", cursor="bench"):
            now = time.monotonic_ns()
            print(now - change.values["at"], flush=True)
            await change.done()

asyncio.run(main())
"""


def feed(quick: bool) -> dict[str, Figure]:
    """Return the figures of the change feed."""
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        per_s, ratio = _reading(Path(directory), ROWS // scale, CHANGED)
        delays = sorted(_delays_ms(Path(directory), WRITES // scale))
    return measured(
        feed_changes_per_s=per_s,
        feed_polling_ratio=ratio,
        feed_latency_p50_ms=statistics.median(delays),
        feed_latency_p99_ms=delays[len(delays) * 99 // 100],
    )


def _reading(folder: Path, count: int, changed: int) -> tuple[float, float]:
    """Return changes a second of CPU, and the CPU of polling over that of the feed for a few changes of many rows."""
    path = folder / "feed.db"
    app = apsw.Connection(str(path))
    app.execute(_CREATE)
    app.execute(_FILL.format(count))
    replica = Replica.open(
        str(path), node_id=bytes([1]) * 16, mesh_key=bytes(32), entropy=os.urandom, config=ReplicaConfig()
    )
    try:
        _drain(replica)
        replica.feed.create("bench", "drones", _wall_ms())
        started = time.process_time()
        read = _read_all(replica)
        per_s = read / (time.process_time() - started)
        if read != count:
            raise BenchError(f"the feed had {read} of {count} changes")
        ratios = []
        for number in range(1, ROUNDS + 1):
            app.execute("UPDATE drones SET at = ? WHERE id % ? = 0", (number, count // changed))
            _drain(replica)
            started = time.process_time()
            found = app.execute("SELECT * FROM drones WHERE at > ?", (number - 1,)).fetchall()
            polled_s = time.process_time() - started
            started = time.process_time()
            read = _read_all(replica)
            ratios.append(polled_s / (time.process_time() - started))
            if read != len(found):
                raise BenchError(f"the feed had {read} of {len(found)} changes")
    finally:
        replica.close()
        app.close()
    return per_s, statistics.median(ratios)


def _read_all(replica: Replica) -> int:
    """Read to the end with one acknowledgement for each page; return how many changes there were."""
    count, page = 0, None
    while page is None or page.more:
        page = _page(replica)
        count += len(page.changes)
        replica.feed.move("bench", "drones", page.position, _wall_ms())
    return count


def _page(replica: Replica) -> Page:
    page, _ = replica.feed.read("drones", lambda: replica.feed.position("bench", "drones"), _wall_ms())
    return page


def _drain(replica: Replica) -> None:
    more = True
    while more:
        _, more = replica.drain(_wall_ms())


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _delays_ms(folder: Path, count: int) -> list[float]:
    """Return milliseconds from just before each commit of another program to its change in a reader's hands."""
    home, path = folder / "home", folder / "latency.db"
    run = [sys.executable, "-m", "mycomesh.tools", "--home", str(home)]
    subprocess.run([*run, "init"], check=True, capture_output=True)  # noqa: S603 - our own command
    command = [sys.executable, "-c", _READER, str(path), str(home), _CREATE]
    delays: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:  # noqa: S603 - our own program
        try:
            assert reader.stdout is not None
            app = _opened(path)
            for number in range(count):
                app.execute("INSERT INTO drones VALUES(?, 'a', 1, 2, ?)", (number, time.monotonic_ns()))
                line = reader.stdout.readline()
                if not line:
                    raise BenchError("the reader ended")
                delays.append(int(line) / 1e6)
                time.sleep(PAUSE_S)
            app.close()
        finally:
            reader.terminate()
    return delays


def _opened(path: Path) -> apsw.Connection:
    """Return a connection to the reader's file, once that has its table and the triggers."""
    end = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end:
        if path.exists():
            app = apsw.Connection(str(path))
            app.set_busy_timeout(5_000)
            listing = "SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_cursors'"
            if app.execute(listing).fetchone() is not None:
                return app
            app.close()
        time.sleep(0.05)
    raise BenchError(f"the reader did not begin within {WAIT_S_MAX} s")
