"""A mesh machine without cryptography, in place of `mesh.core.MeshCore`.

It serves runs with hundreds of nodes, and separates errors of sync from errors of the mesh. It signs and encrypts nothing, so
it says nothing about security.

Invariants: one link to each peer; messages arrive in order; a node delivers each batch at most once and floods it to all links.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, assert_never

from mycomesh.mesh.events import (
    Action,
    Address,
    AddressFound,
    CertificatesFound,
    Close,
    ConnClosed,
    ConnDrained,
    ConnOpened,
    ConnReceived,
    DeliverBatch,
    DeliverMessage,
    Dial,
    DialFailed,
    Event,
    LinkDown,
    LinkReady,
    LinkUp,
    NetworkChanged,
    PeerInfo,
    PublishBatch,
    PurgeWrites,
    RevokeMembers,
    SendMessage,
    StateInterests,
    TimerFired,
    Write,
)
from mycomesh.mesh.mesh_clock import MeshClock

if TYPE_CHECKING:
    import random

__all__ = ["PlainMesh"]

BEAT_MS = 2_000  # between heartbeats of a silent link
DEAD_MS = 8_000  # of silence, after which the node closes a link
RETRY_MS = (500, 15_000)  # first and longest backoff of redials
FULL_MAX = 16  # known addresses up to which all nodes link to all others
DIALS = 3  # streams that a node of a larger mesh opens: a random graph with this out-degree is connected
SHUFFLE_MS = 10_000  # between replacements of one of them
DIALLING = -1
SEEN_MAX = 4_096  # digests of delivered batches; copies of older ones no longer arrive
HELLO, BEAT, MESSAGE, BATCH = range(4)
HEADER = 5  # 4 bytes of length, 1 of type
ORIGIN = 16


@dataclass(slots=True)
class Conn:
    """One stream, and one link once its hello has arrived."""

    address: Address
    dialled: bool
    received_ms: int
    sent_ms: int
    buffer: bytes = b""
    peer: PeerInfo | None = None


@dataclass(slots=True)
class PlainRoster:
    """The rights of nodes without certificates."""

    version: int = 0
    own_id: bytes = b""

    def restricted_rights(self) -> tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]:
        """Return no limits: every node may do everything."""
        return ()

    def take_admitted(self) -> tuple[bytes, ...]:
        """Return nothing: nodes have no certificates."""
        return ()

    def purge_orders(self) -> tuple[tuple[bytes, int], ...]:
        """Return nothing: no node is revoked."""
        return ()


@dataclass(frozen=True, slots=True)
class PlainPeer:
    """Another node, and how long ago it last sent something."""

    node_id: bytes
    seen_ms_ago: int | None


class PlainMesh:
    """Links, liveness and flooding; sans-I/O like the real one."""

    def __init__(self, node_id: bytes, rng: random.Random) -> None:
        self._node_id = node_id
        self._rng = rng
        self._conns: dict[int, Conn] = {}
        self._links: dict[bytes, int] = {}
        self._known: dict[Address, tuple[int, int]] = {}  # address -> (when to dial or DIALLING, backoff)
        self._seen: dict[bytes, None] = {}
        self._last_seen_ms: dict[bytes, int] = {}  # node id -> when it last sent something, for nodes without a link
        self._shuffle_at = 0
        self.mesh_clock = MeshClock()  # never set: a plain mesh does not measure clocks
        self._due_ms: int | None = -1  # the result of `next_deadline`; -1: unknown

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:  # noqa: C901, PLR0912  (one branch an event)
        """Handle one event; return the actions in order."""
        del wall_ms
        done: list[Action] = []
        match event:
            case ConnReceived(conn, data):
                self._on_received(conn, data, now_ms, done)
            case PublishBatch(payload, _):
                self._seen_before(payload)
                self._flood(self._node_id + payload, -1, now_ms, done)
            case SendMessage(link, payload, _):
                self._send(link, MESSAGE, payload, now_ms, done)
            case TimerFired():
                self._on_timer(now_ms, done)
            case CertificatesFound():
                pass  # this mesh has no certificates
            case AddressFound(address, _, _):
                self._known.setdefault(address, (now_ms, RETRY_MS[0]))
                self._on_timer(now_ms, done)
            case ConnOpened(conn, address, dialled):
                if dialled:
                    self._known[address] = (now_ms + RETRY_MS[1], RETRY_MS[0])
                self._conns[conn] = Conn(address, dialled, now_ms, now_ms)
                self._send(conn, HELLO, self._node_id, now_ms, done)
            case ConnClosed(conn):
                self._drop(conn, "closed", now_ms, done)
            case ConnDrained(conn):
                if conn in self._links.values():
                    done.append(LinkReady(conn))
            case DialFailed(address):
                self._retry(address, now_ms)
            case NetworkChanged():
                self._known = dict.fromkeys(self._known, (now_ms, RETRY_MS[0]))
                self._on_timer(now_ms, done)
            case StateInterests():
                pass  # it floods every batch to everybody
            case RevokeMembers() | PurgeWrites():
                pass  # a plain mesh has no members to revoke
            case _:
                assert_never(event)
        if not isinstance(event, ConnReceived | PublishBatch | SendMessage) or any(
            isinstance(it, LinkUp | LinkDown) for it in done
        ):
            self._due_ms = -1
        return done

    def next_deadline(self) -> int | None:
        """Return when a dial, a heartbeat or the end of a silent link is due.

        Bytes received and sent only postpone deadlines, so an earlier result stays valid: the timer may find nothing to do.
        """
        if self._due_ms == -1:
            self._due_ms = self._next()
        return self._due_ms

    @property
    def roster(self) -> PlainRoster:
        """The roster, in which every node may do everything."""
        return PlainRoster()

    def peers(self, now_ms: int) -> tuple[PlainPeer, ...]:
        """Return all nodes that have ever had a link here; without certificates a node knows no others."""
        seen_ms = {**self._last_seen_ms, **dict.fromkeys(self._links, now_ms)}
        return tuple(PlainPeer(node_id, now_ms - last_ms) for node_id, last_ms in sorted(seen_ms.items()))

    def _next(self) -> int | None:
        times = []
        if len(self._known) > FULL_MAX:
            times.append(self._shuffle_at)
        if len(self._known) <= FULL_MAX or self._dials() < DIALS:
            times += [self._known[address][0] for address in self._undialled()]
        for conn in self._conns.values():
            times.append(conn.received_ms + DEAD_MS)
            times.append(conn.sent_ms + BEAT_MS)
        return min(times, default=None)

    # ---- streams

    def _on_received(self, number: int, data: bytes, now_ms: int, done: list[Action]) -> None:
        conn = self._conns.get(number)
        if conn is None:
            return
        conn.received_ms = now_ms
        buffer = conn.buffer + data
        at = 0
        while len(buffer) - at >= HEADER:
            end = at + HEADER + int.from_bytes(buffer[at : at + 4], "big")
            if len(buffer) < end:
                break
            self._on_frame(number, buffer[at + 4], buffer[at + HEADER : end], now_ms, done)
            if number not in self._conns:
                return
            at = end
        conn.buffer = buffer[at:]

    def _on_frame(self, number: int, kind: int, body: bytes, now_ms: int, done: list[Action]) -> None:
        if kind == HELLO:
            self._on_hello(number, body, now_ms, done)
        elif kind == MESSAGE:
            done.append(DeliverMessage(number, body))
        elif kind == BATCH and not self._seen_before(body[ORIGIN:]):
            self._flood(body, number, now_ms, done)
            done.append(DeliverBatch(number, body[:ORIGIN], body[ORIGIN:]))

    def _on_hello(self, number: int, peer_id: bytes, now_ms: int, done: list[Action]) -> None:
        conn = self._conns[number]
        conn.peer = PeerInfo(peer_id, peer_id.hex()[:8], (), conn.address, conn.dialled)
        other = self._links.get(peer_id)
        if other is not None:
            # Of two streams both ends keep the one that the smaller id dialled; a later stream of that kind replaces it.
            wanted = self._node_id < peer_id
            if conn.dialled != wanted and self._conns[other].dialled == wanted:
                self._end(number, "second stream", now_ms, done)
                return
            self._end(other, "replaced", now_ms, done)
        self._links[peer_id] = number
        done.append(LinkUp(number, conn.peer))
        mine = [link for link in self._links.values() if self._conns[link].dialled]
        if len(self._known) > FULL_MAX and len(mine) > DIALS:
            self._end(mine[0], "shuffled", now_ms, done)

    def _end(self, number: int, reason: str, now_ms: int, done: list[Action]) -> None:
        done.append(Close(number, reason))
        self._drop(number, reason, now_ms, done)

    def _drop(self, number: int, reason: str, now_ms: int, done: list[Action]) -> None:
        conn = self._conns.pop(number, None)
        if conn is None:
            return
        if conn.peer is not None and self._links.get(conn.peer.node_id) == number:
            del self._links[conn.peer.node_id]
            self._last_seen_ms[conn.peer.node_id] = conn.received_ms
            done.append(LinkDown(number, conn.peer, reason))
        for address in [known for known in self._known if known.host == conn.address.host]:
            self._retry(address, now_ms)

    # ---- frames

    def _send(self, number: int, kind: int, body: bytes, now_ms: int, done: list[Action]) -> None:
        conn = self._conns.get(number)
        if conn is not None:
            conn.sent_ms = now_ms
            done.append(Write(number, len(body).to_bytes(4, "big") + bytes([kind]) + body))

    def _flood(self, body: bytes, but: int, now_ms: int, done: list[Action]) -> None:
        for number in self._links.values():
            if number != but:
                self._send(number, BATCH, body, now_ms, done)

    def _seen_before(self, payload: bytes) -> bool:
        digest = blake2b(payload, digest_size=16).digest()
        if digest in self._seen:
            return True
        self._seen[digest] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return False

    # ---- time

    def _retry(self, address: Address, now_ms: int) -> None:
        _, backoff = self._known.get(address, (0, RETRY_MS[0]))
        backoff = min(backoff * 2, RETRY_MS[1])
        self._known[address] = (now_ms + self._rng.randint(backoff // 2, backoff), backoff)

    def _on_timer(self, now_ms: int, done: list[Action]) -> None:
        self._dial(now_ms, done)
        for number, conn in list(self._conns.items()):
            if now_ms >= conn.received_ms + DEAD_MS:
                self._end(number, "silent", now_ms, done)
            elif now_ms >= conn.sent_ms + BEAT_MS:
                self._send(number, BEAT, b"", now_ms, done)

    def _dial(self, now_ms: int, done: list[Action]) -> None:
        """Dial all nodes of a small mesh, or a few of a large one and sometimes another, so that halves find each other."""
        room = len(self._known)
        if room > FULL_MAX:
            room = DIALS - self._dials()
            if now_ms >= self._shuffle_at:
                self._shuffle_at = now_ms + self._rng.randint(SHUFFLE_MS // 2, SHUFFLE_MS)
                room = max(room, 1)
        if room <= 0:
            return
        due = [address for address in self._undialled() if self._known[address][0] <= now_ms]
        if len(due) > room:
            due = self._rng.sample(due, room)
        for address in due:
            self._known[address] = (DIALLING, self._known[address][1])
            done.append(Dial(address))

    def _dials(self) -> int:
        """Return how many streams this node has dialled, open or in progress."""
        return sum(conn.dialled for conn in self._conns.values()) + sum(
            at == DIALLING for at, _ in self._known.values()
        )

    def _undialled(self) -> list[Address]:
        linked = {self._conns[number].address.host for number in self._links.values()}
        return [address for address, (at, _) in self._known.items() if at >= 0 and address.host not in linked]
