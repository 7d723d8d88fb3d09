"""The courier: carries a node's rows to bases without a link, in a mailbox that a person may carry.

A parcel is one side of a round, recorded: the digests of the node that packed it, then everything that it covers, then its
vectors. `export` lets the exchange talk to a peer that has nothing. `take_in` replays the parcel as the member that packed it,
over a virtual link, so every check of a round applies. Only a live peer can answer the audit for collected
tombstones, so that is left to a round over a link.

A parcel is a run of envelopes in the stream of its node, from one without a predecessor to the one that ends with `Done`. Each
message in it is signed by its node, in a domain of its own. A node keeps one parcel in a mailbox and removes its older ones.

Invariants: a half-written, damaged or withheld parcel changes nothing; an old one brings nothing that its node did not have then.
Tables that some member may not read are left out, since every member can open the envelopes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.mailbox.envelope import Contents, EnvelopeKeys, open_envelope
from mycomesh.mesh.mailbox.streams import StreamWriter
from mycomesh.mesh.membership.identity import verify
from mycomesh.mesh.messages import Batch, signed_part
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.shell import clock
from mycomesh.sync import errors as sync_errors
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.parts import Joiner, cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mycomesh.mesh.mailbox.mailbox import Listed, Mailbox
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.node.virtual_links import VirtualLink, VirtualLinks

__all__ = ["Courier", "Packed", "TakenIn"]

ANSWER_S = 60.0  # the exchange answers within milliseconds unless the file is locked or the disk is full
QUIET_S = 3.0  # after a pass the exchange may defer its next request for a moment
PASSES_MAX = 8  # replays of one parcel; the first may only bring the definitions of tables
PRIORITY = 2

_DOMAIN = b"parcel"
_NOBODY = bytes(16)  # the id of the reader in a recording; no member has it


@dataclass(frozen=True, slots=True)
class Packed:
    """A parcel that was written: its envelopes, their bytes, and the tables that were left out."""

    envelopes: int
    size: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakenIn:
    """One stream of a mailbox after `take_in`: whose it is, and "read", "partly" or "refused", with the reason."""

    member: str
    state: str
    why: str = ""


class Courier:
    """Exports to and imports from mailboxes for one serving node."""

    def __init__(self, identity: Identity, roster: Roster, secrets: tuple[bytes, ...], links: VirtualLinks) -> None:
        self._identity = identity
        self._roster = roster
        self._links = links
        self._keys = EnvelopeKeys(identity.mesh_id, identity.secret, secrets)

    # ---- export

    async def export(self, mailbox: Mailbox) -> Packed:
        """Write a parcel with everything that this node has; then remove its older parcels.

        Raises:
            MailboxError, NodeError: nothing has changed in the mailbox, apart from an incomplete parcel that nobody reads.
        """
        keys, node_id = self._keys, self._identity.node_id
        stream = keys.stream_of(node_id)
        old = await asyncio.to_thread(mailbox.list_after, keys.mesh, stream, 0)
        # Positions follow the clock, and a clock may have gone back.
        wall_ms = max(clock()[1], (old[-1].position >> 8) + 1 if old else 0)
        writer = StreamWriter(stream, 0, lambda _: self._identity.certificate.raw)
        envelopes = size = 0
        with self._links.open(_NOBODY) as link:
            digests = await self._expect(link, wire.Digests)
            assert isinstance(digests, wire.Digests)
            names, left_out = self._readable([name for name, _, _ in digests.tables])
            kept = tuple(table for table in digests.tables if table[0] in names)
            self._put_all(writer, wire.Digests(kept))
            for piece in cut(wire.Vectors(tuple((name, Vector()) for name in names))):
                link.send(wire.encode(piece))
            ended = False
            while not ended:
                ended = await self._record(link, writer, names)
                while writer.queued and (ended or writer.is_full):
                    envelope = writer.next_envelope(keys, wall_ms)
                    assert envelope is not None
                    if not await asyncio.to_thread(mailbox.append, keys.mesh, stream, *envelope):
                        raise NodeError("another export writes to this mailbox; wait until it has ended")
                    writer.on_appended(envelope[0])
                    envelopes, size = envelopes + 1, size + len(envelope[1])
        for each in old:
            await asyncio.to_thread(mailbox.remove, keys.mesh, each)
        return Packed(envelopes, size, left_out)

    async def _record(self, link: VirtualLink, writer: StreamWriter, names: list[str]) -> bool:
        """Record the next message of the stream, and let the exchange go on; return whether it was the last."""
        message = await self._expect(link, wire.Plan, wire.Chunk, wire.Done)
        self._put_all(writer, message)
        if isinstance(message, wire.Chunk):
            link.send(wire.encode(wire.Ack(len(wire.encode(message)))))
        if not isinstance(message, wire.Done):
            return False
        if {name for name, _ in message.vectors} != set(names):
            raise NodeError("the tables have more sites than one parcel can name; compare over a link instead")
        return True

    async def _expect(self, link: VirtualLink, *kinds: type) -> wire.WholeMessage:
        """Return the next message of one of these kinds, with its parts; ignore others, which need no answer."""
        joiner = Joiner()
        while True:
            payload = await link.receive(ANSWER_S)
            if not isinstance(payload, bytes):
                raise NodeError(f"the file could not be read: {payload or 'no answer'}; 'mycomesh status' may say why")
            message = joiner.on_message(wire.decode(payload), len(payload))
            if message is not None and isinstance(message, kinds):
                return message

    def _put_all(self, writer: StreamWriter, message: wire.Message) -> None:
        identity = self._identity
        for piece in cut(message):
            payload = wire.encode(piece)
            signature = identity.sign(_DOMAIN, signed_part(PRIORITY, payload, direct=False))
            writer.put(Batch(identity.node_id, PRIORITY, False, signature, payload))

    def _readable(self, names: list[str]) -> tuple[list[str], tuple[str, ...]]:
        """Return the tables that every member may read, and the others."""
        limited = self._roster.restricted_rights()
        rights = Rights(self._identity.node_id, limited)
        kept = [name for name in names if all(rights.may_read(node_id, name) for node_id, _ in limited)]
        return kept, tuple(name for name in names if name not in kept)

    # ---- import

    async def take_in(self, mailbox: Mailbox) -> list[TakenIn]:
        """Read the parcels of all other nodes in a mailbox; return what became of each.

        Raises:
            MailboxError: the mailbox cannot be read; parcels before that are in the file.
        """
        keys = self._keys
        taken: list[TakenIn] = []
        for stream in await asyncio.to_thread(mailbox.streams, keys.mesh):
            if stream == keys.stream_of(self._identity.node_id):
                continue
            try:
                author, parcel = await asyncio.to_thread(self._newest, mailbox, stream)
                why = await self._replay(mailbox, author.node_id, parcel)
                taken.append(TakenIn(author.name, "partly" if why else "read", why))
            except (DecodeError, CertificateError, sync_errors.DecodeError) as error:
                taken.append(TakenIn(f"stream {stream.hex()}", "refused", str(error)))
        return taken

    def _newest(self, mailbox: Mailbox, stream: bytes) -> tuple[Certificate, list[Listed]]:
        """Return the author and the envelopes of the newest complete parcel.

        Raises:
            DecodeError, CertificateError: there is no such parcel.
        """
        complete: list[Listed] = []
        run: list[Listed] = []
        refusal: DecodeError | CertificateError = DecodeError("it has no complete parcel")
        for each in mailbox.list_after(self._keys.mesh, stream, 0):
            try:
                contents = self._open(mailbox, each)[1]
            except (DecodeError, CertificateError) as error:
                refusal, run = error, []
                continue
            if contents.previous == 0:
                run = [each]
            elif run and run[-1].position == contents.previous:
                run.append(each)
            else:
                run = []
            if run and isinstance(wire.decode(contents.batches[-1].payload), wire.Done):
                complete, run = run, []
        if not complete:
            raise refusal
        return self._open(mailbox, complete[0])[0], complete

    def _open(self, mailbox: Mailbox, listed: Listed) -> tuple[Certificate, Contents]:
        """Return the member of a stream, and the contents of one of its envelopes, whose messages it has signed."""
        data = mailbox.get(self._keys.mesh, listed)
        if data is None:
            raise DecodeError("an envelope was removed, or is no file of its size")
        contents = open_envelope(self._keys, listed.stream, listed.position, data)
        if not contents.certificates:
            raise DecodeError("an envelope has no certificate")
        author = self._roster.verify(contents.certificates[0], clock()[1])
        if self._keys.stream_of(author.node_id) != listed.stream:
            raise DecodeError("an envelope lies in the stream of another member")
        for batch in contents.batches:
            if batch.origin != author.node_id or not verify(author.node_key, _DOMAIN, batch.signed, batch.signature):
                raise DecodeError(f"a message in an envelope is not signed by {author.name}")
        return author, contents

    def _messages(self, mailbox: Mailbox, parcel: list[Listed]) -> Iterator[tuple[bytes, wire.Message]]:
        """Yield the messages of a parcel, one envelope in memory at a time."""
        for each in parcel:
            for batch in self._open(mailbox, each)[1].batches:
                yield batch.payload, wire.decode(batch.payload)

    async def _replay(self, mailbox: Mailbox, author: bytes, parcel: list[Listed]) -> str:
        """Replay a parcel until the exchange requests nothing more of it; return what is left for a link, "" for nothing."""
        with self._links.open(author) as link:
            for _ in range(PASSES_MAX):
                joiner = Joiner()
                for payload, message in self._messages(mailbox, parcel):
                    link.send(payload)
                    if isinstance(joiner.on_message(message, len(payload)), wire.Digests):
                        break
                while True:
                    answer = await link.receive(QUIET_S)
                    if answer is None:
                        return ""
                    if isinstance(answer, str):
                        return f"the node dropped it: {answer}"
                    kind = wire.decode(answer)
                    if isinstance(kind, wire.AuditRequest):
                        return "its deletes are collected, and need a link with a member to tell which rows they were"
                    if isinstance(kind, wire.Vectors):
                        break
                problem = await self._stream(link, mailbox, parcel)
                if problem:
                    return problem
        return "some tables are not here yet; run it again"

    async def _stream(self, link: VirtualLink, mailbox: Mailbox, parcel: list[Listed]) -> str:
        """Send the recorded stream, each chunk once the one before is acknowledged."""
        begun = False
        for payload, message in self._messages(mailbox, parcel):
            whole = message.message if isinstance(message, wire.Part) else message
            begun = begun or not isinstance(whole, wire.Digests)
            if not begun:
                continue
            link.send(payload)
            while isinstance(message, wire.Chunk):
                answer = await link.receive(ANSWER_S)
                if not isinstance(answer, bytes):
                    return (
                        f"the node dropped it: {answer}"
                        if answer
                        else "the file takes no rows now; see 'mycomesh status'"
                    )
                if isinstance(wire.decode(answer), wire.Ack):
                    break
        return ""
