"""Benchmark of areas: fleets of several sizes, of one base that keeps everything and drones that keep their own telemetry.

Each fleet runs twice: with the table cut by drone, and kept whole. In both, the base holds BEFORE rows of each drone, which the
drones fetch; then nobody writes for a while; then each drone writes its own rows. Nodes choose their links over loopback
themselves. The bytes are those that `status` counts on all links of a node, a lower bound where links have ended between looks.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mycomesh.sync.codec import encode
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import connect, memory_mb
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["Cost", "areas"]

FLEETS = (5, 10, 20)  # drones of each run; the figures compare the last with the first
BEFORE = 2_000  # rows of each drone at the base before the drones start
RATE = 2  # rows a second of each drone
WRITING_S = 20.0
IDLE_S = 30.0  # two comparisons of each link
SETTLE_S = 12.0  # by then a node has trimmed its memory (mesh.node.idle_trim)
WAIT_S_MAX = 240.0
LOOK_S = 0.2
AT_ONCE = 4  # commands that run side by side
_CREATE = "CREATE TABLE telemetry(drone_id TEXT, at INTEGER, latitude REAL, longitude REAL, altitude REAL, raw BLOB)"
_INSERT = "INSERT INTO telemetry VALUES(?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one fleet, each the median of its drones: MB, and bytes received or bytes received a second."""

    file_mb: float
    rss_mb: float
    fetched: float
    idle: float
    writing: float
    links: float


def areas(quick: bool) -> dict[str, Figure]:
    """Return the cost of a drone in the largest fleet beside the smallest, and beside the same fleet without areas."""
    scale = 10 if quick else 1
    sizes = (FLEETS[0], FLEETS[-1]) if quick else FLEETS
    own = {count: _fleet(count, scale, cut=True) for count in sizes}
    whole = {count: _fleet(count, scale, cut=False) for count in sizes}
    small, large = own[sizes[0]], own[sizes[-1]]
    concerns = sum(len(encode(row)) for row in _rows(_name(1), BEFORE // scale))
    return measured(
        area_bytes_ratio=large.fetched / concerns,
        area_file_growth=large.file_mb / small.file_mb,
        area_rss_growth=large.rss_mb / small.rss_mb,
        area_fetched_growth=large.fetched / small.fetched,
        area_idle_bytes_per_s=large.idle,
        area_writing_bytes_per_s=large.writing,
        area_whole_bytes_ratio=whole[sizes[-1]].fetched / large.fetched,
        area_whole_file_ratio=whole[sizes[-1]].file_mb / large.file_mb,
    )


def _fleet(count: int, scale: int, *, cut: bool) -> Cost:
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        base = NodeProcess.within(Path(directory), "base")
        drones = [NodeProcess.within(Path(directory), _name(number)) for number in range(1, count + 1)]
        with ending((base, *drones)):
            _start(base, drones, BEFORE // scale, cut=cut)
            cost = _measure(base, drones, BEFORE // scale, scale, cut=cut)
    print(f"areas: {count} drones, {'own rows' if cut else 'all rows'}: {_told(cost)}", file=sys.stderr, flush=True)
    return cost


def _told(cost: Cost) -> str:
    return (
        f"file {cost.file_mb:.2f} MB, RSS {cost.rss_mb:.1f} MB, {cost.links:.0f} links; received {cost.fetched:,.0f} bytes"
        f" at first, {cost.idle:,.0f} a second at rest, {cost.writing:,.0f} a second while each drone writes"
    )


def _start(base: NodeProcess, drones: list[NodeProcess], before: int, *, cut: bool) -> None:
    """Fill the base, and start the drones, which wait for their rows."""
    base.run("init", "--name", "bench", "--node-name", "base")
    base.up("--no-multicast", "--port", "0")
    _until(lambda: base.serving, "base")
    with contextlib.closing(connect(base.file)) as db:
        db.execute(_CREATE)
        if cut:
            _until(lambda: "telemetry" in base.hashes, "table")
            base.run("area", "telemetry", "BY", "drone_id")
        for drone in drones:
            with _transaction(db):
                db.executemany(_INSERT, _rows(drone.name, before))
    _until(lambda: "telemetry" in base.hashes, "drain")
    here = ("--no-multicast", "--port", "0", "--peer", f"127.0.0.1:{base.status()['port']}")
    code = base.run("invite", "--uses", str(len(drones)))
    keep = ("--keep", "telemetry=self") if cut else ()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda drone: drone.run("join", code, *here, "--node-name", drone.name), drones))
    for drone in drones:
        drone.up(*here, *keep)
    _until(lambda: all(drone.serving for drone in drones), "drones")


def _measure(base: NodeProcess, drones: list[NodeProcess], before: int, scale: int, *, cut: bool) -> Cost:
    fleet = 1 if cut else len(drones)  # whose rows a drone has
    meter = _Meter(drones)
    _until(lambda: bool(meter.read()) and _have(drones, fleet * before), "rows at the drones")
    time.sleep(SETTLE_S / scale)
    fetched = meter.read()
    time.sleep(IDLE_S / scale)
    rested = meter.read()
    started = time.monotonic()
    written = _write(drones, WRITING_S / scale)
    _until(lambda: _have([base], len(drones) * (before + written)), "rows at the base")
    _until(lambda: bool(meter.read()) and _have(drones, fleet * (before + written)), "rows at the drones")
    spent_s, after = time.monotonic() - started, meter.read()
    time.sleep(SETTLE_S / scale)
    pids = [drone.process.pid for drone in drones if drone.process is not None]
    return Cost(
        file_mb=statistics.median(map(_file_mb, drones)),
        rss_mb=statistics.median(memory_mb(pid, "VmRSS") for pid in pids),
        fetched=statistics.median(fetched),
        idle=_median_rate(fetched, rested, IDLE_S / scale),
        writing=_median_rate(rested, after, spent_s),
        links=statistics.median(drone.linked for drone in drones),
    )


def _have(nodes: list[NodeProcess], count: int) -> bool:
    return all(_count(node) == count for node in nodes)


def _median_rate(early: list[int], late: list[int], seconds: float) -> float:
    return statistics.median(now - then for then, now in zip(early, late, strict=True)) / seconds


def _write(drones: list[NodeProcess], seconds: float) -> int:
    """Write RATE rows a second on each drone as a stock client of its file; return the rows of each."""
    steps = max(1, round(seconds * RATE))
    with contextlib.ExitStack() as stack:
        clients = [(drone.name, stack.enter_context(contextlib.closing(connect(drone.file)))) for drone in drones]
        started = time.monotonic()
        for step in range(steps):
            for name, db in clients:
                db.executemany(_INSERT, _rows(name, 1, BEFORE + step))
            time.sleep(max(0.0, started + (step + 1) / RATE - time.monotonic()))
    return steps


class _Meter:
    """Adds up the bytes that each drone receives, also over links that end, without what came after the last look."""

    def __init__(self, drones: list[NodeProcess]) -> None:
        self._drones = drones
        self._seen: list[dict[str, int]] = [{} for _ in drones]
        self._sums = [0 for _ in drones]

    def read(self) -> list[int]:
        """Return the bytes of each drone so far."""
        for number, drone in enumerate(self._drones):
            peers = {peer["node_id"]: peer["received_bytes"] for peer in drone.status().get("peers", ())}
            before = self._seen[number]
            for peer, count in peers.items():
                then = before.get(peer, 0)
                self._sums[number] += count - then if count >= then else count
            self._seen[number] = peers
        return list(self._sums)


def _file_mb(drone: NodeProcess) -> float:
    with contextlib.closing(connect(drone.file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return drone.file.stat().st_size / 1e6


def _count(drone: NodeProcess) -> int:
    with contextlib.closing(connect(drone.file)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'telemetry'").fetchone():
            return 0
        return int(db.execute("SELECT count(*) FROM telemetry").fetchone()[0])


def _name(number: int) -> str:
    return f"drone{number:02}"


def _rows(name: str, count: int, first: int = 0) -> list[list[Any]]:
    """Return rows of about a hundred bytes of one drone, the same in each run."""
    chance = random.Random(f"{name} {first}")
    return [
        [
            name,
            1_700_000_000 + second,
            40 + chance.random(),
            -74 + chance.random(),
            500 * chance.random(),
            chance.randbytes(48),
        ]
        for second in range(first, first + count)
    ]


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    yield
    db.execute("COMMIT")


def _until(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)
