"""Benchmarks of anti-entropy between two replicas in this process: bytes and round trips, and the CPU cost of digests.

Two exchanges run in virtual time over a perfect link that counts bytes. The second file is a copy of the first, opened by
another node. If the files are not equal at the end, the benchmark fails. Sites, clocks and lost entries are fixed, so that bytes
and round trips are the same in every run of the same code.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from mycomesh.simulations.workload import set_clock
from mycomesh.sync.codec import encode
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.events import (
    CommitSeen,
    DropLink,
    Event,
    LinkClosed,
    LinkOpened,
    MessageReceived,
    Publish,
    Send,
    TimerFired,
)
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig
from mycomesh.sync.replica import Replica, ReplicaConfig
from mycomesh.sync.storage.row_batch import encode_cells
from mycomesh.sync.storage.table import Table, insert_key
from mycomesh.sync.wire import messages as wire
from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError

__all__ = ["healing", "repairing", "upkeep"]

SHARED = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
CHANGED = 1_000
DAMAGED = 1_000_000  # rows of the table that loses entries
LOST = (1, 100, 1_000, 10_000)
DRAWS = 3  # random choices of lost entries; the size of a sketch depends on them
DELAY_MS = 10
WALL_MS = 1_800_000_000_000
SETTLED_MS = 120_000  # no repair of these sizes takes longer in virtual time
CHUNK = 50_000
UPKEEPS = 5
KEY = bytes(25)  # as long as a row key in a keyless table


def healing(quick: bool) -> dict[str, Figure]:
    """Return the bytes between equal replicas, and those of a healed split relative to its new values."""
    found: dict[str, float] = {}
    trips = 0.0
    for name, shared in SHARED.items():
        equal_bytes, ratio, round_trips = _heal(shared // 10 if quick else shared, CHANGED // 10 if quick else CHANGED)
        found["equal_bytes_per_table"] = max(equal_bytes, found.get("equal_bytes_per_table", 0.0))
        found[f"heal_bytes_ratio_{name}"] = ratio
        trips = max(trips, round_trips)
    return measured(**found, heal_round_trips=trips)


def upkeep(quick: bool) -> dict[str, Figure]:
    """Return the CPU time of keeping a table's digests, for each changed row of a large batch.

    An update digests two entries: its own, and the entry of the row's insert, which then owns one column less.
    """
    count = CHUNK // 10 if quick else CHUNK
    values = list(map(list, rows(count)))
    encoded = list(map(encode, values))
    hlcs = range(1, count + 1)
    with _pair(0) as pair:
        table = pair.nodes[0].replica.tables["drones"]
        inserts = [insert_key(table.store.site(0), hlc) for hlc in hlcs]  # the change contains its row key anyway
        mask = table.columns.captured_mask | EXISTENCE
        altitude = table.columns.mask_of(["altitude"])
        spent: dict[str, list[float]] = {"row": [], "update": []}
        for _ in range(UPKEEPS):
            started = time.process_time()
            digests = table.digests.many(0, mask, hlcs, None, encoded)
            spent["row"].append(time.process_time() - started + _time_sums(table, digests))
            started = time.process_time()
            table.digests.many(0, mask ^ altitude, hlcs, inserts, encode_cells(4, [row[:4] for row in values]))
            later = [count + hlc for hlc in hlcs]
            digests = table.digests.many(
                0, altitude, later, [KEY] * count, encode_cells(1, [row[:1] for row in values])
            )
            spent["update"].append(time.process_time() - started + _time_sums(table, digests))
    return measured(**{f"digest_us_per_{kind}": min(found) / count * 1e6 for kind, found in spent.items()})


def _time_sums(table: Table, digests: list[int]) -> float:
    """Return the CPU seconds that a transaction needs to add these digests to the sums, without writing the log."""
    entries = [(0, hlc, hlc, EXISTENCE, digest, None) for hlc, digest in enumerate(digests, 1)]
    spent = 0.0
    with contextlib.suppress(_UndoError), table.store.transaction():
        started = time.process_time()
        for entry in entries:
            table.log.add(entry)
        spent = time.process_time() - started
        raise _UndoError
    return spent


def repairing(quick: bool) -> dict[str, Figure]:
    """Return the bytes needed to find lost entries in a large table, without the rows, which must be sent anyway."""
    found: dict[str, float] = {}
    trips = 0.0
    count = DAMAGED // 10 if quick else DAMAGED
    with _pair(count) as pair:
        for lost in LOST:
            draws = [_repair(pair, min(lost, count // 10), draw) for draw in range(DRAWS)]
            found[f"repair_bytes_d{lost}"] = statistics.median(size for size, _ in draws)
            trips = max(trips, *(round_trips for _, round_trips in draws))
    return measured(**found, repair_round_trips=trips)


def _repair(pair: _Pair, lost: int, draw: int) -> tuple[float, float]:
    """Lose and repair some entries; return the bytes that found them, and the round trips until the rows arrived."""
    pair.lose(lost, draw)
    pair.link()
    pair.run(SETTLED_MS)
    if not pair.equal:
        raise BenchError(f"{lost} lost entries were not repaired")
    pair.cut()
    kinds = [(at, wire.decode(payload), len(payload)) for at, payload in zip(pair.at, pair.sent, strict=True)]
    asked = [(at, size) for at, each, size in kinds if isinstance(each, (wire.TableSketch, wire.RepairRequest))]
    compared = next(size for at, each, size in kinds if isinstance(each, wire.Digests))
    arrived = max(at for at, each, _ in kinds if isinstance(each, wire.RepairRows))
    trips = (arrived - min(at for at, _ in asked)) / (2 * DELAY_MS) + 1
    return compared * 2 + sum(size for _, size in asked), trips


def _heal(shared: int, changed: int) -> tuple[float, float, float]:
    """Return the bytes per table between equal replicas, the bytes of a healed split relative to its values, and round trips."""
    with _pair(shared) as pair:
        pair.link()
        pair.run(200)
        equal_bytes = max(map(len, pair.sent)) / len(pair.nodes[0].replica.tables)
        if not pair.equal or len(pair.sent) != 2:
            raise BenchError("equal replicas did more than compare")
        pair.cut()
        new = [list(pair.write(number, changed)) for number in range(2)]
        updated = [[number, 9.25] for number in range(1, changed + 1)]
        pair.sql(0, "UPDATE drones SET altitude = 9.25 WHERE rowid <= ?", changed)
        pair.link()
        started = pair.now
        while not pair.equal:
            pair.run(1)
            if pair.now > started + SETTLED_MS:
                raise BenchError("a split of two does not heal")
        trips = (pair.now - started) / (2 * DELAY_MS)
        total = sum(map(len, pair.sent))
    return equal_bytes, total / len(encode([*new[0], *new[1], *updated])), trips


class _UndoError(Exception):
    """Rolls back a transaction that only measures."""


# ---- two exchanges and one link


@dataclass(slots=True)
class _Node:
    replica: Replica
    exchange: Exchange
    application: apsw.Connection
    link: int = 0
    wake_at: int | None = None


@dataclass(slots=True)
class _Pair:
    nodes: list[_Node]
    now: int = 1_000
    sent: list[bytes] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    _heap: list[tuple[int, int, int, bytes, int]] = field(default_factory=list)  # when, serial, to, payload, link
    _serial: Iterator[int] = field(default_factory=itertools.count)

    @property
    def equal(self) -> bool:
        """Whether both replicas have the same contents and coverage."""
        first, second = (node.replica.digests() for node in self.nodes)
        return first == second

    def link(self) -> None:
        """Connect the two."""
        number = next(self._serial) + 1
        self.at.clear()
        self.sent.clear()
        for side, node in enumerate(self.nodes):
            node.link = number
            self._do(side, LinkOpened(number, _node_id(1 - side)))

    def cut(self) -> None:
        """End the link; messages on the way are lost."""
        for side, node in enumerate(self.nodes):
            number, node.link = node.link, 0
            self._do(side, LinkClosed(number))

    def write(self, side: int, count: int) -> Iterator[tuple[object, ...]]:
        """Insert rows at one node, and yield them."""
        for row in itertools.islice(rows(count * (side + 2)), count * (side + 1), None):
            self.nodes[side].application.execute(INSERT, row)
            yield row
        self._do(side, CommitSeen())

    def sql(self, side: int, text: str, *values: object) -> None:
        """Change rows at one node."""
        self.nodes[side].application.execute(text, values)
        self._do(side, CommitSeen())

    def lose(self, count: int, draw: int) -> None:
        """Remove random entries and their rows from the second file behind the replica's back."""
        table = self.nodes[1].replica.tables["drones"]
        listing = "SELECT rowid FROM drones ORDER BY rowid"
        rowids = [rowid for (rowid,) in self.nodes[1].application.execute(listing)]
        with table.store.transaction():
            for number in sorted(random.Random(count + draw).sample(rowids, count)):
                for entry in table.log.entries_of_row(number):
                    table.log.remove(entry)
                table.log.flush()
                table.rows.delete(number)

    def run(self, ms: int) -> None:
        """Let virtual time pass."""
        end = self.now + ms
        while True:
            due = [
                (max(self.now, at), side)
                for side, node in enumerate(self.nodes)
                if (at := node.exchange.next_deadline()) is not None
            ]
            arrives = self._heap[0][0] if self._heap else end + 1
            wakes, side = min(due)
            if min(arrives, wakes) > end:
                self.now = end
                return
            if arrives <= wakes:
                self.now, _, to, payload, link = heapq.heappop(self._heap)
                if link == self.nodes[to].link:
                    self._do(to, MessageReceived(link, payload))
            else:
                self.now = wakes
                self._do(side, TimerFired())

    def _do(self, side: int, event: Event) -> None:
        node = self.nodes[side]
        for action in node.exchange.handle(event, self.now, WALL_MS + self.now):
            match action:
                case Send(link, payload):
                    if link == node.link:
                        self.sent.append(payload)
                        self.at.append(self.now)
                        heapq.heappush(self._heap, (self.now + DELAY_MS, next(self._serial), 1 - side, payload, link))
                case DropLink(_, reason):
                    raise BenchError(f"the link was dropped: {reason}")
                case Publish():
                    pass  # this benchmark measures rounds, not live batches
                case _:
                    pass


@contextlib.contextmanager
def _pair(count: int) -> Iterator[_Pair]:
    """Yield two nodes with the same rows and without a link."""
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        first, second = Path(directory) / "first.db", Path(directory) / "second.db"
        made = _node(first, 0)
        made.application.execute(CREATE)
        source = iter(rows(count))
        while part := list(itertools.islice(source, CHUNK)):
            made.application.execute("BEGIN")
            made.application.executemany(INSERT, part)
            made.application.execute("COMMIT")
        while made.replica.drain(WALL_MS)[1]:
            pass
        made.application.close()
        made.replica.close()
        shutil.copy(first, second)
        nodes = [_node(first, 0), _node(second, 1)]
        try:
            yield _Pair(nodes)
        finally:
            for node in nodes:
                node.application.close()
                node.replica.close()


def _node(path: Path, number: int) -> _Node:
    replica = Replica.open(
        str(path),
        node_id=_node_id(number),
        mesh_key=bytes(32),
        entropy=random.Random(number).randbytes,
        config=ReplicaConfig(),
    )
    exchange = Exchange(replica, rng=random.Random(number), config=ExchangeConfig())
    application = apsw.Connection(str(path))
    set_clock(application, lambda: WALL_MS)
    return _Node(replica, exchange, application)


def _node_id(number: int) -> bytes:
    return bytes([number + 1]) * 16
