"""The reading half of a gateway: it follows the live streams of all others, and takes their parcels where that is not enough.

A run is taken in when everything before it was, and when this node has what the run's gateway had from other streams.
A stream with a hole waits `GAP_MS`, since folders are copied in any order; then the newest parcel fills it. Without such a
parcel, the next statement asks its gateway for one.

A table that this node cannot take in does not hold up the others: it falls behind in that stream until a parcel brings it.

Invariants: a vector is taken only with everything that it covers. Whatever the storage does, each run is taken in whole or not
at all, and reading it twice changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.mailbox.mailbox import STREAMS_MAX, MailboxError, Surveying
from mycomesh.mesh.mailbox.streams import POSITION_SHIFT, Kind, Opened
from mycomesh.mesh.node.courier import Ending
from mycomesh.mesh.node.gateway import statement
from mycomesh.mesh.node.recording import AUDIT, UNKNOWN, lacking, replay, undefined
from mycomesh.sync import errors as sync_errors
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.parts import Joiner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mycomesh.mesh.mailbox.envelope import EnvelopeKeys
    from mycomesh.mesh.mailbox.mailbox import Listed
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.node.courier import Courier
    from mycomesh.mesh.node.gateway.ledger import Ledger
    from mycomesh.sync.crdt.version_vector import Vector
    from mycomesh.sync.replica import Replica

__all__ = ["GAP_MS", "LiveReader", "LiveRun", "Stream"]

GAP_MS = 60_000  # how long a missing envelope may still come
GAP_LOOKS = (
    4  # or so many times the last look, which among many bases takes longer: it may be in a stream that comes later
)
RETRY_MS = 5_000  # between two tries of a run that waits
LOOK_MS = 15_000  # between two looks for a parcel that is needed
WANT_MS = 300_000  # between two requests for a parcel of one stream, doubled each time
WANT_MS_LONGEST = 86_400_000
REFUSED_MAX = 1_024  # positions of one stream whose envelope did not open, so that it is not fetched again and again
REFUSED_MS = (
    60_000  # then they are fetched again: the storage may have held half a file, or this node has learnt a secret
)
FAILED_STREAMS = 4  # in one look: then the storage itself is taken for away, since each failure may take a minute
REFUSED_LOOK_BYTES = 16 << 20  # what one look at a stream reads in vain: a storage may invent any number of envelopes
REFUSED_LOOK_LEAST = 256 << 10  # what one envelope counts at least, so that small ones are few too
CACHE_BYTES = 2 << 20  # of a run that is kept between its first reading and its replay; a longer one is fetched again
HEED_MS = WANT_MS // 2  # between two requests for a parcel that one member is granted, doubled each time for a day
HEED_MS_LONGEST = WANT_MS_LONGEST // 2
SOUGHT_MAX = 32  # streams of members that one look seeks behind more invented names than count


@dataclass(slots=True)
class Stream:
    """A live stream of another gateway, or the parcels of a node without a gateway."""

    author: bytes = b""  # node id, b"" until an envelope has opened
    member: str = ""
    base: str = ""
    kind: Kind = Kind.LIVE
    waiting: int = 0  # envelopes that are listed and not passed
    newest: int = 0  # position of the newest one
    taken: int = 0  # runs and parcels since the start
    copies: int = 0  # runs that brought nothing new
    size: int = 0  # bytes read
    refused: int = 0
    why: str = ""  # what it waits for, or why the last envelope was refused
    behind: dict[str, str] = field(default_factory=dict)  # tables that do not follow, and why
    stuck_since_ms: int | None = None  # a hole, or a run that waits
    parcel_from: int | None = None  # a parcel is needed that ends here or later
    look_at_ms: int = 0  # when to look for it
    is_looking: bool = False  # so that none is asked for meanwhile: it may be there
    want_at_ms: int = 0  # when to ask for it
    want_ms: int = WANT_MS
    peeked: int = 0  # position up to which envelopes beyond a hole were looked at
    heard: int = 0  # position of the last statement whose requests were noted
    doubts: dict[str, Vector] = field(default_factory=dict)  # table -> what a statement covers, and nothing has brought
    doubted_ms: int = 0
    proved_ms: int | None = None  # wall time of the last statement in which all tables were equal
    receipt: int = 0  # how far its gateway has read this node's live stream
    vain_bytes: int = 0  # read in this look, and refused
    unopened: dict[int, tuple[int, str]] = field(default_factory=dict)  # position -> when it did not open, and why
    unfinished: LiveRun | None = (
        None  # the run whose end has not come, so that nothing of it is fetched again at each look
    )
    failed: bool = False  # the storage could not list it at the last look
    is_revoked: bool = False  # its gateway is no member any more: nothing of it is fetched

    @property
    def note(self) -> str:
        """The note of `status`: what the stream waits for, else why the newest envelope that did not open was refused."""
        return self.why or next((why for _, why in reversed(self.unopened.values())), "")

    @property
    def is_settled(self) -> bool:
        """True if there is nothing to do as long as nothing comes."""
        return self.parcel_from is None and not self.doubts

    def lag_ms(self, passed: int) -> int:
        """Return how far the position lies behind the newest envelope; 0 before the first one was passed."""
        return max(0, (self.newest >> POSITION_SHIFT) - (passed >> POSITION_SHIFT)) if self.waiting and passed else 0


@dataclass(slots=True)
class LiveRun:
    """A run that is being read: its envelopes, and the messages around its chunks."""

    first: Opened
    envelopes: list[Listed]
    size: int
    needed: tuple[tuple[str, Vector], ...] = ()
    kept: list[bytes] | None = field(default_factory=list)
    is_broken: bool = False  # a message of it cannot be read
    _ending: Ending = field(default_factory=Ending)
    _joiner: Joiner = field(default_factory=Joiner)

    def feed(self, opened: Opened) -> wire.Done | None:
        """Read one envelope; return the end of the run if it is there."""
        for payload in opened.payloads:
            message = wire.decode(payload)
            whole = message.message if isinstance(message, wire.Part) else message
            if isinstance(whole, wire.Vectors):
                self._ending = Ending()  # a run that broke off may stand before it: its rows do no harm, its end would
                joined = self._joiner.on_message(message, len(payload))
                self.needed = joined.vectors if isinstance(joined, wire.Vectors) else ()
            elif isinstance(whole, wire.Chunk) and self.kept is not None:
                self.kept.append(payload)
        if self.size > CACHE_BYTES:
            self.kept = None
        return self._ending.feed(opened)


class LiveReader:
    """Reads the streams of one mailbox."""

    def __init__(self, courier: Courier, ledger: Ledger) -> None:
        self._courier = courier
        self._ledger = ledger
        self.streams: dict[bytes, Stream] = {}
        self.parcel_wanted = False  # some other gateway asks for a parcel of this one
        self.beside: dict[bytes, int] = {}  # gateways that append the same changes as this one -> when they last did
        self._heeded: dict[
            bytes, tuple[int, int]
        ] = {}  # member -> when it was granted a parcel, and how long it waits for the next
        self._sought = 0  # where the next look seeks streams of members
        self._revoked: tuple[int, dict[bytes, Certificate]] = (
            0,
            {},
        )  # how many revocations, and streams of their members
        self._look_ms = 0  # how long the last look took
        self._beside: tuple[Sequence[bytes], int, set[bytes]] = (
            (),
            -1,
            set(),
        )  # streams, version of the roster, answer

    @property
    def retry_ms(self) -> int | None:
        """In how many milliseconds to read again although nothing may have come, None for no need."""
        stuck = any(
            stream.stuck_since_ms is not None or stream.unopened or stream.doubts or stream.parcel_from is not None
            for stream in self.streams.values()
        )
        return RETRY_MS if stuck else None

    def receipts(self) -> dict[bytes, int]:
        """Return how far the streams were read that are in the mailbox."""
        return {stream: self._ledger.passed[stream] for stream in self.streams if stream in self._ledger.passed}

    def receipts_of_own(self) -> tuple[int, ...]:
        """Return how far each other gateway has read this node's live stream."""
        others = (each for each in self.streams.values() if each.kind is Kind.LIVE and each.author)
        return tuple(each.receipt for each in others if not each.is_revoked)

    def wanted(self) -> tuple[bytes, ...]:
        """Return the live streams of which a parcel has to be asked for now."""
        now_ms = self._courier.surroundings.clock()[0]
        wanted = [
            name
            for name, stream in self.streams.items()
            if stream.parcel_from is not None
            and not stream.is_looking
            and stream.kind is Kind.LIVE
            and now_ms >= stream.want_at_ms
        ]
        return tuple(sorted(wanted))

    def on_asked(self, streams: Sequence[bytes]) -> None:
        """Note that a statement has asked for parcels of these streams."""
        now_ms = self._courier.surroundings.clock()[0]
        for name in streams:
            if name in self.streams:
                stream = self.streams[name]
                stream.want_at_ms = now_ms + stream.want_ms
                stream.want_ms = min(2 * stream.want_ms, WANT_MS_LONGEST)

    async def step(self) -> bool:
        """Read what is new in all streams; return whether something was taken in.

        Raises:
            MailboxError, NodeError: the mailbox, some streams of it or the file cannot be used; what was read stays.
        """
        begun_ms = self._courier.surroundings.clock()[0]
        listed = await self._listed()
        beside = self._parcels_beside_live(listed)
        names = await self._newest_parcels_first([name for name in listed if name not in beside])
        found = await self._survey({name: self._ledger.passed.get(name, 0) for name in names})
        progress = False
        failures: list[MailboxError] = []
        for name in names:
            stream = self.streams.setdefault(name, Stream())
            if found is not None and name not in found and stream.is_settled:
                stream.waiting = 0
                continue
            try:
                news = await self._list(name) if found is None else found.get(name, [])
                progress = await self._read(name, stream, listed, news) or progress
                stream.failed = False
            except MailboxError as error:  # a folder that is closed to this user does not hold up the others
                stream.why, stream.failed = str(error), True
                failures.append(error)
                if len(failures) >= FAILED_STREAMS:
                    break
        read = dict.fromkeys(names)
        for name in [name for name, each in self.streams.items() if name not in read and not each.is_revoked]:
            del self.streams[name]
        self._look_ms = self._courier.surroundings.clock()[0] - begun_ms
        if failures:
            raise failures[0]
        return progress

    async def _listed(self) -> list[bytes]:
        """Return the streams to read, those that failed at the last look behind the others, none of revoked members.

        A storage may have any number of names. Where they are more than count, the streams of members come first, and
        those that the listing has left out are sought by name, some at each look.
        """
        courier, keys = self._courier, self._courier.keys()
        storage, roster = courier.surroundings.storage, courier.roster
        listed = await storage(courier.mailbox.streams, keys.mesh)
        if len(listed) >= STREAMS_MAX:
            there = set(listed)
            members = [name for each in roster.members() for name in _streams_of(keys, each.node_id)]
            hidden = [name for name in members if name not in there]
            known = {name for name in hidden if name in self.streams or name in self._ledger.passed}
            unknown = [name for name in hidden if name not in known]
            start = self._sought % max(1, len(unknown))
            self._sought = start + SOUGHT_MAX
            for name in [*unknown[start:], *unknown[:start]][:SOUGHT_MAX]:
                if await storage(courier.mailbox.list_after, keys.mesh, name, 0):
                    known.add(name)
            first = dict.fromkeys(name for name in members if name in there or name in known)
            listed = [*first, *(name for name in listed if name not in first)]
        if self._revoked[0] != (count := len(roster.revocations.encoded_revocations())):
            revoked = roster.revocations.effective()
            self._revoked = (
                count,
                {name: each.certificate for each in revoked for name in _streams_of(keys, each.node_id)},
            )
        self._show_revoked(listed)
        failed = {name for name, stream in self.streams.items() if stream.failed}
        wanted = [name for name in listed if name not in self._revoked[1]]
        return sorted(wanted[:STREAMS_MAX], key=failed.__contains__)

    def _show_revoked(self, listed: Sequence[bytes]) -> None:
        """Show the live streams of revoked members that are still there, for a person who removes them: no gateway does."""
        keys, revoked = self._courier.keys(), self._revoked[1]
        there = {name for name in listed if name in revoked and name == keys.live_stream_of(revoked[name].node_id)}
        there.discard(keys.live_stream_of(self._courier.roster.own_id))
        for name in [name for name, each in self.streams.items() if each.is_revoked and name not in there]:
            del self.streams[name]
        for name in sorted(there):
            if name not in self.streams or not self.streams[name].is_revoked:
                member = revoked[name]
                why = f"{member.name} was revoked: nothing of it is read, and its streams may be removed"
                self.streams[name] = Stream(member.node_id, member.name, why=why, is_revoked=True)

    async def _newest_parcels_first(self, names: list[bytes]) -> list[bytes]:
        """Return streams in their order; those that this node has never read go last, that with the newest parcel before others.

        What a gateway has read from others is in its parcel. So the newest one covers most of the older ones, and of a parcel
        that is covered only the end is fetched.
        """
        new = [name for name in names if name not in self._ledger.passed and name not in self.streams]
        if len(new) < 2:
            return names
        courier, keys = self._courier, self._courier.keys()
        parcels = {keys.live_stream_of(each.node_id): keys.stream_of(each.node_id) for each in courier.roster.members()}
        newest: dict[bytes, int] = {}
        list_after = courier.mailbox.list_after
        try:
            found = await self._survey({parcels.get(name, name): 0 for name in new})
            for name in new:
                stream = parcels.get(name, name)
                if found is None:
                    listed = await courier.surroundings.storage(list_after, keys.mesh, stream, 0)
                else:
                    listed = found.get(stream, [])
                newest[name] = max((each.position for each in listed), default=0)
        except MailboxError:  # a folder that is closed to this user: reading them one by one finds out which
            return names
        failed = {name for name, stream in self.streams.items() if stream.failed}
        return sorted(names, key=lambda name: (name in failed, name in newest, -newest.get(name, 0)))

    async def _survey(self, after: Mapping[bytes, int]) -> dict[bytes, list[Listed]] | None:
        """List these streams at once beyond their positions, None where the storage lists them one by one."""
        courier = self._courier
        if not isinstance(courier.mailbox, Surveying):
            return None
        return await courier.surroundings.storage(courier.mailbox.list_all, courier.keys().mesh, after)

    async def _list(self, name: bytes) -> list[Listed]:
        courier, passed = self._courier, self._ledger.passed.get(name, 0)
        return await courier.surroundings.storage(courier.mailbox.list_after, courier.keys().mesh, name, passed)

    def _parcels_beside_live(self, listed: Sequence[bytes]) -> set[bytes]:
        """Return the streams of parcels of this node and of all gateways: their live streams say when a parcel is needed.

        So none of their envelopes is fetched to learn whose they are, at each start and as large as they are.
        """
        keys, roster = self._courier.keys(), self._courier.roster
        seen, version, beside = self._beside
        if version != roster.version or seen != listed:
            there = set(listed)
            gateways = [each.node_id for each in roster.members() if keys.live_stream_of(each.node_id) in there]
            beside = {keys.stream_of(node_id) for node_id in (roster.own_id, *gateways)}
            self._beside = (listed, roster.version, beside)
        return beside

    async def _read(self, name: bytes, stream: Stream, listed: Sequence[bytes], news: Sequence[Listed]) -> bool:
        """Read one stream, of which `news` lies beyond its position; return whether something was taken in."""
        keys, passed = self._courier.keys(), self._ledger.passed.get(name, 0)
        stream.waiting = len(news)
        stream.newest = next((each.position for each in reversed(news) if each.position not in stream.unopened), passed)
        stream.vain_bytes = 0
        if not stream.author and not (news and await self._meet(stream, news)):
            return False
        before = (passed, stream.taken)
        if stream.kind is Kind.LIVE:
            await self._settle_doubts(stream, passed)
            await self._look_for_parcel(name, stream)
            await self._follow(name, stream, news)
        elif not news:
            return False
        elif keys.live_stream_of(stream.author) not in listed:
            stream.parcel_from = 0
            await self._take_parcel(name, stream)
        else:  # its live stream brings all of it
            stream.waiting = 0
        return (self._ledger.passed.get(name, 0), stream.taken) != before

    async def _meet(self, stream: Stream, news: Sequence[Listed]) -> bool:
        """Learn from an envelope whose stream this is."""
        for each in sorted(news, key=lambda listed: listed.size):
            opened = await self._open(stream, each)
            if opened is not None:
                stream.author, stream.member = opened.author.node_id, opened.author.name
                stream.kind = Kind.PARCEL if opened.kind is Kind.PARCEL else Kind.LIVE
                return True
        return False

    async def _open(self, stream: Stream, listed: Listed) -> Opened | None:
        """Return an envelope, None if it does not open."""
        now_ms = self._courier.surroundings.clock()[0]
        at_ms, _ = stream.unopened.get(listed.position, (None, ""))
        if (at_ms is not None and now_ms < at_ms + REFUSED_MS) or stream.vain_bytes >= REFUSED_LOOK_BYTES:
            return None
        try:
            opened = await self._courier.open(listed)
        except (DecodeError, CertificateError) as error:
            stream.refused += at_ms is None
            stream.vain_bytes += max(listed.size, REFUSED_LOOK_LEAST)
            stream.why = str(error)
            stream.unopened.pop(listed.position, None)
            stream.unopened[listed.position] = now_ms, stream.why
            while len(stream.unopened) > REFUSED_MAX:
                del stream.unopened[next(iter(stream.unopened))]
            return None
        stream.unopened.pop(listed.position, None)
        stream.size += listed.size
        return opened

    # ---- live streams

    async def _follow(self, name: bytes, stream: Stream, news: Sequence[Listed]) -> None:
        """Take in the runs of a live stream in their order, up to the first that has to wait."""
        run, stream.unfinished = stream.unfinished, None
        if run is not None and run.envelopes[0].position <= self._ledger.passed.get(name, 0):
            run = None
        read = 0 if run is None else run.envelopes[-1].position
        for each in news:
            if each.position <= max(read, self._ledger.passed.get(name, 0)):
                continue  # a parcel that filled a hole has brought it, or the run under way has it
            opened = await self._open(stream, each)
            if opened is None:
                run = None
                continue
            if run is not None and opened.previous == run.envelopes[-1].position:
                run.envelopes.append(each)
                run.size += each.size
            elif opened.previous <= self._ledger.passed.get(name, 0) and self._ledger.passed.get(name, 0):
                run = LiveRun(opened, [each], each.size)
            else:
                await self._on_hole(name, stream, opened.previous)
                if opened.previous > self._ledger.passed.get(name, 0):
                    await self._peek(stream, news)
                    return
                if each.position <= self._ledger.passed.get(name, 0):
                    continue
                run = LiveRun(opened, [each], each.size)
            taken = await self._take(name, stream, run, opened)
            if taken is None:
                run = None if run.is_broken else run
                continue
            if not taken:
                return
            self._pass(name, stream, each.position)
            run = None
        stream.unfinished = run

    async def _take(self, name: bytes, stream: Stream, run: LiveRun, opened: Opened) -> bool | None:
        """Take in a statement, or a run that ends with this envelope; return False if it has to wait, None if it goes on."""
        try:
            if opened.kind is Kind.STATEMENT:
                await self._on_statement(stream, opened)
                return True
            done = run.feed(opened)
        except (DecodeError, sync_errors.DecodeError) as error:
            stream.why = str(error)
            run.is_broken = opened.kind is not Kind.STATEMENT
            return None if run.is_broken else True
        return None if done is None else await self._take_run(name, stream, run, done)

    def _pass(self, name: bytes, stream: Stream, position: int) -> None:
        self._ledger.on_passed(name, position)
        stream.stuck_since_ms = None
        stream.waiting = max(0, stream.waiting - 1)
        stream.unopened = {at: found for at, found in stream.unopened.items() if at > position}

    def _is_stuck(self, stream: Stream, why: str) -> bool:
        """Return whether a stream has been stuck for as long as what it lacks may take to come."""
        now_ms = self._courier.surroundings.clock()[0]
        stream.why = why
        if stream.stuck_since_ms is None:
            stream.stuck_since_ms = now_ms
        return now_ms >= stream.stuck_since_ms + self._gap_ms

    @property
    def _gap_ms(self) -> int:
        """How long what is missing may still come."""
        return max(GAP_MS, GAP_LOOKS * self._look_ms)

    async def _on_hole(self, name: bytes, stream: Stream, needed: int) -> None:
        """Fill a hole before a run that follows `needed` from the newest parcel, once it has been there for long."""
        first = name not in self._ledger.passed
        if stream.parcel_from is None and (self._is_stuck(stream, "an envelope is missing") or first):
            stream.parcel_from = needed
            await self._take_parcel(name, stream)

    async def _peek(self, stream: Stream, news: Sequence[Listed]) -> None:
        """Read the statements beyond a hole: what they ask for must not wait for the hole, which may wait for this node."""
        for each in news:
            if each.position > stream.peeked:
                opened = await self._open(stream, each)
                if opened is not None:
                    stream.peeked = each.position
                    if opened.kind is Kind.STATEMENT:
                        self._hear(stream, opened)

    def _hear(self, stream: Stream, opened: Opened) -> None:
        """Note what the first message of a statement says."""
        try:
            said = statement.decode(opened.payloads[0])
        except sync_errors.DecodeError as error:
            stream.why = str(error)
            return
        if opened.position <= stream.heard:
            return
        stream.heard = opened.position
        own = self._courier.keys().live_stream_of(self._courier.roster.own_id)
        stream.base, stream.receipt = said.base, dict(said.receipts).get(own, 0)
        if stream.author != self._courier.roster.own_id and own in said.wanted and self._heeds(stream.author):
            self.parcel_wanted = True

    def _heeds(self, member: bytes) -> bool:
        """Return whether a request of a member for a parcel is granted: a parcel costs as much as all rows.

        An honest member waits twice as long each time, too.
        """
        now_ms = self._courier.surroundings.clock()[0]
        at_ms, wait_ms = self._heeded.get(member, (-HEED_MS, HEED_MS))
        if now_ms < at_ms + wait_ms:
            return False
        again = now_ms < at_ms + WANT_MS_LONGEST and member in self._heeded
        self._heeded[member] = now_ms, min(2 * wait_ms, HEED_MS_LONGEST) if again else HEED_MS
        return True

    async def _take_run(self, name: bytes, stream: Stream, run: LiveRun, done: wire.Done) -> bool:
        """Take in one run; return False if it has to wait."""
        query, author = self._courier.surroundings.query, stream.author
        missing = await query(lambda replica: lacking(replica, author, run.needed))
        missing = [table for table in missing if table not in stream.behind]
        if missing and not self._is_stuck(stream, f"what others have brought of {missing[0]} is not here yet"):
            return False
        followed = tuple((table, vector) for table, vector in done.vectors if table not in stream.behind)
        if await query(lambda replica: undefined(replica, author, followed)) and not self._is_stuck(stream, UNKNOWN):
            return False
        self._fall_behind(name, stream, dict.fromkeys(missing, "the mailbox lacks what others have brought"))
        news = any(vector.missing_from(self._ledger.inside(table)) for table, vector in done.vectors)
        fresh = await query(lambda replica: lacking(replica, author, done.vectors))
        left = await self._replay(stream, run, done)
        if left and AUDIT not in left.values() and not self._is_stuck(stream, next(iter(left.values()))):
            return False
        self._fall_behind(name, stream, left)
        for table, vector in done.vectors:
            if table not in stream.behind:
                self._ledger.on_read(table, vector)
        if fresh:
            stream.taken += 1
            self._ledger.on_news()
        elif news and author != self._courier.roster.own_id:  # it came over the LAN: that gateway is in this base
            stream.copies += 1
            self.beside[author] = self._courier.surroundings.clock()[0]
        stream.why = next(iter(stream.behind.values()), "")
        return True

    async def _replay(self, stream: Stream, run: LiveRun, done: wire.Done) -> dict[str, str]:
        """Replay a run for the tables that follow; return those that it did not bring, and why."""
        courier = self._courier

        async def chunks() -> AsyncIterator[bytes]:
            if run.kept is not None:
                for payload in run.kept:
                    yield payload
                return
            for each in run.envelopes:
                for payload in (await courier.open(each)).payloads:
                    if isinstance(wire.decode(payload), wire.Chunk):
                        yield payload

        self._ledger.reading = dict(done.vectors)  # runs of this node need not bring it again
        try:
            return await replay(courier.surroundings, courier.links, stream.author, done, chunks, tuple(stream.behind))
        except (DecodeError, CertificateError, sync_errors.DecodeError) as error:
            return dict.fromkeys((table for table, _ in done.vectors), str(error))
        finally:
            self._ledger.reading = {}

    def _fall_behind(self, name: bytes, stream: Stream, tables: dict[str, str]) -> None:
        """Let tables not follow a stream any more, until a parcel brings them."""
        if tables:
            stream.behind |= tables
            stream.why = next(iter(tables.values()))
            stream.parcel_from = max(stream.parcel_from or 0, self._ledger.passed.get(name, 0) + 1)

    # ---- parcels

    async def _look_for_parcel(self, name: bytes, stream: Stream) -> None:
        """Take in a parcel that is needed, if it has come."""
        now_ms = self._courier.surroundings.clock()[0]
        if stream.parcel_from is not None and now_ms >= stream.look_at_ms:
            await self._take_parcel(name, stream)

    async def _take_parcel(self, name: bytes, stream: Stream) -> None:
        """Take in the newest parcel of a stream's author if it ends at `parcel_from` or later."""
        stream.is_looking = True
        try:
            await self._take_parcel_if_there(name, stream)
        finally:
            stream.is_looking = False

    async def _take_parcel_if_there(self, name: bytes, stream: Stream) -> None:
        courier, keys = self._courier, self._courier.keys()
        needed, stream.look_at_ms = stream.parcel_from or 0, courier.surroundings.clock()[0] + LOOK_MS
        fetched = courier.fetched
        parcels = keys.stream_of(stream.author)
        listed = await courier.surroundings.storage(courier.mailbox.list_after, keys.mesh, parcels, max(0, needed - 1))
        if not listed:
            return
        try:
            found = await courier.take_parcel(parcels, needed, self._on_parcel)
            if found is None:
                return
            parcel, left = found
        except (
            DecodeError,
            CertificateError,
            sync_errors.DecodeError,
        ) as error:  # perhaps it is replaced at this moment
            stream.why = str(error)
            return
        finally:
            self._ledger.reading = {}
            stream.size += courier.fetched - fetched
        stream.behind = left
        for table, vector in parcel.done.vectors:
            if table not in left:
                self._ledger.on_read(table, vector)
        stream.taken += 1
        stream.parcel_from = None
        if not left:
            stream.want_ms, stream.want_at_ms = WANT_MS, 0
        stream.why = next(iter(left.values()), "")
        self._ledger.on_news()
        self._pass(name, stream, max(parcel.position, self._ledger.passed.get(name, 0)))
        self._fall_behind(name, stream, left)

    def _on_parcel(self, done: wire.Done) -> None:
        self._ledger.reading = dict(done.vectors)  # runs of this node need not bring it again

    # ---- statements

    async def _on_statement(self, stream: Stream, opened: Opened) -> None:
        """Compare what another gateway states with this node, once everything before it was taken in."""
        surroundings = self._courier.surroundings
        self._hear(stream, opened)
        if stream.author == self._courier.roster.own_id:
            return
        joiner = Joiner()
        vectors: dict[str, Vector] = {}
        for payload in opened.payloads[1:]:
            message = joiner.on_message(wire.decode(payload), len(payload))
            if isinstance(message, wire.Digests):
                if await self._is_proved(stream, message.tables):
                    return  # the vectors that follow have an entry for each base, and say the same
            elif isinstance(message, wire.Vectors):
                vectors |= dict(message.vectors)
        author, stated = stream.author, tuple(vectors.items())
        missing = await surroundings.query(lambda replica: lacking(replica, author, stated))
        for table in [table for table in vectors if table in stream.behind and table not in missing]:
            del stream.behind[table]  # other members have brought it
        # A statement has the vectors of what changed since the one before, which may have come with it.
        earlier = {table: vector for table, vector in stream.doubts.items() if table not in vectors}
        stream.doubts = earlier | {table: vectors[table] for table in missing if table not in stream.behind}
        stream.doubted_ms = surroundings.clock()[0]

    async def _is_proved(self, stream: Stream, tables: Sequence[tuple[str, bytes, bytes]]) -> bool:
        """Return whether this node has the same rows and vectors as another gateway states, and note it."""
        surroundings = self._courier.surroundings
        if not await surroundings.query(lambda replica: _is_equal(replica, tables)):
            return False
        stream.proved_ms, stream.doubts = surroundings.clock()[1], {}
        for table in [name for name, _, _ in tables if name in stream.behind]:
            del stream.behind[table]  # other members have brought it
        return True

    async def _settle_doubts(self, stream: Stream, passed: int) -> None:
        """Let a table fall behind if other streams have not brought in time what a statement covers."""
        surroundings, author = self._courier.surroundings, stream.author
        if not stream.doubts or surroundings.clock()[0] < stream.doubted_ms + self._gap_ms:
            return
        stated, stream.doubts = tuple(stream.doubts.items()), {}
        missing = await surroundings.query(lambda replica: lacking(replica, author, stated))
        if missing:
            stream.behind |= dict.fromkeys(missing, "a statement covers what the mailbox has not brought")
            stream.parcel_from = max(stream.parcel_from or 0, passed + 1)


def _streams_of(keys: EnvelopeKeys, node_id: bytes) -> tuple[bytes, bytes]:
    return keys.live_stream_of(node_id), keys.stream_of(node_id)


def _is_equal(replica: Replica, tables: Sequence[tuple[str, bytes, bytes]]) -> bool:
    """Return whether this node has the same rows in all tables that it takes."""
    own = replica.digest_pairs()
    return all(own.get(name) == (vector, entries) for name, vector, entries in tables if replica.admits(name))
