"""A gateway: carries a base's changes to a mailbox as they happen, and takes in those of others.

Two loops share a ledger. One appends what the file's commits have changed; the other reads when the storage reports news, and now
and then. A storage that fails lets them wait, and changes nothing else in the node.

Several gateways of one base need no election. Each appends what the mailbox lacks. One that finds that another with a lower node
id appends the same changes leaves them to it (`mesh.node.gateway.deputy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.events import Notice
from mycomesh.mesh.mailbox.mailbox import MailboxError
from mycomesh.mesh.mailbox.streams import POSITION_SHIFT
from mycomesh.mesh.node.courier import Courier
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.gateway.clocks import clock_line
from mycomesh.mesh.node.gateway.deputy import Deputy
from mycomesh.mesh.node.gateway.ledger import Ledger
from mycomesh.mesh.node.gateway.reader import LiveReader
from mycomesh.mesh.node.gateway.writer import LiveWriter
from mycomesh.mesh.node.status import MailboxView, StreamView
from mycomesh.mesh.node.surroundings import Signal
from mycomesh.sync.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mycomesh.mesh.node.gateway.reader import Stream

__all__ = ["Gateway", "Place"]

GATHER_MS = 20  # after the first commit of a burst
BESIDE_MS = 1_000  # between two times that a deputy compares what it has with the mailbox
BESIDE_KEPT_MS = 60_000  # how long a gateway counts as one of this base after its last copy
STATE_MS = 300_000  # between two statements while something changes; an idle gateway says nothing
CLOCK_MS = 3_600_000  # between two looks at the storage's clock, each of which writes something small
CLOCK_AGAIN_MS = 600_000  # after a look that failed
STORE_MS = 5_000  # between two writes of the ledger
LOOK_REST = 9  # times the CPU of a look: a storage that tells without end, or lists much, takes a tenth of a core
RETRY_MS = (1_000, 2_000, 5_000, 15_000)  # after the storage has failed
AWAY_MS = 3_000  # a failure that lasts so long is reported
NEVER_MS = 3_600_000
STREAMS_SHOWN_MAX = 16  # streams of no known member in a status
BEHIND_SHOWN_MAX = 64  # tables or areas of one stream in a status: a table may have thousands of areas


@dataclass(frozen=True, slots=True)
class Place:
    """Which mailbox, as its URL, and the name of this base, "" for none."""

    url: str
    base: str = ""


@dataclass(slots=True)
class _Trouble:
    """Why the mailbox or the file cannot be used, and since when."""

    text: str = ""
    since_ms: int = 0
    failures: int = 0
    reported: bool = False


class Gateway:
    """One gateway. `write_forever` and `read_forever` are to be run side by side."""

    def __init__(self, courier: Courier, place: Place, notify: Callable[[Notice], None]) -> None:
        self._courier = courier
        self._place = place
        self._notify = notify
        self._ledger = Ledger(place.url)
        self._writer = LiveWriter(courier, self._ledger, place.base)
        self._reader = LiveReader(courier, self._ledger)
        self._deputy = Deputy(courier, self._ledger)
        self._dirty = Signal()  # the file has changed, or the reader needs a statement
        self._news = Signal()  # the mailbox has changed
        self._loaded = False
        self._troubles = {"write": _Trouble(), "read": _Trouble()}
        self._changed_since = False  # runs were appended since the last statement
        self._times = {"write": 0, "state": 0, "store": 0}
        self._clock_due_ms = 0
        self._offset_ms: int | None = None  # of the storage's clock

    def on_commit(self) -> None:
        """Append soon: the file has changed."""
        self._dirty.set()

    def on_news(self) -> None:
        """Read soon: the mailbox has changed."""
        self._news.set()

    # ---- the loops

    async def write_forever(self) -> None:
        """Append what changes, state what this node has, and remove what nobody needs."""
        while True:
            wait_ms = await self._guarded("write", self._write_once)
            await self._compare_clocks_if_due()
            await self._courier.surroundings.wait(self._dirty, max(1, wait_ms))
            if self._loaded and not self._troubles["write"].text:
                await self._pause()

    async def read_forever(self) -> None:
        """Read what others append."""
        while True:
            before_ms = self._courier.surroundings.storage_ms()
            wait_ms = await self._guarded("read", self._read_once)
            await self._rest(LOOK_REST * (self._courier.surroundings.storage_ms() - before_ms))
            await self._courier.surroundings.wait(self._news, max(1, wait_ms))

    async def _guarded(self, loop: str, step: Callable[[], Awaitable[int]]) -> int:
        """Take a step; return in how many milliseconds the next is due. A storage or a file that fails is tried again."""
        now_ms = self._courier.surroundings.clock()[0]
        try:
            wait_ms = await step()
        except (MeshError, NodeError, SyncError) as error:
            trouble = self._troubles[loop]
            if not trouble.text:
                trouble.since_ms = now_ms
            trouble.text = str(error)
            trouble.failures += 1
            if not trouble.reported and now_ms >= trouble.since_ms + AWAY_MS:
                trouble.reported = True
                text = f"the mailbox waits: {error}"
                self._notify(Notice("mailbox.away", text, {"mailbox": self._place.url}, "warning"))
            return RETRY_MS[min(trouble.failures, len(RETRY_MS)) - 1]
        if self._troubles[loop].reported:
            self._notify(Notice("mailbox.back", "the mailbox works again", {"mailbox": self._place.url}))
        self._troubles[loop] = _Trouble()
        return wait_ms

    async def _load(self) -> None:
        if not self._loaded:
            ledger = self._ledger
            await self._courier.surroundings.query(ledger.load)
            await self._writer.look()
            self._loaded = True
            self._news.set()

    async def _pause(self) -> None:
        """Let a burst of commits gather, and keep the spacing of the mailbox."""
        now_ms = self._courier.surroundings.clock()[0]
        wait_ms = max(GATHER_MS, self._times["write"] + self._courier.mailbox.pace.spacing_ms - now_ms)
        if self._before(now_ms):
            wait_ms = max(wait_ms, BESIDE_MS)
        await self._rest(wait_ms)

    async def _rest(self, wait_ms: int) -> None:
        """Return after a time, whatever happens."""
        surroundings = self._courier.surroundings
        end_ms = surroundings.clock()[0] + wait_ms
        while (left_ms := end_ms - surroundings.clock()[0]) > 0:
            await surroundings.wait(Signal(), left_ms)

    def _before(self, now_ms: int) -> int:
        """Return how many other gateways of this base, with lower node ids, append the same changes."""
        own = self._courier.roster.own_id
        return sum(node_id < own and now_ms < at_ms + BESIDE_KEPT_MS for node_id, at_ms in self._reader.beside.items())

    # ---- writing

    async def _write_once(self) -> int:
        await self._load()
        surroundings, writer, reader = self._courier.surroundings, self._writer, self._reader
        if reader.parcel_wanted:
            reader.parcel_wanted = False
            writer.request_parcel()
        if writer.needs_parcel:
            await self._pack()
        leaves = await self._deputy.leaves(self._before(surroundings.clock()[0]))
        if self._deputy.look_wanted:
            self._deputy.look_wanted = False
            self._news.set()
        if not leaves and await writer.write():
            self._times["write"] = surroundings.clock()[0]
            self._changed_since = True
        await self._state_if_due()
        await self._store_if_due()
        now_ms = surroundings.clock()[0]
        due = [now_ms + NEVER_MS]
        if self._changed_since or self._ledger.news:
            due.append(self._times["state"] + STATE_MS)
        if self._ledger.is_changed:
            due.append(self._times["store"] + STORE_MS)
        due += [each for each in (writer.next_deadline(), self._deputy.next_deadline()) if each is not None]
        return min(due) - now_ms

    async def _pack(self) -> None:
        await self._writer.pack()
        self._changed_since = True  # the next statement shows readers that they need it

    async def _state_if_due(self) -> None:
        writer, reader = self._writer, self._reader
        now_ms = self._courier.surroundings.clock()[0]
        wanted = reader.wanted()
        regular = (self._changed_since or self._ledger.news) and now_ms >= self._times["state"] + STATE_MS
        if not wanted and not regular:
            return
        if regular:
            await writer.look()
            if writer.needs_parcel:
                await writer.pack()
        self._times["state"] = now_ms
        before, self._changed_since = self._changed_since, False
        self._ledger.on_said()
        whole = False
        try:
            whole = await writer.state(reader.receipts(), wanted)
        finally:
            if not whole:  # it was not appended, or has not all vectors
                self._changed_since = before
                self._ledger.on_news()
        reader.on_asked(wanted)
        await writer.prune(reader.receipts_of_own())

    async def _store_if_due(self) -> None:
        now_ms = self._courier.surroundings.clock()[0]
        if self._ledger.is_changed and now_ms >= self._times["store"] + STORE_MS:
            self._times["store"] = now_ms
            await self.store()

    async def _compare_clocks_if_due(self) -> None:
        surroundings = self._courier.surroundings
        now_ms, before_ms = surroundings.clock()
        if not self._loaded or now_ms < self._clock_due_ms:
            return
        try:
            there_ms = await surroundings.storage(self._courier.mailbox.server_ms)
        except MailboxError:  # the login may not allow what the look needs, and nothing else needs it
            self._offset_ms = None
            self._clock_due_ms = now_ms + CLOCK_AGAIN_MS
        else:
            self._clock_due_ms = now_ms + CLOCK_MS
            self._offset_ms = there_ms - (before_ms + surroundings.clock()[1]) // 2

    async def store(self) -> None:
        """Write the ledger into the file."""
        if self._loaded and self._ledger.is_changed:
            ledger = self._ledger
            await self._courier.surroundings.query(ledger.store)

    # ---- reading

    async def _read_once(self) -> int:
        if not self._loaded:
            return NEVER_MS  # the writer wakes this loop
        if await self._reader.step():
            self._news.set()  # what one stream brings may be what another waits for
        if self._reader.parcel_wanted or self._reader.wanted() or self._ledger.is_changed:
            self._dirty.set()
        return min(self._courier.mailbox.pace.poll_ms, self._reader.retry_ms or NEVER_MS)

    # ---- for people

    def view(self) -> MailboxView:
        """Return the state of the mailbox for people."""
        wall_ms = self._courier.surroundings.clock()[1]
        written, removal = self._writer.written, self._courier.removal
        trouble = next((each.text for each in self._troubles.values() if each.text), "")
        state = "starting" if not self._loaded else "running"
        if trouble:
            state = "waiting"
        own = self._courier.keys().live_stream_of(self._courier.roster.own_id)
        owners = self._owners()
        others = sorted(
            (name for name in self._reader.streams if name != own), key=lambda name: (owners[name][1], name)
        )
        nobodys = [name for name in others if not owners[name][0]]  # a storage may invent any number
        hidden = set(nobodys[STREAMS_SHOWN_MAX:])
        streams = tuple(
            self._stream_view(name, self._reader.streams[name], owners[name], wall_ms)
            for name in others
            if name not in hidden
        )
        return MailboxView(
            self._place.url,
            self._place.base,
            state,
            trouble,
            written.envelopes,
            written.size,
            written.parcels,
            self._writer.kept,
            streams,
            removal.state,
            removal.why,
            None if self._offset_ms is None else self._offset_ms / 1000,
            clock_line(
                self._offset_ms, self._ahead(own, owners, wall_ms), (self._writer.last >> POSITION_SHIFT) - wall_ms
            ),
        )

    def _ahead(self, own: bytes, owners: dict[bytes, tuple[bytes, str]], wall_ms: int) -> list[tuple[str, int]]:
        """Return by name how far the newest envelope of each other member is ahead of this node's clock."""
        newest = (
            (name, max(each.newest, self._ledger.passed.get(name, 0))) for name, each in self._reader.streams.items()
        )
        return sorted(
            (owners[name][1], (position >> POSITION_SHIFT) - wall_ms)
            for name, position in newest
            if name != own and self._reader.streams[name].author
        )

    def _owners(self) -> dict[bytes, tuple[bytes, str]]:
        """Return the node id and the name of each stream's member, also of a stream that says nothing since this start."""
        streams, keys = self._reader.streams, self._courier.keys()
        found = {name: (stream.author, stream.member) for name, stream in streams.items()}
        if not all(stream.author for stream in streams.values()):
            for member in self._courier.roster.members():
                for name in (keys.live_stream_of(member.node_id), keys.stream_of(member.node_id)):
                    if name in found:
                        found[name] = (member.node_id, member.name)
        return found

    def _stream_view(self, name: bytes, stream: Stream, owner: tuple[bytes, str], wall_ms: int) -> StreamView:
        passed = self._ledger.passed.get(name, 0)
        parcels = (self._courier.keys().stream_of(owner[0]),) if owner[0] else ()
        return StreamView(
            owner[1] or f"stream {name.hex()}",
            stream.base,
            owner[0].hex(),
            passed,
            stream.waiting,
            stream.lag_ms(passed) / 1000,
            stream.size,
            stream.taken,
            stream.copies,
            stream.refused,
            stream.note,
            _few(sorted(stream.behind)),
            None if stream.proved_ms is None else max(0, wall_ms - stream.proved_ms) / 1000,
            tuple(each.hex() for each in dict.fromkeys((name, *parcels))),
        )


def _few(names: list[str]) -> tuple[str, ...]:
    """Return the first names, and how many there are besides."""
    more = len(names) - BEHIND_SHOWN_MAX
    return (*names[:BEHIND_SHOWN_MAX], f"{more:,} more") if more > 0 else tuple(names)
