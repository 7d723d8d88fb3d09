"""One connection of a mesh core: its session, and once a member is behind it, the link.

Owns the figures of one connection and the turning of messages into bytes. What always holds: what is written is counted
and is our sign of life. Must not know: other links.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.address import is_loopback, is_routable
from mycomesh.mesh.events import Address, PeerInfo, Write
from mycomesh.mesh.messages import Addresses, Message, encode_parts
from mycomesh.mesh.overlay.topology import Neighbour
from mycomesh.mesh.session.key_refresh import REFRESH_MS
from mycomesh.mesh.session.session import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.links.authentication import JoinGate, MemberGate, MemberHello
    from mycomesh.mesh.links.failure_detector import FailureDetector
    from mycomesh.mesh.session.session import Session
    from mycomesh.mesh.turn import Turn

__all__ = ["PONGS_MAX", "Link", "addresses_to_share", "clock_offsets", "due_links", "shareable_addresses"]

WAITING_MAX = 16_384  # urgent messages of one link: small ones cost 150 bytes each beside what they count
PONGS_MAX = 64  # urgent messages that wait on a link, above which a ping stays without answer: its peer does not read
TOGETHER = 3  # heartbeats are brought forward by up to a third to leave together
ADDRESSES_TOLD_MAX = 64  # to one new link: enough to find a small mesh, or a way into a large one

_SCOPED = "%"


@dataclass(slots=True)
class Link:
    """One connection. `hello` are set once its member is linked; `backlog` while more than a little waits unsent.

    `version` of the protocol is what both sides agreed on, 0 before that.
    """

    conn: int
    address: Address
    dialled: bool
    session: Session
    gate: MemberGate | JoinGate
    opened_ms: int
    detector: FailureDetector
    hello: MemberHello | None = None
    backlog: bool = False
    sent_bytes: int = 0
    received_bytes: int = 0
    keys_refreshed_ms: int = 0
    version: int = 0

    def send(self, message: Message, priority: int) -> None:
        """Queue one message. A peer that said goodbye in the bytes under way hears nothing more."""
        if self.session.phase is Phase.OPEN:
            head, payload = encode_parts(message, self.version)
            self.session.send(payload, priority, head)

    def flush(self, turn: Turn) -> None:
        """Write what may be written."""
        for frame in self.session.frames():
            self.write(frame, turn)

    def write(self, data: bytes, turn: Turn) -> None:
        """Write these bytes."""
        if data:
            self.sent_bytes += len(data)
            self.detector.record_sent(turn.now_ms)
            turn.do(Write(self.conn, data))

    def is_overfull(self, queue_bytes_max: int) -> bool:
        """Whether more waits here than a peer that reads would ever leave."""
        outbox = self.session.outbox
        return outbox.queued > queue_bytes_max or outbox.queued_messages(0) > WAITING_MAX

    def deadline(self, handshake_ms: int) -> int:
        """When to look at this connection again: at the end of the handshake's time, or as its detector says."""
        return self.opened_ms + handshake_ms if self.hello is None else self.detector.deadline()

    def refresh_keys(self, turn: Turn) -> None:
        """Begin to change the keys of a link that we dialled, when they are an hour old."""
        if self.dialled and turn.now_ms - max(self.keys_refreshed_ms, self.opened_ms) >= REFRESH_MS:
            self.keys_refreshed_ms = turn.now_ms
            self.write(self.session.refresh_keys(), turn)

    def peer_info(self) -> PeerInfo:
        """Who is behind this link."""
        assert self.hello is not None, "no member is behind this connection"
        certificate = self.hello.certificate
        return PeerInfo(certificate.node_id, certificate.name, certificate.roles, self.address, self.dialled)

    def neighbour(self, now_ms: int) -> Neighbour:
        """This link as a line of our link-state."""
        assert self.hello is not None
        rtt_ms = self.detector.metrics(now_ms).rtt_ms
        node_id = self.hello.certificate.node_id
        return Neighbour(node_id, -1 if rtt_ms is None else round(rtt_ms), self.sent_bytes, self.received_bytes)


def due_links(links: Iterable[Link], config: MeshConfig, now_ms: int) -> tuple[int, list[Link]]:
    """The connections to look at now, and until when what they have to say is brought forward.

    Who has to say something to one peer says it to those whose time is near: a radio then wakes once for all.
    """
    links = list(links)
    beating = any(link.hello is not None and link.detector.is_ping_due(now_ms) for link in links)
    near_ms = now_ms + (config.heartbeat_ms // TOGETHER if beating else 0)
    look_ms = [now_ms if link.hello is None else near_ms for link in links]
    return near_ms, [
        link for link, until in zip(links, look_ms, strict=True) if link.deadline(config.handshake_ms) <= until
    ]


def clock_offsets(links: Iterable[Link], apart_ms: int) -> list[float]:
    """The clocks of the linked members less ours, which shows `apart_ms` more than our monotonic one, as far as measured."""
    measured = (link.detector.offset_ms(apart_ms) for link in links if link.hello is not None)
    return [offset_ms for offset_ms in measured if offset_ms is not None]


def shareable_addresses(link: Link, asking: Link) -> list[tuple[bytes, Address]]:
    """Where the member of `link` listens, as far as that means anything to the member of `asking`."""
    assert link.hello is not None
    host, port = link.address.host, link.address.port if link.dialled else link.hello.port
    if port == 0 or not (is_routable(host) or (is_loopback(host) and is_loopback(asking.address.host))):
        return []
    return [(link.hello.certificate.node_id, Address(host, port))]


def addresses_to_share(newcomer: Link, members: Iterable[Link], *, both: bool) -> list[tuple[Link, Addresses]]:
    """Whom to tell which addresses when a member is linked: it hears of the others, and if `both` they hear of it."""
    told: list[tuple[Link, Addresses]] = []
    entries: list[tuple[bytes, Address]] = []
    for other in members:
        if other is not newcomer:
            entries += shareable_addresses(other, newcomer)
            where = shareable_addresses(newcomer, other)
            if where and both:
                told.append((other, Addresses(tuple(where))))
    if entries:
        told.append((newcomer, Addresses(tuple(entries[-ADDRESSES_TOLD_MAX:]))))
    return told
