"""The writing half of a gateway: the live stream, statements, parcels, and the removal of what nobody needs.

A run of the live stream is one side of a round, recorded: what this node covers and the mailbox does not hold. It begins with
the vectors that its reader must have from other streams, and ends with those that the reader covers then.

When the live stream has grown as large as the parcel, or a reader misses something, the gateway packs a parcel. Runs from before
it stay until every gateway in the mailbox has read them, they are too old, or they take too much room.

Invariant: nothing but this node's two streams is changed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.mailbox.mailbox import Listed
from mycomesh.mesh.mailbox.streams import POSITION_SHIFT, Kind
from mycomesh.mesh.node.courier import Run
from mycomesh.mesh.node.gateway import statement
from mycomesh.mesh.node.gateway.statement import Statement
from mycomesh.mesh.node.recording import readable, record
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.parts import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.node.courier import Courier
    from mycomesh.mesh.node.gateway.ledger import Ledger
    from mycomesh.sync.replica import Replica

__all__ = ["KEEP_BYTES", "KEEP_MS", "LIVE_BYTES", "LIVE_COUNT", "LiveWriter", "Written"]

LIVE_BYTES = 8 << 20  # of live envelopes since the parcel, before a new one: a parcel costs as much as all rows
LIVE_COUNT = 4_096  # live envelopes since the parcel; FAT32 takes some 20,000 names in a directory
KEEP_BYTES = 64 << 20  # of live envelopes from before the parcel, for readers that are behind
KEEP_MS = 7 * 86_400_000  # how long they stay at most, and the age of a live envelope at which a new parcel is packed
PARCEL_MS = 300_000  # between two parcels that readers ask for
VECTORS_BYTES = 256 * 1024  # of vectors in one statement; the other tables come in the next


@dataclass(slots=True)
class Written:
    """Figures of what this gateway has appended since its start."""

    envelopes: int = 0
    size: int = 0
    parcels: int = 0

    def add(self, run: Run) -> None:
        """Count a run."""
        self.envelopes += run.envelopes
        self.size += run.size


class LiveWriter:
    """Writes the two streams of one gateway."""

    def __init__(self, courier: Courier, ledger: Ledger, base: str) -> None:
        self._courier = courier
        self._ledger = ledger
        self._base = base
        self._live: deque[tuple[int, int]] = deque()  # position, bytes: what is in the mailbox
        self._parcel = (0, 0)  # position of the newest own one, its bytes
        self._parcel_due_ms: int | None = None  # a reader misses something
        self._parcel_not_before_ms = 0
        self._used = (
            0  # the highest position that this run of the node has tried: a storage may have put something there
        )
        self._said: dict[str, bytes] = {}  # table -> digest of its vector in the last statement
        self.written = Written()

    @property
    def last(self) -> int:
        """The last position that a reader of the live stream has passed."""
        return max(self._ledger.own, self._live[-1][0] if self._live else 0)

    @property
    def kept(self) -> int:
        """Bytes of this node in the mailbox."""
        return self._parcel[1] + sum(size for _, size in self._live)

    @property
    def needs_parcel(self) -> bool:
        """True if readers could not go on without one, or the live stream is as large."""
        now_ms, wall_ms = self._courier.surroundings.clock()
        position, size = self._parcel
        if self._parcel_due_ms is not None and now_ms >= self._parcel_due_ms:
            return True
        since = [each for each in self._live if each[0] > position]
        return (
            not position
            or len(since) > LIVE_COUNT
            or sum(each for _, each in since) > max(LIVE_BYTES, size)
            or bool(since and wall_ms - (since[0][0] >> POSITION_SHIFT) > KEEP_MS)
        )

    def next_deadline(self) -> int | None:
        """Return when a parcel that a reader asked for may be packed."""
        return self._parcel_due_ms

    def request_parcel(self) -> None:
        """Pack a parcel soon: a reader misses something."""
        now_ms = self._courier.surroundings.clock()[0]
        if self._parcel_due_ms is None:
            self._parcel_due_ms = max(now_ms, self._parcel_not_before_ms)

    # ---- what is there

    async def look(self) -> None:
        """Compare the mailbox with what this node has appended; pack a parcel next if something is missing.

        Raises:
            MailboxError: the mailbox cannot be read.
        """
        courier, keys = self._courier, self._courier.keys()
        parcels = await courier.listed_own(keys.stream_of(courier.roster.own_id))
        live = await courier.listed_own(keys.live_stream_of(courier.roster.own_id))
        here = {each.position for each in live}
        expected = [position for position, _ in self._live if position > self._parcel[0]]
        lost = any(position not in here for position in expected)
        parcel = (parcels[-1].position, sum(each.size for each in parcels)) if parcels else (0, 0)
        if not self._live and self._ledger.own > parcel[0] and self._ledger.own not in here:
            lost = True  # since the last start
        if not parcels and not live:
            self._ledger.forget()
        if lost or parcel[0] < self._parcel[0] or not self._ledger.stated:
            parcel = (0, 0)
        self._live = deque((each.position, each.size) for each in live)
        self._parcel = parcel

    # ---- appending

    async def write(self) -> bool:
        """Append what this node covers and the mailbox does not hold; return whether that was anything.

        Raises:
            MailboxError, NodeError: nothing that a reader takes in was appended; the next call repeats it.
        """
        delta = _Delta(self._courier, self._ledger, self._begin(Kind.LIVE))
        try:
            await record(self._courier.surroundings, self._courier.links, delta.choose, delta.take)
            await delta.run.flush(all_of_it=True)
        finally:
            self._used = max(self._used, delta.run.tried)
        if not delta.run.envelopes:
            return False
        self._on_run(delta.run)
        for table, vector in delta.vectors.items():
            self._ledger.on_stated(table, vector)
        return True

    async def pack(self) -> None:
        """Write a parcel, which replaces the one before.

        Raises:
            MailboxError, NodeError: the parcel before stays.
        """
        packed = await self._courier.export(self._floor())
        if (
            not self._ledger.stated
        ):  # the live stream begins after it, also for those who read it before a loss of the file
            for table, vector in packed.vectors:
                self._ledger.on_stated(table, vector)
            self._ledger.on_own(packed.position)
        self._parcel = (packed.position, packed.size)
        self._parcel_due_ms = None
        self._parcel_not_before_ms = self._courier.surroundings.clock()[0] + PARCEL_MS
        self.written.envelopes += packed.envelopes
        self.written.size += packed.size
        self.written.parcels += 1

    async def state(self, receipts: Mapping[bytes, int], wanted: tuple[bytes, ...]) -> bool:
        """Append a statement; return whether it has the vectors of all tables that have changed, and none wait for the next.

        Raises:
            MailboxError, NodeError: it was not appended.
        """
        surroundings = self._courier.surroundings
        digests, vectors = await surroundings.query(_state_of)
        names, _ = readable(self._courier.roster, [name for name, _, _ in digests])
        run = self._begin(Kind.STATEMENT)
        run.put_bytes(statement.encode(Statement(self._base, tuple(sorted(receipts.items())), wanted)))
        run.put(wire.Digests(tuple(each for each in digests if each[0] in names)))
        size, said = 0, {}
        changed = [(name, digest) for name, digest, _ in digests if name in names and self._said.get(name) != digest]
        for name, digest in changed:
            if size > VECTORS_BYTES:
                break
            for piece in cut(wire.Vectors(((name, vectors[name]),))):
                size += len(wire.encode(piece))
                run.put(piece)
            said[name] = digest
        try:
            await run.flush(all_of_it=True)
        finally:
            self._used = max(self._used, run.tried)
        self._said |= said
        self._on_run(run)
        return len(said) == len(changed)

    def _begin(self, kind: Kind) -> Run:
        return Run(self._courier, kind, self.last or self._parcel[0], self._floor())

    def _floor(self) -> int:
        wall_ms = self._courier.surroundings.clock()[1]
        return max(wall_ms << POSITION_SHIFT, self.last + 1, self._parcel[0] + 1, self._used + 1)

    def _on_run(self, run: Run) -> None:
        self._live += run.appended
        self.written.add(run)
        self._ledger.on_own(run.position)
        keys = self._courier.keys()
        self._ledger.on_passed(keys.live_stream_of(self._courier.roster.own_id), run.position)

    # ---- removal

    async def prune(self, receipts: tuple[int, ...]) -> None:
        """Remove live envelopes from before the parcel that nobody needs. `receipts` are how far the others have read them."""
        keys, wall_ms = self._courier.keys(), self._courier.surroundings.clock()[1]
        stream = keys.live_stream_of(self._courier.roster.own_id)
        passed = min(receipts, default=0)
        size = sum(each for position, each in self._live if position < self._parcel[0])
        while self._live and self._live[0][0] < self._parcel[0]:
            position, each = self._live[0]
            old = wall_ms - (position >> POSITION_SHIFT) > KEEP_MS
            if position > passed and not old and size <= KEEP_BYTES:
                return
            if not await self._courier.remove(Listed(stream, position, each)):
                return
            self._live.popleft()
            size -= each


class _Delta:
    """One run of the live stream under way."""

    def __init__(self, courier: Courier, ledger: Ledger, run: Run) -> None:
        self.run = run
        self.vectors: dict[str, Vector] = {}  # of this node, at the end
        self._courier = courier
        self._ledger = ledger
        self._have: dict[str, Vector] = {}
        self._begun = False

    def choose(self, digests: wire.Digests) -> Mapping[str, Vector]:
        """Return what the mailbox holds of the tables that have changed."""
        names, _ = readable(self._courier.roster, [name for name, _, _ in digests.tables])
        changed = [name for name, digest, _ in digests.tables if name in names and not self._ledger.holds(name, digest)]
        self._have = {name: self._ledger.held(name) for name in changed}
        return self._have

    async def take(self, message: wire.Plan | wire.Chunk | wire.Done) -> None:
        """Add a message of the recording."""
        match message:
            case wire.Plan():
                pass
            case wire.Chunk():
                self._begin()
                self.run.put(message)
                await self.run.flush()
            case wire.Done(vectors, collected):
                news = [(name, _windows(vector, self._have[name])) for name, vector in vectors]
                news = [(name, windows) for name, windows in news if windows.count]
                if not news and not self._begun:
                    return
                self._begin()
                self.vectors = dict(vectors)
                marks = [(name, _watermarks(mark, self._have[name])) for name, mark in collected]
                self.run.put(wire.Done(tuple(news), tuple((name, mark) for name, mark in marks if mark.count)))

    def _begin(self) -> None:
        """Put first what a reader must have from other streams."""
        if self._begun:
            return
        self._begun = True
        needed = [
            (name, _windows(have, self._ledger.stated.get(name, Vector()))) for name, have in sorted(self._have.items())
        ]
        self.run.put(wire.Vectors(tuple((name, windows) for name, windows in needed if windows.count)))


def _windows(vector: Vector, known: Vector) -> Vector:
    """Return what `vector` covers beyond `known`."""
    windows = Vector()
    for site, (after, upto) in vector.missing_from(known):
        windows.add(site, after, upto)
    return windows


def _watermarks(collected: Vector, known: Vector) -> Vector:
    """Return the watermarks that `known` does not cover, each from the start: a watermark has no lower end."""
    return Vector({site: collected.ranges(site) for site, _ in collected.missing_from(known)})


def _state_of(replica: Replica) -> tuple[list[tuple[str, bytes, bytes]], dict[str, Vector]]:
    pairs = replica.digest_pairs(remember=False)
    digests = [(name, vector, entries) for name, (vector, entries) in sorted(pairs.items())]
    return digests, {name: replica.vector(name) for name in pairs}
