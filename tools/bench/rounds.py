"""Measurements of anti-entropy between two replicas in this process: bytes and round trips; and what digests cost.

Owns a pair of exchanges under virtual time and a perfect link that counts. What always holds: both files are equal in the
end, or the measurement fails; the second file is a copy of the first one's, opened by another node; bytes and round trips are
the same in every run of the same code, for sites, clocks and what is lost are.
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
from mycomesh.sync import Exchange, ExchangeConfig, Replica, ReplicaConfig
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
from mycomesh.sync.storage.table import Table, birth_key
from mycomesh.sync.wire import messages as wire
from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError

__all__ = ["healing", "repairing", "upkeep"]

SHARED = {"10k": 10_000, "100k": 100_000, "1m": 1_000_000}
CHANGED = 1_000
DAMAGED = 1_000_000  # rows of the table in which some entries are lost
LOST = (1, 100, 1_000, 10_000)
DRAWS = 3  # of what is lost: a sketch costs what its draw asks for
DELAY_MS = 10
WALL_MS = 1_800_000_000_000
SETTLED_MS = 120_000  # no repair of these sizes needs more virtual time
CHUNK = 50_000
UPKEEPS = 5
KEY = bytes(25)  # as long as the key of a row without one


def healing(quick: bool) -> dict[str, Figure]:
    """Return what equal replicas say to each other, and what a healed split costs beside the rows themselves."""
    found: dict[str, float] = {}
    trips = 0.0
    for name, shared in SHARED.items():
        equal_bytes, ratio, taken = _healed(shared // 10 if quick else shared, CHANGED // 10 if quick else CHANGED)
        found["equal_bytes_per_table"] = max(equal_bytes, found.get("equal_bytes_per_table", 0.0))
        found[f"heal_bytes_ratio_{name}"] = ratio
        trips = max(trips, taken)
    return measured(**found, heal_round_trips=trips)


def upkeep(quick: bool) -> dict[str, Figure]:
    """Return the CPU time that it costs to keep the digests of a table, a changed row of a large batch.

    An update digests two entries: its own, and that of the row's birth, which owns a column less from now on.
    """
    count = CHUNK // 10 if quick else CHUNK
    values = list(map(list, rows(count)))
    encoded = list(map(encode, values))
    hlcs = range(1, count + 1)
    with _pair(0) as pair:
        table = pair.nodes[0].replica.tables["drones"]
        births = [birth_key(table.store.site(0), hlc) for hlc in hlcs]  # the change names its row in any case
        mask = table.columns.captured_mask | EXISTENCE
        altitude = table.columns.mask_of(["altitude"])
        spent: dict[str, list[float]] = {"row": [], "update": []}
        for _ in range(UPKEEPS):
            started = time.process_time()
            digests = table.digests.inserts(0, mask, hlcs, None, encoded)
            spent["row"].append(time.process_time() - started + _summing(table, digests))
            started = time.process_time()
            for hlc, birth, row in zip(hlcs, births, values, strict=True):
                table.digests.entry(0, hlc, mask ^ altitude, birth, row[:4])
            digests = [
                table.digests.entry(0, count + hlc, altitude, KEY, row[:1])
                for hlc, row in zip(hlcs, values, strict=True)
            ]
            spent["update"].append(time.process_time() - started + _summing(table, digests))
    return measured(**{f"digest_us_per_{kind}": min(found) / count * 1e6 for kind, found in spent.items()})


def _summing(table: Table, digests: list[int]) -> float:
    """Return the CPU seconds that a transaction takes to add these to the sums; the log has them not yet then."""
    leaves = [(0, hlc, hlc, EXISTENCE, digest, None) for hlc, digest in enumerate(digests, 1)]
    spent = 0.0
    with contextlib.suppress(_UndoError), table.store.transaction():
        started = time.process_time()
        for leaf in leaves:
            table.log.add(leaf)
        spent = time.process_time() - started
        raise _UndoError
    return spent


def repairing(quick: bool) -> dict[str, Figure]:
    """Return the bytes that find lost entries in a large table, without the rows that have to travel in any case."""
    found: dict[str, float] = {}
    trips = 0.0
    count = DAMAGED // 10 if quick else DAMAGED
    with _pair(count) as pair:
        for lost in LOST:
            draws = [_repaired(pair, min(lost, count // 10), draw) for draw in range(DRAWS)]
            found[f"repair_bytes_d{lost}"] = statistics.median(size for size, _ in draws)
            trips = max(trips, *(taken for _, taken in draws))
    return measured(**found, repair_round_trips=trips)


def _repaired(pair: _Pair, lost: int, draw: int) -> tuple[float, float]:
    """Return the bytes that found some lost entries, and the round trips until the rows arrived."""
    pair.lose(lost, draw)
    pair.link()
    pair.run(SETTLED_MS)
    if not pair.equal:
        raise BenchError(f"{lost} lost entries were not brought back")
    pair.cut()
    kinds = [(at, wire.decode(payload), len(payload)) for at, payload in zip(pair.at, pair.sent, strict=True)]
    told = [(at, size) for at, each, size in kinds if isinstance(each, (wire.TableSketch, wire.RepairRequest))]
    compared = next(size for at, each, size in kinds if isinstance(each, wire.Digests))
    mended = max(at for at, each, _ in kinds if isinstance(each, wire.RepairRows))
    trips = (mended - min(at for at, _ in told)) / (2 * DELAY_MS) + 1
    return compared * 2 + sum(size for _, size in told), trips


def _healed(shared: int, changed: int) -> tuple[float, float, float]:
    """Return bytes a table said by equal replicas, all bytes of a healed split relative to its values, round trips."""
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
    """Ends a transaction that only measures."""


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
        """Whether both replicas hold and cover the same."""
        first, second = (node.replica.digests() for node in self.nodes)
        return first == second

    def link(self) -> None:
        """Connect the two."""
        number = next(self._serial) + 1
        self.at.clear()
        self.sent.clear()
        for place, node in enumerate(self.nodes):
            node.link = number
            self._do(place, LinkOpened(number, _node_id(1 - place)))

    def cut(self) -> None:
        """End the link; what is under way is lost."""
        for place, node in enumerate(self.nodes):
            number, node.link = node.link, 0
            self._do(place, LinkClosed(number))

    def write(self, place: int, count: int) -> Iterator[tuple[object, ...]]:
        """Insert rows at one node and yields them."""
        for row in itertools.islice(rows(count * (place + 2)), count * (place + 1), None):
            self.nodes[place].application.execute(INSERT, row)
            yield row
        self._do(place, CommitSeen())

    def sql(self, place: int, text: str, *values: object) -> None:
        """Changes rows at one node."""
        self.nodes[place].application.execute(text, values)
        self._do(place, CommitSeen())

    def lose(self, count: int, draw: int) -> None:
        """Take entries and their rows out of the second file, at random, behind the replica's back."""
        table = self.nodes[1].replica.tables["drones"]
        listing = "SELECT rowid FROM drones ORDER BY rowid"
        rowids = [rowid for (rowid,) in self.nodes[1].application.execute(listing)]
        with table.store.transaction():
            for number in sorted(random.Random(count + draw).sample(rowids, count)):
                for leaf in table.log.leaves(number):
                    table.log.remove(leaf)
                table.log.flush()
                table.rows.delete(number)

    def run(self, ms: int) -> None:
        """Lets virtual time pass."""
        end = self.now + ms
        while True:
            due = [
                (max(self.now, at), place)
                for place, node in enumerate(self.nodes)
                if (at := node.exchange.next_deadline()) is not None
            ]
            arrives = self._heap[0][0] if self._heap else end + 1
            wakes, place = min(due)
            if min(arrives, wakes) > end:
                self.now = end
                return
            if arrives <= wakes:
                self.now, _, to, payload, link = heapq.heappop(self._heap)
                if link == self.nodes[to].link:
                    self._do(to, MessageReceived(link, payload))
            else:
                self.now = wakes
                self._do(place, TimerFired())

    def _do(self, place: int, event: Event) -> None:
        node = self.nodes[place]
        for action in node.exchange.handle(event, self.now, WALL_MS + self.now):
            match action:
                case Send(link, payload):
                    if link == node.link:
                        self.sent.append(payload)
                        self.at.append(self.now)
                        heapq.heappush(self._heap, (self.now + DELAY_MS, next(self._serial), 1 - place, payload, link))
                case DropLink(_, reason):
                    raise BenchError(f"an honest link was dropped: {reason}")
                case Publish():
                    pass  # what is measured are rounds
                case _:
                    pass


@contextlib.contextmanager
def _pair(count: int) -> Iterator[_Pair]:
    """Two nodes with the same rows, not yet linked."""
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as place:
        first, second = Path(place) / "first.db", Path(place) / "second.db"
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
