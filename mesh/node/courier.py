"""The courier: carries a node's rows to bases without a link, in a mailbox that a person may carry.

A parcel is one side of a round, recorded: the digests of the node that packed it, then everything that it covers, then its
vectors. It is a run of envelopes in the node's stream of parcels, from one without a predecessor to the one that ends with
`Done`. A node keeps one parcel in a mailbox and removes its older ones.

Invariants: a half-written, damaged or withheld parcel changes nothing; an old one brings nothing that its node did not have then.
Tables that some member may not read are left out, since every member can open the envelopes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.mailbox.mailbox import MailboxError
from mycomesh.mesh.mailbox.streams import POSITION_SHIFT, Kind, Opened, StreamWriter, open_signed
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.recording import readable, record, replay
from mycomesh.sync import errors as sync_errors
from mycomesh.sync.crdt.hlc import HLC_MAX, hlc_from_ms
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.parts import Joiner, cut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from mycomesh.mesh.mailbox.envelope import EnvelopeKeys
    from mycomesh.mesh.mailbox.mailbox import Listed, Mailbox
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.node.surroundings import Surroundings
    from mycomesh.mesh.node.virtual_links import VirtualLinks
    from mycomesh.sync.replica import Replica

__all__ = ["Courier", "Ending", "Packed", "Parcel", "Run", "TakenIn"]

REFUSED_MAX = 64  # envelopes of one stream of parcels that do not open: a storage may invent any number
REMOVE_MS = (
    600_000  # from a removal that failed to the next try: a server that does not allow it may answer late or never
)
AHEAD_MS = 86_400_000  # what is further ahead of the clock in a stream of this node counts only if it opens
END_APART_BYTES = 16 * 1024  # of rows before the end of a parcel: then the end has an envelope of its own
END_ENVELOPES = 64  # that the end of a parcel may take: vectors of 8 MiB, as long as a message may be, and room
SLICES_MS = (600_000, 86_400_000, None)  # a parcel brings the rows of the last minutes first, then of the day, then all


@dataclass(frozen=True, slots=True)
class Packed:
    """A parcel that was written: its envelopes, their bytes, the tables that were left out, its last position, its vectors."""

    envelopes: int
    size: int
    left_out: tuple[str, ...]
    position: int
    vectors: tuple[tuple[str, Vector], ...]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A parcel in a mailbox: its author, its envelopes, and the vectors at its end.

    is_whole: whether all envelopes were opened; else the end alone was.
    """

    author: Certificate
    envelopes: tuple[Listed, ...]
    done: wire.Done
    is_whole: bool = True

    @property
    def position(self) -> int:
        """The position of its last envelope."""
        return self.envelopes[-1].position


@dataclass(frozen=True, slots=True)
class TakenIn:
    """One stream of a mailbox after `take_in`: whose it is, and "read", "partly" or "refused", with the reason."""

    member: str
    state: str
    why: str = ""


@dataclass(slots=True)
class Removal:
    """Whether the storage lets this node remove its own envelopes: "yes", "no" with the reason, or "unknown" before the first."""

    state: str = "unknown"
    why: str = ""
    not_before_ms: int = 0


class Courier:
    """Exports to and imports from one mailbox for one serving node. `keys` returns the secrets of the mesh at this moment."""

    def __init__(
        self,
        mailbox: Mailbox,
        roster: Roster,
        keys: Callable[[], EnvelopeKeys],
        links: VirtualLinks,
        surroundings: Surroundings,
    ) -> None:
        self.mailbox = mailbox
        self.roster = roster
        self.keys = keys
        self.links = links
        self.surroundings = surroundings
        self.fetched = 0  # bytes of envelopes
        self.removal = Removal()

    # ---- export

    async def export(self, floor: int = 0) -> Packed:
        """Write a parcel with everything that this node has, at `floor` or beyond; then remove its older parcels.

        Raises:
            MailboxError, NodeError: nothing has changed in the mailbox, apart from an incomplete parcel that nobody reads.
        """
        env = self.surroundings
        stream = self.keys().stream_of(self.roster.own_id)
        old = await self.listed_own(stream)
        # Positions follow the clock, and a clock may have gone back.
        floor = max(floor, env.clock()[1] << POSITION_SHIFT, old[-1].position + 1 if old else 0)
        packing = _Packing(self, floor)
        for age_ms in SLICES_MS:
            await packing.record(None if age_ms is None else env.clock()[1] - age_ms)
        packed = await packing.end()
        for each in old:
            if not await self.remove(each):
                break
        return packed

    async def remove(self, listed: Listed) -> bool:
        """Remove an envelope of this node; return False if the storage does not let it, or did not a moment ago.

        It does no harm where it is. So nothing waits for its removal, and no parcel is packed again because of it.
        """
        env, removal = self.surroundings, self.removal
        now_ms = env.clock()[0]
        if now_ms < removal.not_before_ms:
            return False
        try:
            await env.storage(self.mailbox.remove, self.keys().mesh, listed)
        except MailboxError as error:
            removal.state, removal.why, removal.not_before_ms = "no", str(error), now_ms + REMOVE_MS
            return False
        removal.state, removal.why, removal.not_before_ms = "yes", "", 0
        return True

    async def listed_own(self, stream: bytes) -> list[Listed]:
        """Return what is in a stream of this node, without what a storage has invented far ahead of the clock.

        Positions rise, so that one such name would be the last position for ever.

        Raises:
            MailboxError: the mailbox cannot be read.
        """
        env, keys = self.surroundings, self.keys()
        listed = await env.storage(self.mailbox.list_after, keys.mesh, stream, 0)
        ahead, tried = (env.clock()[1] + AHEAD_MS) << POSITION_SHIFT, 0
        while listed and listed[-1].position > ahead:
            tried += 1
            try:
                if tried <= REFUSED_MAX:
                    await self.open(listed[-1])
                    break
            except (DecodeError, CertificateError):
                pass
            listed.pop()
        return listed

    # ---- import

    async def take_in(self) -> list[TakenIn]:
        """Read the parcels of all other nodes in the mailbox; return what became of each.

        Raises:
            MailboxError: the mailbox cannot be read; parcels before that are in the file.
        """
        env, keys = self.surroundings, self.keys()
        own = self.roster.own_id
        taken: list[TakenIn] = []
        for stream in await env.storage(self.mailbox.streams, keys.mesh):
            if stream in (keys.stream_of(own), keys.live_stream_of(own)):
                continue
            try:
                found = await self.take_parcel(stream)
                if found is None:
                    continue
                parcel, left = found
                why = next(iter(left.values()), "")
                taken.append(TakenIn(parcel.author.name, "partly" if left else "read", why))
            except (DecodeError, CertificateError, sync_errors.DecodeError) as error:
                taken.append(TakenIn(f"stream {stream.hex()}", "refused", str(error)))
        return taken

    async def newest(self, stream: bytes) -> Parcel | None:
        """Return the newest complete parcel of a stream; None if it is a stream of live changes, or empty.

        Raises:
            DecodeError, CertificateError: there is no such parcel.
        """
        keys = self.keys()
        listed = await self.surroundings.storage(self.mailbox.list_after, keys.mesh, stream, 0)
        if not listed:
            return None
        complete: Parcel | None = None
        run: list[Listed] = []
        ending = Ending()
        refusal: DecodeError | CertificateError = DecodeError("it has no complete parcel")
        refused = 0
        for each in listed:
            try:
                opened = await self.open(each)
            except (DecodeError, CertificateError) as error:
                refusal, run = error, []
                refused += 1
                if refused >= REFUSED_MAX:
                    break
                continue
            if opened.kind is not Kind.PARCEL:
                return None
            if opened.previous == 0:
                run, ending = [each], Ending()
            elif run and run[-1].position == opened.previous:
                run.append(each)
            else:
                run = []
            done = ending.feed(opened) if run else None
            if done is not None:
                complete, run = Parcel(opened.author, tuple(run), done), []
        if complete is None:
            raise refusal
        return complete

    async def open(self, listed: Listed) -> Opened:
        """Return what an envelope holds.

        Raises:
            DecodeError, CertificateError: it is not what a member has signed for this place.
        """
        keys = self.keys()
        data = await self.surroundings.storage(self.mailbox.get, keys.mesh, listed)
        if data is None:
            raise DecodeError("an envelope was removed, may not be read, or is too large")
        self.fetched += len(data)
        wall_ms = self.surroundings.clock()[1]
        opened = open_signed(keys, lambda raw: self.roster.verify(raw, wall_ms), listed, data)
        self.surroundings.learn(opened.author.raw)
        return opened

    async def end_of(self, stream: bytes) -> Parcel | None:
        """Return the newest parcel of a stream by its end alone, None if that does not show it; the others may be missing.

        Raises:
            DecodeError, CertificateError: the end cannot be read.
        """
        listed = await self.surroundings.storage(self.mailbox.list_after, self.keys().mesh, stream, 0)
        tail: list[Opened] = []
        for each in reversed(listed[-END_ENVELOPES:]):
            opened = await self.open(each)
            if opened.kind is not Kind.PARCEL or (tail and tail[-1].previous != each.position):
                return None
            tail.append(opened)
            first = wire.decode(opened.payloads[0])
            if not isinstance(first.message if isinstance(first, wire.Part) else first, wire.Done):
                break  # the end begins here: else parts of it may be in the envelope before
        else:
            return None
        ending, done = Ending(), None
        for opened in reversed(tail):
            done = ending.feed(opened)
        return None if done is None else Parcel(tail[0].author, tuple(listed), done, is_whole=False)

    async def take_parcel(
        self, stream: bytes, needed: int = 0, on_found: Callable[[wire.Done], None] = lambda _: None
    ) -> tuple[Parcel, dict[str, str]] | None:
        """Take in the newest parcel of a stream if it ends at `needed` or later; return it, and what `replay` returns.

        A reader that covers a parcel fetches no more than its end, and one that does not fetches each envelope once. Only if
        something is missing, all that is there is looked at for an older one. `on_found` gets the end before the rows come in.

        Raises:
            DecodeError, CertificateError: there is no complete parcel.
        """
        for find in (self.end_of, self.newest):
            try:
                parcel = await find(stream)
                if parcel is None and find == self.end_of:
                    continue
                if parcel is None or parcel.position < needed:
                    return None
                on_found(parcel.done)
                return parcel, await self.replay(parcel)
            except (DecodeError, CertificateError, sync_errors.DecodeError):
                if find == self.newest:
                    raise
        return None

    async def replay(self, parcel: Parcel) -> dict[str, str]:
        """Take in a parcel; return the tables that could not be taken in whole, and why.

        Raises:
            DecodeError, CertificateError: something of it is missing; its vectors were not taken.
        """

        async def chunks() -> AsyncIterator[bytes]:
            before: int | None = None  # the position of the envelope before, of the same parcel
            for each in parcel.envelopes:  # one envelope in memory at a time
                opened = await self.open(each)
                if not parcel.is_whole and opened.previous not in (0, before):
                    raise DecodeError("it has no complete parcel")
                before = each.position
                for payload in opened.payloads:
                    if isinstance(wire.decode(payload), wire.Chunk):
                        yield payload

        return await replay(self.surroundings, self.links, parcel.author.node_id, parcel.done, chunks)


class _Packing:
    """A parcel under way: the newest rows go first, in slices, each a recording of its own."""

    def __init__(self, courier: Courier, floor: int) -> None:
        self._courier = courier
        self._run = Run(courier, Kind.PARCEL, 0, floor)
        self._sent: dict[str, Vector] = {}  # the windows that the slices have read
        self._vectors: dict[str, Vector] = {}  # of the last slice
        self._collected: dict[str, Vector] = {}
        self._left_out: tuple[str, ...] = ()
        self._begun = False

    async def record(self, oldest_ms: int | None) -> None:
        """Record the changes that are not older than this Unix time, or all, and that no slice has brought."""
        known, sites = await self._courier.surroundings.query(_vectors)
        rest: dict[str, Vector] | None = None
        while rest is None or rest:  # tables with very many sites do not fit one round
            have: dict[str, Vector] = {}

            def choose(digests: wire.Digests, have: dict[str, Vector] = have, rest: Any = rest) -> Mapping[str, Vector]:
                names, self._left_out = readable(self._courier.roster, [name for name, _, _ in digests.tables])
                if not self._begun:
                    self._begun = True
                    self._run.put(wire.Digests(tuple(table for table in digests.tables if table[0] in names)))
                for name in names if rest is None else sorted(rest):
                    have[name] = self._sent.get(name, Vector()).copy()
                    if oldest_ms is not None and name != SCHEMA_TABLE:
                        _cover_others(have[name], known.get(name, Vector()), sites, oldest_ms)
                return have

            await record(self._courier.surroundings, self._courier.links, choose, self._take)
            for name in [name for name in have if name in self._vectors]:
                sent = self._sent.setdefault(name, Vector())
                for site, (after, upto) in self._vectors[name].missing_from(have.pop(name)):
                    sent.add(site, after, upto)
            rest = have

    async def _take(self, message: wire.Plan | wire.Chunk | wire.Done) -> None:
        match message:
            case wire.Done(vectors, collected):
                self._vectors |= dict(vectors)
                self._collected |= dict(collected)
            case wire.Chunk():
                self._run.put(message)
                await self._run.flush()
            case wire.Plan():
                pass

    async def end(self) -> Packed:
        """Append the end of the parcel."""
        vectors = tuple(sorted(self._vectors.items()))
        run = self._run
        if run.queued_bytes > END_APART_BYTES:
            await run.flush(all_of_it=True)
            run.put(wire.Digests(()))  # shows that the end begins in this envelope
        run.put(wire.Done(vectors, tuple(sorted(self._collected.items()))))
        await run.flush(all_of_it=True)
        return Packed(run.envelopes, run.size, self._left_out, run.position, vectors)


class Run:
    """A run of envelopes of one kind: messages that belong together."""

    def __init__(self, courier: Courier, kind: Kind, previous: int, floor: int) -> None:
        self._courier = courier
        self._kind = kind
        self._floor = floor
        self._writer = StreamWriter(courier.roster.identity, kind, previous)
        self.appended: list[tuple[int, int]] = []  # position, bytes
        self.tried = 0  # the last position that was to be taken

    @property
    def envelopes(self) -> int:
        """How many envelopes are in the mailbox."""
        return len(self.appended)

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(size for _, size in self.appended)

    @property
    def queued_bytes(self) -> int:
        """The bytes of the messages that wait."""
        return self._writer.queued_bytes

    @property
    def position(self) -> int:
        """The position of the last envelope, or of the one before the run."""
        return self._writer.previous

    def put(self, message: wire.Message) -> None:
        """Add a message of a round, in parts if it is long."""
        for piece in cut(message):
            self._writer.put(wire.encode(piece))

    def put_bytes(self, payload: bytes) -> None:
        """Add another message."""
        self._writer.put(payload)

    async def flush(self, *, all_of_it: bool = False) -> None:
        """Append the envelopes that are full, or all.

        Raises:
            MailboxError, NodeError: the rest is not in the mailbox, and nobody reads a run without its end.
        """
        courier = self._courier
        while self._writer.is_full or (all_of_it and self._writer.queued):
            keys = courier.keys()
            stream = self._kind.stream(keys, courier.roster.own_id)
            envelope = self._writer.next_envelope(keys, self._floor)
            assert envelope is not None
            position, data = envelope
            self.tried = position
            if not await courier.surroundings.storage(courier.mailbox.append, keys.mesh, stream, position, data):
                raise NodeError("another program of this node writes to this mailbox; wait until it has ended")
            self._writer.on_appended(position)
            self.appended.append((position, len(data)))


def _vectors(replica: Replica) -> tuple[dict[str, Vector], tuple[bytes, ...]]:
    return {unit.name: replica.vector(unit.name) for unit in replica.registry.units()}, tuple(replica.store.sites)


def _cover_others(vector: Vector, known: Vector, sites: Sequence[bytes], oldest_ms: int) -> None:
    """Let a vector cover what is older than a Unix time, and what is beyond the known vector: both wait for the last slice."""
    for site in sites:
        if known.top(site):
            vector.add(site, 0, hlc_from_ms(max(oldest_ms, 0)))
        vector.add(site, known.top(site), HLC_MAX)


class Ending:
    """Looks for the `Done` of a run of envelopes, whose parts may be in several of them."""

    def __init__(self) -> None:
        self._joiner = Joiner()

    def feed(self, opened: Opened) -> wire.Done | None:
        """Return the `Done` if this envelope ends with it."""
        ending: wire.Done | None = None
        for payload in opened.payloads:
            message = wire.decode(payload)
            whole = message.message if isinstance(message, wire.Part) else message
            joined = self._joiner.on_message(message, len(payload)) if isinstance(whole, wire.Done) else None
            ending = joined if isinstance(joined, wire.Done) else None
        return ending
