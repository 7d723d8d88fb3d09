"""Rounds recorded and replayed over a virtual link: how a node's rows get into a mailbox, and into the files of others.

A recording lets the exchange answer a reader that covers given vectors. A replay speaks for the member that recorded it, so every
check of a round applies: rights, seals, admission, the intake, short locks. Only a live peer can answer the audit for collected
tombstones, so that is left to a round over a link.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.exchange.link import NOBODY
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.parts import Joiner, cut
from mycomesh.sync.wire.units import table_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.node.surroundings import Surroundings
    from mycomesh.mesh.node.virtual_links import VirtualLink, VirtualLinks
    from mycomesh.sync.crdt.version_vector import Vector
    from mycomesh.sync.replica import Replica

Answer = TypeVar("Answer", wire.Vectors, wire.Ack)

__all__ = ["UNKNOWN", "lacking", "readable", "record", "replay", "undefined"]

ANSWER_MS = 60_000  # the exchange answers within milliseconds unless the file is locked or the disk is full
REQUEST_MS = 5_000  # a table that another round fetches is not requested; the caller tries again later
SETTLE_MS = 5_000  # from the end of a stream until its vectors are taken
SETTLE_STEP_MS = 100
UNKNOWN_MAX = 4_096  # tables of a member that are not here, in one message; a mesh has some hundred
PASSES_MAX = 8  # replays of one recording; the first may only bring the definitions of tables

UNKNOWN = "some tables are not here yet"
AUDIT = "its deletes are collected, and need a link with a member to tell which rows they were"


def readable(roster: Roster, names: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the tables that every member may read, and the others: all members can open an envelope."""
    limited = roster.restricted_rights()
    rights = Rights(roster.own_id, limited)
    kept = [name for name in names if all(rights.may_read(node_id, name) for node_id, _ in limited)]
    return kept, tuple(name for name in names if name not in kept)


async def record(
    surroundings: Surroundings,
    links: VirtualLinks,
    choose: Callable[[wire.Digests], Mapping[str, Vector]],
    on_message: Callable[[wire.Plan | wire.Chunk | wire.Done], Awaitable[None]],
) -> None:
    """Let the exchange send what a reader lacks that covers the chosen vectors; `Done` is the last message.

    `choose` gets the digests of this node, and returns the vectors by table; without a table nothing is sent.

    Raises:
        NodeError: the file cannot be read.
    """
    with links.open(NOBODY) as link:
        digests = await _expect(surroundings, link, wire.Digests)
        assert isinstance(digests, wire.Digests)
        have = choose(digests)
        if not have:
            return
        for piece in cut(wire.Vectors(tuple(sorted(have.items())))):
            link.send(wire.encode(piece))
        while True:
            message = await _expect(surroundings, link, wire.Plan, wire.Chunk, wire.Done)
            assert isinstance(message, wire.Plan | wire.Chunk | wire.Done)
            await on_message(message)
            if isinstance(message, wire.Chunk):
                link.send(wire.encode(wire.Ack(len(wire.encode(message)))))
            if isinstance(message, wire.Done):
                return


async def _expect(surroundings: Surroundings, link: VirtualLink, *kinds: type) -> wire.WholeMessage:
    """Return the next message of one of these kinds, with its parts; ignore others, which need no answer."""
    joiner = Joiner()
    while True:
        payload = await link.receive(surroundings, ANSWER_MS)
        if not isinstance(payload, bytes):
            raise NodeError(f"the file could not be read: {payload or 'no answer'}; 'mycomesh status' may say why")
        message = joiner.on_message(wire.decode(payload), len(payload))
        if message is not None and isinstance(message, kinds):
            return message


def lacking(replica: Replica, author: bytes, vectors: Sequence[tuple[str, Vector]]) -> list[str]:
    """Return the tables of which this file takes rows from that member, and does not cover these vectors.

    Of tables that this file does not have, `UNKNOWN_MAX` at most: a member may name any number.
    """
    found, unknown = list[str](), 0
    for name, vector in vectors:
        if table_of(name) not in replica.tables:
            unknown += 1
            if unknown > UNKNOWN_MAX:
                continue
        if (
            replica.admits(name)
            and replica.rights.may_write(author, name)
            and vector.missing_from(replica.vector(name))
        ):
            found.append(name)
    return found


def undefined(replica: Replica, author: bytes, vectors: Sequence[tuple[str, Vector]]) -> bool:
    """Return whether a recording has rows of a table whose definition this file lacks and the recording does not bring.

    Its replay would wait `SETTLE_MS` in vain.
    """
    names = [name for name in lacking(replica, author, vectors) if replica.registry.unit(name) is None]
    return bool(names) and all(name != SCHEMA_TABLE for name, _ in vectors)


async def replay(
    surroundings: Surroundings,
    links: VirtualLinks,
    author: bytes,
    done: wire.Done,
    chunks: Callable[[], AsyncIterator[bytes]],
    leave: Sequence[str] = (),
) -> dict[str, str]:
    """Replay a recording that ends with `done`; return the tables that do not cover its vectors afterwards, and why.

    `chunks` returns the encoded chunks from the first on, each time that it is called. Tables in `leave` are not asked for.
    """
    await surroundings.query(lambda replica: replica.inbox.renew_site_if_behind(dict(done.vectors)))

    async def still_lacking() -> list[str]:
        found = await surroundings.query(lambda replica: lacking(replica, author, done.vectors))
        return [name for name in found if name not in leave]

    needed, why = await still_lacking(), ""
    for _ in range(PASSES_MAX):
        if not needed:
            return {}
        with links.open(author) as link:
            why = await _replay_once(surroundings, link, done, needed, chunks)
            if not why:
                why = await _settle(surroundings, link, still_lacking)
        before, needed = needed, await still_lacking()
        if needed == before:
            break
    return dict.fromkeys(needed, why or UNKNOWN)


async def _replay_once(
    surroundings: Surroundings,
    link: VirtualLink,
    done: wire.Done,
    names: Sequence[str],
    chunks: Callable[[], AsyncIterator[bytes]],
) -> str:
    """Replay once the tables that the exchange requests; return why that failed, "" if it did not."""
    digests = wire.Digests(tuple((name, _digest(name, done), bytes(16)) for name in sorted(names)))
    for piece in cut(digests):
        link.send(wire.encode(piece))
    request = await _answer(surroundings, link, REQUEST_MS, wire.Vectors)
    if not isinstance(request, wire.Vectors):
        return request or "another round fetches the tables at the moment"
    wanted = {name for name, _ in request.vectors}
    async for chunk in chunks():
        link.send(chunk)
        answer = await _answer(surroundings, link, ANSWER_MS, wire.Ack)
        if not isinstance(answer, wire.Ack):
            return answer or "the file takes no rows now; see 'mycomesh status'"
    vectors = tuple((name, vector) for name, vector in done.vectors if name in wanted)
    collected = tuple((name, vector) for name, vector in done.collected if name in wanted)
    for piece in cut(wire.Done(vectors, collected)):
        link.send(wire.encode(piece))
    return ""


async def _answer(surroundings: Surroundings, link: VirtualLink, ms_max: int, kind: type[Answer]) -> Answer | str:
    """Return the next message of a kind, with its parts; text if the exchange dropped the link, "" if nothing came."""
    joiner = Joiner()
    while True:
        payload = await link.receive(surroundings, ms_max)
        if not isinstance(payload, bytes):
            return "" if payload is None else f"the node dropped it: {payload}"
        message = joiner.on_message(wire.decode(payload), len(payload))
        if isinstance(message, kind):
            return message


async def _settle(
    surroundings: Surroundings, link: VirtualLink, still_lacking: Callable[[], Awaitable[list[str]]]
) -> str:
    """Wait until the exchange has taken the vectors; return why it cannot, "" once it has or if it takes too long."""
    for _ in range(SETTLE_MS // SETTLE_STEP_MS):
        payload = await link.receive(surroundings, SETTLE_STEP_MS)
        if isinstance(payload, str):
            return f"the node dropped it: {payload}"
        if payload is not None and isinstance(wire.decode(payload), wire.AuditRequest):
            return AUDIT
        if not await still_lacking():
            return ""
    return ""


def _digest(name: str, done: wire.Done) -> bytes:
    """Return 8 bytes in place of a vector's digest, which the exchange compares with its own."""
    stated = b"".join(vector.digest() for table, vector in done.vectors if table == name)
    return blake2b(stated, digest_size=8, person=b"mycomesh-replay").digest()
