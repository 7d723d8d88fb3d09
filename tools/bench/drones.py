"""Benchmark of what a drone receives: simulated fleets of one base that keeps all telemetry and drones that keep their own.

The base holds ROWS rows of each drone before the drones start, and each drone fetches its own. Then nobody writes for a while,
then each drone writes. The bytes are those of all streams to a drone, with handshakes and frames. Virtual time makes them the
same on each machine, where a loaded one adds heartbeats for as long as it starts nodes.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mycomesh.simulations.cluster import Cluster
from mycomesh.simulations.members import member
from mycomesh.simulations.network import Conditions, Network
from mycomesh.simulations.scenario import Scenario
from mycomesh.simulations.shared import computed_once
from mycomesh.simulations.workload import CUT, Rates
from mycomesh.simulations.world import SECOND, World
from mycomesh.sync.codec import encode
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError

__all__ = ["Fleet", "drones"]

FLEETS = {5: 5, 10: 10, 20: 20, 40: 40}  # drones of each by the name of its figures: tests have fewer
ROWS = 2_000
RATE = 2  # rows a second of each drone, while they write
STARTS_S = 2.0  # drones start within
SETTLED_S = 20  # after all have their rows
IDLE_S = 60
WRITING_S = 20
WAIT_S_MAX = 120
SEED = 1
KINDS_SHOWN = 12
_CREATE = f"CREATE TABLE {CUT}(drone_id TEXT, latitude REAL, longitude REAL, altitude REAL, timestamp)"
_INSERT = f"INSERT INTO {CUT}(drone_id, latitude, longitude, altitude, timestamp) VALUES (?, ?, ?, ?, ?)"


def drones(quick: bool) -> dict[str, Figure]:
    """Return what a drone receives beside its own rows, in fleets of several sizes."""
    found: dict[str, float] = {}
    for name, count in list(FLEETS.items())[: 2 if quick else None]:
        fleet = Fleet(count, ROWS // 10 if quick else ROWS)
        found[f"drones_{name}_ratio"], found[f"drones_{name}_idle"], found[f"drones_{name}_writing"] = fleet.run()
        print(f"drones: {fleet.told}", file=sys.stderr, flush=True)
    return measured(**found)


class Fleet:
    """One simulated fleet: node 0 is the base."""

    def __init__(self, count: int, rows: int) -> None:
        self.told = ""
        self._count = count
        self._rows = rows
        self._world = World(SEED)
        self._network = Network(self._world, Conditions())

    def run(self) -> tuple[float, float, float]:
        """Return how many times the bytes of its rows a drone receives, and the bytes a second at rest and while all write."""
        nodes = self._count + 1
        keeps = (None, *((str(index),) for index in range(1, nodes)))
        absent = tuple(range(1, nodes))
        nothing = Rates().scaled(0.0)
        scenario = Scenario("drones", nodes, 60, nothing, absent=absent, tables_at=nodes, keeps=keeps, areas=nodes)
        members = tuple(member(index, "real") for index in range(nodes))
        with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory, computed_once():
            cluster = Cluster(self._world, self._network, members, scenario, Path(directory))
            try:
                return self._measure(cluster)
            finally:
                cluster.close()

    def _measure(self, cluster: Cluster) -> tuple[float, float, float]:
        cluster.start(0)
        cluster.hosts[0].application.db.execute(_CREATE)
        cluster.shell(0).on_commit()
        self._run(1)
        cluster.shell(0).replica.decisions.decide_area(CUT, "drone_id")
        cluster.shell(0).on_commit()
        self._run(1)
        for index in range(1, self._count + 1):
            cluster.hosts[0].application.db.execute("BEGIN")
            cluster.hosts[0].application.db.executemany(_INSERT, _rows(index, self._rows))
            cluster.hosts[0].application.db.execute("COMMIT")
        cluster.shell(0).on_commit()
        self._run(5)
        starts = self._world.stream("starts")
        for index in range(1, self._count + 1):
            self._world.after(starts.randrange(int(STARTS_S * SECOND)), cluster.start, index)
        self._run(STARTS_S)
        self._until(lambda: all(_count(cluster, index) == self._rows for index in range(1, self._count + 1)))
        fetched_s = self._world.now_us / SECOND
        self._run(SETTLED_S)
        concerns = statistics.median(
            sum(len(encode(list(row))) for row in _rows(index, self._rows)) for index in range(1, self._count + 1)
        )
        first, kinds = self._received(), self._kinds(cluster)
        self._run(IDLE_S)
        rested = self._received()
        self._write(cluster)
        self._run(SETTLED_S)
        written = self._received()
        ratio = statistics.median(first) / concerns
        idle = statistics.median(now - then for now, then in zip(rested, first, strict=True)) / IDLE_S
        writing = statistics.median(now - then for now, then in zip(written, rested, strict=True))
        spent_s = WRITING_S + SETTLED_S
        shown = ", ".join(f"{name} {bytes_:,.0f}" for name, bytes_ in kinds.most_common(KINDS_SHOWN))
        self.told = (
            f"{self._count} drones: received {statistics.median(first):,.0f} bytes, {ratio:.2f} times its {concerns:,.0f} of rows"
            f" (equal after {fetched_s:.1f} s), {idle:.0f} a second at rest, {writing / spent_s:.0f} while each writes"
            f" {RATE} rows a second; mean by kind: {shown}"
        )
        return ratio, idle, writing / spent_s

    def _write(self, cluster: Cluster) -> None:
        for step in range(WRITING_S * RATE):
            for index in range(1, self._count + 1):
                cluster.hosts[index].application.db.executemany(_INSERT, _rows(index, 1, self._rows + step))
                cluster.shell(index).on_commit()
            self._run(1 / RATE)

    def _run(self, seconds: float) -> None:
        self._world.run_until(self._world.now_us + int(seconds * SECOND))

    def _until(self, check: object) -> None:
        assert callable(check)
        end = self._world.now_us + WAIT_S_MAX * SECOND
        while not check():
            if self._world.now_us > end:
                raise BenchError(f"the drones of a simulated fleet of {self._count} lack rows after {WAIT_S_MAX} s")
            self._run(0.25)

    def _received(self) -> list[int]:
        return [self._network.received[index] for index in range(1, self._count + 1)]

    def _kinds(self, cluster: Cluster) -> Counter[str]:
        """Return the mean bytes of each kind of message that a drone has received."""
        found: Counter[str] = Counter()
        for index in range(1, self._count + 1):
            found.update(cluster.shell(index).received())
        return Counter({name: bytes_ // self._count for name, bytes_ in found.items()})


def _count(cluster: Cluster, index: int) -> int:
    db = cluster.hosts[index].application.db
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (CUT,)).fetchone():
        return 0
    ((count,),) = db.execute(f"SELECT count(*) FROM {CUT}")
    return int(count)


def _rows(index: int, count: int, first: int = 0) -> list[tuple[object, ...]]:
    """Return rows of about ninety bytes of one drone, the same in each run."""
    chance = random.Random(f"drone {index} {first}")
    return [
        (str(index), 40 + chance.random(), -74 + chance.random(), 500 * chance.random(), chance.randbytes(52))
        for _ in range(count)
    ]
