"""One connection of a mesh core, which becomes the link to a member once that member is admitted.

It encodes messages, queues them in the session, and counts bytes. Every write also resets the failure detector's idle timer,
since the peer takes it as a sign of life.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.address import is_circuit, is_loopback, is_routable
from mycomesh.mesh.events import Address, PeerInfo, Write
from mycomesh.mesh.membership.certificate import SKEW_S_MAX
from mycomesh.mesh.messages import Addresses, Message, encode_parts
from mycomesh.mesh.overlay.topology import Neighbour
from mycomesh.mesh.session.key_refresh import REFRESH_MS
from mycomesh.mesh.session.session import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.link_budget import LinkBudget
    from mycomesh.mesh.links.authentication import JoinGate, MemberGate, MemberHello
    from mycomesh.mesh.links.failure_detector import FailureDetector
    from mycomesh.mesh.links.traffic import Traffic
    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.session.session import Session
    from mycomesh.mesh.turn import Turn

__all__ = ["PONGS_MAX", "Link", "addresses_to_share", "clock_offsets", "due_links", "shareable_addresses"]

WAITING_MAX = 16_384  # queued urgent messages of one link: a small one costs 150 bytes more than its counted size
PONGS_MAX = 64  # queued urgent messages of one link, above which pings get no reply: the peer does not read
TOGETHER = 3  # heartbeats are sent up to a third of the interval early, to leave together
ADDRESSES_SHARED_MAX = 64  # sent on a new link: enough to find all of a small mesh, or a way into a large one

_SCOPED = "%"


@dataclass(slots=True)
class Link:
    """One connection. `hello` is set once this is the link to a member, `backlog` while `ready_bytes` or more wait unsent.

    `version` is the protocol version that both sides use, 0 before the handshake is done.
    """

    conn: int
    address: Address
    dialled: bool
    session: Session
    gate: MemberGate | JoinGate
    opened_ms: int
    detector: FailureDetector
    traffic: Traffic
    hello: MemberHello | None = None
    backlog: bool = False
    sent_bytes: int = 0
    received_bytes: int = 0
    keys_refreshed_ms: int = 0
    version: int = 0
    budget: LinkBudget | None = None  # of a metered link
    paced_ms: int | None = None  # when the budget has room for what waits

    def send(self, message: Message, priority: int) -> None:
        """Queue one message. Discard it if the session is not open: the peer may have closed it in the bytes just received."""
        if self.session.phase is Phase.OPEN:
            head, payload = encode_parts(message, self.version)
            self.traffic.record_sent(message, len(head) + len(payload))
            self.session.send(payload, priority, head)

    def flush(self, turn: Turn) -> None:
        """Write the frames that may be sent."""
        if self.budget is None:
            for frame in self.session.frames():
                self.write(frame, turn)
            return
        budget, now_ms, wall_ms = self.budget, turn.now_ms, turn.wall_ms
        self.session.give_credit(bulk=budget.room(now_ms, wall_ms) != 0)
        for frame in self.session.frames(lambda: budget.room(now_ms, wall_ms)):
            self.write(frame, turn)
        self.paced_ms = None if budget.room(now_ms, wall_ms) != 0 else budget.next_ms(now_ms, wall_ms)

    def write(self, data: bytes, turn: Turn) -> None:
        """Write these bytes, and count them."""
        if data:
            self.sent_bytes += len(data)
            self.traffic.record_written(len(data))
            self.detector.record_sent(turn.now_ms)
            if self.budget is not None:
                self.budget.spend(len(data), turn.now_ms, turn.wall_ms)
            turn.do(Write(self.conn, data))

    def record_received(self, size: int, turn: Turn) -> None:
        """Count bytes of the peer: a sign of life, and part of the budget."""
        self.received_bytes += size
        self.traffic.record_read(size)
        self.detector.record_received(turn.now_ms)
        if self.budget is not None:
            self.budget.spend(size, turn.now_ms, turn.wall_ms)

    def backlog_bytes(self, config: MeshConfig) -> tuple[int, int]:
        """Return the unsent bytes below which this link gets live batches again, and above which it gets none."""
        behind_bytes = None if self.budget is None else self.budget.behind_bytes
        if behind_bytes is None or behind_bytes >= config.behind_bytes:
            return config.ready_bytes, config.behind_bytes
        return min(config.ready_bytes, behind_bytes // 2), behind_bytes

    def is_overfull(self, queue_bytes_max: int) -> bool:
        """Return True if the queue is so long that the peer cannot be reading."""
        outbox = self.session.outbox
        return outbox.queued > queue_bytes_max or outbox.queued_messages(0) > WAITING_MAX

    def deadline(self, handshake_ms: int) -> int:
        """Return when to check this connection again: at the handshake timeout, or at the detector's deadline."""
        if self.hello is None:
            return self.opened_ms + handshake_ms
        due_ms = self.detector.deadline()
        return due_ms if self.paced_ms is None else min(due_ms, self.paced_ms)

    def refresh_keys(self, turn: Turn) -> None:
        """Start a key refresh on a link that this node dialled, if its keys are an hour old."""
        if self.dialled and turn.now_ms - max(self.keys_refreshed_ms, self.opened_ms) >= REFRESH_MS:
            self.keys_refreshed_ms = turn.now_ms
            self.write(self.session.refresh_keys(), turn)

    def peer_info(self) -> PeerInfo:
        """Return the member of this link."""
        assert self.hello is not None, "this connection is not the link to a member"
        certificate = self.hello.certificate
        metered = self.budget is not None
        return PeerInfo(certificate.node_id, certificate.name, certificate.roles, self.address, self.dialled, metered)

    def neighbour(self, now_ms: int) -> Neighbour:
        """Return this link as an entry of our link-state."""
        assert self.hello is not None
        rtt_ms = self.detector.metrics(now_ms).rtt_ms
        node_id = self.hello.certificate.node_id
        rtt = -1 if rtt_ms is None else round(rtt_ms)
        if is_circuit(self.address.host):  # its bytes are those of the links that carry it
            return Neighbour(node_id, rtt, 0, 0)
        return Neighbour(node_id, rtt, self.sent_bytes, self.received_bytes)


def due_links(links: Iterable[Link], config: MeshConfig, now_ms: int) -> tuple[int, list[Link]]:
    """Return the connections to check now, and the time up to which their heartbeats are sent early.

    If one heartbeat is due, those that are nearly due go with it, so that a radio wakes once for all of them.
    """
    links = list(links)
    beating = any(link.hello is not None and link.detector.is_ping_due(now_ms) for link in links)
    near_ms = now_ms + (config.heartbeat_ms // TOGETHER if beating else 0)
    until_ms = [now_ms if link.hello is None else near_ms for link in links]
    return near_ms, [
        link for link, until in zip(links, until_ms, strict=True) if link.deadline(config.handshake_ms) <= until
    ]


def clock_offsets(links: Iterable[Link], turn: Turn, roster: Roster) -> tuple[list[float], list[float]]:
    """Return the clock offsets of linked members (theirs minus ours): those that are measured, and the signed ones of them.

    A clock is signed for if the mesh's root has signed certificates for its time: it is not behind the newest signed time, and
    neither that member's certificate nor this node's has expired by it.
    """
    apart_ms = turn.wall_ms - turn.now_ms
    earliest_ms = (roster.newest_seen_s - SKEW_S_MAX) * 1_000
    measured, signed = [], []
    for link in links:
        offset_ms = link.detector.offset_ms(apart_ms)
        if link.hello is None or offset_ms is None:
            continue
        measured.append(offset_ms)
        certificate = roster.get(link.hello.certificate.node_id) or link.hello.certificate
        latest_ms = min(certificate.not_after_s, roster.identity.certificate.not_after_s) * 1_000
        if earliest_ms <= turn.wall_ms + offset_ms < latest_ms:
            signed.append(offset_ms)
    return measured, signed


def shareable_addresses(link: Link, recipient: Link) -> list[tuple[bytes, Address]]:
    """Return where the member of `link` listens, or an empty list if the member of `recipient` could not use that address."""
    assert link.hello is not None
    host, port = link.address.host, link.address.port if link.dialled else link.hello.port
    if port == 0 or not (is_routable(host) or (is_loopback(host) and is_loopback(recipient.address.host))):
        return []
    return [(link.hello.certificate.node_id, Address(host, port))]


def addresses_to_share(newcomer: Link, members: Iterable[Link], *, both: bool) -> list[tuple[Link, Addresses]]:
    """Return which addresses to send on which link when a member is linked.

    The newcomer gets the addresses of the other members, and if `both`, they get its address.
    """
    messages: list[tuple[Link, Addresses]] = []
    entries: list[tuple[bytes, Address]] = []
    for other in members:
        if other is not newcomer:
            entries += shareable_addresses(other, newcomer)
            where = shareable_addresses(newcomer, other)
            if where and both:
                messages.append((other, Addresses(tuple(where))))
    if entries:
        messages.append((newcomer, Addresses(tuple(entries[-ADDRESSES_SHARED_MAX:]))))
    return messages
