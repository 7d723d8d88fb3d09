"""MeshCore: connections become links, links become a mesh. Synchronous, without I/O, clock or chance of its own.

Owns every connection of one node and which of them is the link to a member. What always holds: LinkUp and LinkDown come
in pairs, with one link a member between them; a stranger costs a bounded place for a bounded time and hears nothing;
what waits for one link is bounded; each event is answered with the actions in the order in which they must be done.
Must not know: tables, sockets, files. The words of this border are those of `mesh.events`.

Two connections to one member: who dialled does not finish a handshake with a member that is linked already, and counts
a link as up when the other side, which decides, has said something on it; if both dialled at once, the one dialled by
the lower node id stays. A member that has restarted (another boot number) replaces its old connection at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mesh.config import MeshConfig
from mesh.detector import Detector
from mesh.dialer import Dialer
from mesh.door import Door
from mesh.errors import EnrolmentError, MeshError
from mesh.events import (
    Address,
    AddressFound,
    Close,
    ConnClosed,
    ConnDrained,
    ConnOpened,
    ConnReceived,
    DeliverBatch,
    DeliverMessage,
    Dial,
    DialFailed,
    LinkDown,
    LinkReady,
    LinkUp,
    MembershipChanged,
    NetworkChanged,
    Notice,
    PublishBatch,
    RevokeMember,
    SendMessage,
    TimerFired,
)
from mesh.gate import BOOT_BYTES, MemberGate, Papers, RefusalError, Visitor
from mesh.house import House, cloned, welcome
from mesh.joiner import Joiner
from mesh.link import PONGS_MAX, Link, awake, introductions, offsets
from mesh.membership import Membership
from mesh.message import Addresses, App, EpochHave, Epochs, Message, Ping, Pong, Revocations, decode_pieces
from mesh.overlay import Overlay
from mesh.peers import PeerStatus, peer_status
from mesh.quiet import Quiet
from mesh.results import Drop, Result, Tell
from mesh.session import Closed, Opened, Phase, Received, Reply, Session, Step
from mesh.timekeeper import Timekeeper
from mesh.view import View

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from mesh.enrolment import Invitation
    from mesh.events import Action, Event
    from mesh.identity import Identity
    from mesh.topology import LinkState, Neighbour

__all__ = ["Joiner", "MeshConfig", "MeshCore", "PeerStatus"]


class MeshCore:
    """One member node's mesh. Feed it events and do what it answers; call it again at `next_deadline()`."""

    __slots__ = (
        "_conns",
        "_dialer",
        "_dirty",
        "_door",
        "_house",
        "_links_due_ms",
        "_members",
        "_overlay",
        "_quiet",
        "_shown",
        "_view",
        "membership",
        "roster",
        "timekeeper",
    )

    def __init__(
        self,
        identity: Identity,
        *,
        entropy: Callable[[int], bytes],
        rng: random.Random,
        config: MeshConfig,
        invitations: Sequence[Invitation] = (),
        root_seed: bytes | None = None,
        standing: bytes = b"",
    ) -> None:
        self.membership = Membership(identity, root_seed, entropy, standing)
        self.roster = self.membership.roster
        self._house = House(identity, config, entropy, entropy(BOOT_BYTES), root_seed)
        self._conns: dict[int, Link] = {}
        self._members: dict[bytes, Link] = {}
        self._shown: dict[bytes, Link] = {}  # members who have our message 3 and have not said anything yet
        self._dirty: dict[int, None] = {}
        self._dialer = Dialer(config, rng)
        self._door = Door(config)
        self._overlay = Overlay(self.membership, config, rng, self._neighbours)
        self._quiet = Quiet()
        self.timekeeper = Timekeeper()
        self._links_due_ms = _NEVER  # no link is due before; traffic moves deadlines away from here unseen
        self._view = View(config, self._overlay, rng)
        for invitation in invitations:
            self.invite(invitation)

    # ---- what a shell calls

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Take one event; return what must be done, in order."""
        actions: list[Action] = []
        match event:
            case ConnOpened() | ConnReceived() | ConnDrained() | ConnClosed():
                self._on_conn(event, actions, now_ms, wall_ms)
            case AddressFound() | DialFailed() | NetworkChanged():
                self._dialer.hint(event, now_ms)
            case SendMessage(conn, payload, priority):
                link = self._conns.get(conn)
                if link is not None and link.papers is not None:
                    self._queue(link, App(payload), priority, actions, now_ms)
            case PublishBatch(payload, priority):
                self._apply(self._overlay.publish(payload, priority, now_ms), actions, now_ms)
            case RevokeMember(node_id):
                self._apply(self._overlay.revoke(node_id, wall_ms), actions, now_ms)
            case TimerFired():
                self._on_timer(actions, now_ms, wall_ms)
            case _:
                assert_never(event)
        self._settle(actions, now_ms)
        return actions

    def next_deadline(self) -> int | None:
        """The monotonic millisecond at which `TimerFired` is due."""
        due = self._overlay.deadline()
        dial = self._dialer.deadline()
        trim = self._view.deadline(self._members)
        return min(due, self._links_due_ms, due if dial is None else dial, due if trim is None else trim)

    def invite(self, invitation: Invitation) -> None:
        """Accept this invitation from this moment on; the oldest goes when there are more than a handshake tries."""
        self._house.invite(invitation)

    def invitations(self) -> tuple[Invitation, ...]:
        """The invitations as they stand; to be stored again at each `enrolment.granted` notice."""
        return self._house.invitations

    def listen(self, port: int) -> None:
        """Peers may be told that this node listens on this TCP port."""
        self._house.port = port

    def peers(self, now_ms: int) -> tuple[PeerStatus, ...]:
        """Every other member, by name: linked, reachable over others, or down."""
        overlay = self._overlay
        others = (each for each in self.roster.members() if each.node_id != self.roster.own_id)
        return tuple(peer_status(each, overlay.topology, self._members.get(each.node_id), now_ms) for each in others)

    def topology(self) -> tuple[LinkState, ...]:
        """What every node says about its links, for people."""
        return self._overlay.topology.states()

    # ---- connections

    def _on_conn(
        self,
        event: ConnOpened | ConnReceived | ConnDrained | ConnClosed,
        actions: list[Action],
        now_ms: int,
        wall_ms: int,
    ) -> None:
        if isinstance(event, ConnOpened):
            self._on_opened(event, actions, now_ms, wall_ms)
            return
        link = self._conns.get(event.conn)
        if link is None:
            return  # we have closed it, and its last bytes were under way
        match event:
            case ConnReceived(_, data):
                self._on_received(link, data, actions, now_ms, wall_ms)
            case ConnDrained():
                self._dirty[link.conn] = None
            case ConnClosed():
                self._drop(link, "the connection was lost", actions, now_ms, gone=True)
            case _:
                assert_never(event)

    def _on_opened(self, event: ConnOpened, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        conn, address, dialled = event.conn, event.address, event.dialled
        assert conn not in self._conns, f"connection {conn} was opened twice"
        house = self._house
        if dialled:
            self._dialer.opened(address)
        elif self._door.refuses(
            self._conns.values(), address.host, now_ms, known=self._dialer.known_host(address.host)
        ):
            text = f"too many connections of strangers; one from {address.host} was closed"
            self._say(Notice("conn.crowded", text, level="warning"), actions, now_ms)
            actions.append(Close(conn, "too many strangers"))
            return
        invitations = () if dialled else house.open_invitations(wall_ms)
        unwanted = self._unwanted if dialled else welcome
        membership = self.membership
        secrets = (membership.secret_for(address, wall_ms),) if dialled else membership.secrets(wall_ms)
        gate = MemberGate(house.papers(), membership.roster, secrets, invitations, unwanted)
        session = Session(gate.keys(), gate, initiator=dialled, entropy=house.entropy)
        detector = Detector(now_ms, heartbeat_ms=house.config.heartbeat_ms)
        link = Link(conn, address, dialled, session, gate, now_ms, detector)
        self._conns[conn] = link
        self._links_due_ms = min(self._links_due_ms, link.deadline(house.config.handshake_ms))
        if dialled:
            link.write(session.start(), actions, now_ms)

    def _on_received(self, link: Link, data: bytes, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        link.gate.wall_ms = wall_ms
        link.received_bytes += len(data)
        link.detector.heard(now_ms)
        for step in link.session.receive(data, now_ms):
            if not self._on_step(link, step, actions, now_ms, wall_ms):
                return
        self._dirty[link.conn] = None

    def _on_step(self, link: Link, step: Step, actions: list[Action], now_ms: int, wall_ms: int) -> bool:
        """Do one step of a session; False when the connection is gone."""
        match step:
            case Received(pieces, _):
                assert isinstance(link.gate, MemberGate)
                if link.papers is None and not link.gate.stale:
                    assert link.gate.papers is not None
                    self._admit(link, link.gate.papers, actions, now_ms, wall_ms)
                try:
                    message = decode_pieces(pieces)
                    if link.papers is None:
                        self._on_stale(link, message, actions, now_ms)
                    elif message is not None:
                        self._on_message(link, message, actions, now_ms, wall_ms)
                except MeshError as error:
                    self._drop(link, f"protocol: {error}", actions, now_ms)
            case Reply(data):
                link.write(data, actions, now_ms)
            case Opened():
                self._on_introduced(link, actions, now_ms, wall_ms)
            case Closed(reason, error):
                self._on_refused(link, error, reason, actions, now_ms)
            case _:
                assert_never(step)
        return link.conn in self._conns

    def _on_refused(self, link: Link, error: MeshError | None, reason: str, actions: list[Action], now_ms: int) -> None:
        assert isinstance(link.gate, MemberGate)
        papers = link.gate.papers
        if isinstance(error, RefusalError) and papers is not None:
            if papers.certificate.node_id != self._house.identity.node_id:
                self._dialer.answered(link.address, papers.certificate.node_id)
            elif papers.boot == self._house.boot:
                self._dialer.ours(link.address)
            else:
                self._say(cloned(link.address), actions, now_ms)
        elif error is not None and link.papers is None:
            self._say(Notice("peer.refused", f"{link.address} was refused: {error}"), actions, now_ms)
        self._drop(link, reason if error is not None else f"the peer said: {reason}", actions, now_ms)

    def _drop(self, link: Link, reason: str, actions: list[Action], now_ms: int, *, gone: bool = False) -> None:
        """End a connection: say goodbye if anyone is there, and free everything it held."""
        del self._conns[link.conn]
        self._dirty.pop(link.conn, None)
        if link.dialled and link.papers is None:
            self.membership.called(link.address, answered=link.session.phase is not Phase.CALLED)
        if not gone:
            link.write(link.session.end(reason), actions, now_ms)
            actions.append(Close(link.conn, reason))
        if link.papers is not None:
            node_id = link.papers.certificate.node_id
            if self._members.get(node_id) is link:
                del self._members[node_id]
                self._dialer.unlinked(node_id, now_ms)
            self._overlay.link_down(link.conn, now_ms)
            actions.append(LinkDown(link.conn, link.info(), reason))
        for node_id in [key for key, shown in self._shown.items() if shown is link]:
            del self._shown[node_id]
        if link.dialled:
            self._dialer.closed(link.address, now_ms)

    # ---- admission

    def _on_stale(self, link: Link, message: Message | None, actions: list[Action], now_ms: int) -> None:
        """A member came with an older secret: nothing but decrees passes, until both use the same one and begin anew."""
        if isinstance(message, Revocations | EpochHave | Epochs):
            self._apply(self.membership.on_message(link.conn, message), actions, now_ms)
        if link.conn in self._conns and self.membership.agrees(message):
            self._drop(link, "the secret was handed over", actions, now_ms)

    def _unwanted(self, papers: Papers) -> str:
        """Why we do not finish a handshake that we began."""
        node_id = papers.certificate.node_id
        if node_id == self._house.identity.node_id:
            return "this is our own address"
        rival = self._rival(node_id)
        if rival is not None and rival[1].boot == papers.boot:
            return f"{papers.certificate.name} is linked already, or about to be"
        return ""

    def _on_introduced(self, link: Link, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        """A handshake is done. Whom we dialled may still prefer another connection: its first word decides."""
        assert isinstance(link.gate, MemberGate)
        if link.gate.visitor is not None:
            self._enrol(link, link.gate.visitor, actions, now_ms, wall_ms)
            return
        papers = link.gate.papers
        assert papers is not None, "the gate keeps the papers of whom it admits"
        node_id = papers.certificate.node_id
        if node_id == self._house.identity.node_id:
            # Only a node with our keys gets here: our own dials end at their other end, before message 3.
            self._say(cloned(link.address), actions, now_ms)
            self._drop(link, "cloned identity", actions, now_ms)
        elif link.gate.stale:
            self._apply(self.membership.brief(link.conn), actions, now_ms)
        elif link.dialled:
            self._dialer.answered(link.address, node_id)
            self._shown[node_id] = link
        else:
            rival = self._rival(node_id)
            if rival is not None and not self._replaces(papers, rival):
                self._drop(link, "linked already", actions, now_ms)
            else:
                self._admit(link, papers, actions, now_ms, wall_ms)

    def _rival(self, node_id: bytes) -> tuple[Link, Papers] | None:
        """The connection that is the link to this member, or may become it, and what the member showed there."""
        link = self._members.get(node_id) or self._shown.get(node_id)
        if link is None:
            return None
        assert isinstance(link.gate, MemberGate)
        assert link.gate.papers is not None
        return link, link.gate.papers

    def _replaces(self, papers: Papers, rival: tuple[Link, Papers]) -> bool:
        """Whether a connection that a member has dialled takes the place of the one that we have."""
        if rival[1].boot != papers.boot or not rival[0].dialled:
            return True  # the peer has restarted, or has dialled once more because the first is dead to it
        return papers.certificate.node_id < self._house.identity.node_id

    def _admit(self, link: Link, papers: Papers, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        """From here on this connection is the link to its member."""
        node_id = papers.certificate.node_id
        rivals = (self._members.get(node_id), self._shown.pop(node_id, None))
        # The place of the member changes hands before its addresses could be dialled again.
        self._members[node_id] = link
        for rival in rivals:
            if rival is not None and rival is not link:
                self._drop(rival, "superseded", actions, now_ms)
        link.papers = papers
        self._links_due_ms = min(self._links_due_ms, link.deadline(self._house.config.handshake_ms))
        if papers.port and not link.dialled:
            self._dialer.found(Address(link.address.host, papers.port), now_ms, node_id=node_id)
        self._dialer.linked(node_id, link.address.host)
        actions.append(LinkUp(link.conn, link.info()))
        self._apply(self._overlay.link_up(link.conn, papers.certificate), actions, now_ms)
        self._send(link, link.detector.ping(now_ms, wall_ms), 0)
        for told, entries in introductions(link, self._members.values(), both=not self._overlay.large):
            self._send(told, entries, 1)

    def _enrol(self, link: Link, visitor: Visitor, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        """Let a joining node in: one more member, one use less of its invitation, and goodbye."""
        name = visitor.request.name
        try:
            granted, left = self._house.grant(visitor, self.membership, wall_ms)
        except EnrolmentError as error:
            text = f"{name} could not join: {error}"
            self._say(Notice("enrolment.failed", text, level="warning"), actions, now_ms)
            self._drop(link, str(error), actions, now_ms)
            return
        text = f"{name} has joined the mesh from {link.address}"
        actions.append(Notice("enrolment.granted", text, {"name": name, "uses_left": left.uses_left}))
        link.session.send(granted, 0)
        self._drop(link, "welcome", actions, now_ms)

    # ---- messages

    def _on_message(self, link: Link, message: Message, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        match message:
            case App(payload):
                actions.append(DeliverMessage(link.conn, payload))
            case Ping(token):
                if link.session.outbox.waiting(0) < PONGS_MAX:
                    self._send(link, Pong(token, wall_ms), 0)
            case Pong():
                link.detector.answered(message, now_ms)
                for notice in self.timekeeper.judge(offsets(self._members.values(), now_ms), now_ms):
                    self._say(notice, actions, now_ms)
            case Addresses(entries):
                for node_id, address in entries:
                    if node_id != self._house.identity.node_id:
                        self._dialer.found(address, now_ms, node_id=node_id)
            case _:
                self._apply(self._overlay.on_message(link.conn, message, now_ms, wall_ms), actions, now_ms)

    def _apply(self, results: list[Result], actions: list[Action], now_ms: int) -> None:
        for result in results:
            match result:
                case Tell(conn, message, priority):
                    link = self._conns.get(conn)
                    if link is not None:
                        self._queue(link, message, priority, actions, now_ms)
                case DeliverBatch():
                    actions.append(result)
                case MembershipChanged():
                    self._house.identity = self._overlay.roster.identity
                    actions.append(result)
                case Drop(conn, reason):
                    link = self._conns.get(conn)
                    if link is not None:
                        self._drop(link, reason, actions, now_ms)
                case Notice():
                    self._say(result, actions, now_ms)
                case _:
                    assert_never(result)

    def _queue(self, link: Link, message: Message, priority: int, actions: list[Action], now_ms: int) -> None:
        if link.overfull(self._house.config.queue_bytes_max):
            self._drop(link, "the peer does not read what it is sent", actions, now_ms)
            return
        self._send(link, message, priority)

    def _send(self, link: Link, message: Message, priority: int) -> None:
        link.send(message, priority)
        self._dirty[link.conn] = None

    # ---- time

    def _on_timer(self, actions: list[Action], now_ms: int, wall_ms: int) -> None:
        config = self._house.config
        near_ms, due = awake(self._conns.values(), config, now_ms)
        for link in due:
            if link.conn not in self._conns:
                continue
            if link.papers is None:
                self._drop(link, f"no handshake within {config.handshake_ms} ms", actions, now_ms)
            elif link.detector.dead(now_ms):
                silent_ms = link.detector.pulse(now_ms).silent_ms
                self._drop(link, f"no sign of life for {silent_ms} ms", actions, now_ms)
            elif link.detector.due(near_ms):
                self._send(link, link.detector.ping(now_ms, wall_ms), 0)
                link.refresh(actions, now_ms)
        self._links_due_ms = min((link.deadline(config.handshake_ms) for link in self._conns.values()), default=_NEVER)
        surplus = self._view.surplus(self._members, now_ms)
        if surplus is not None:
            self._drop(self._members[surplus], "enough links", actions, now_ms)
        if self._overlay.deadline() <= now_ms:
            self._apply(self._overlay.on_timer(now_ms, wall_ms), actions, now_ms)

    def _settle(self, actions: list[Action], now_ms: int) -> None:
        """What follows every event: dial what is due, write what may be written."""
        room = self._view.room(self._members, now_ms)
        if 0 < room <= self._house.config.view_min:
            room -= sum(link.dialled and link.papers is None for link in self._conns.values())
        self._dialer.room = room
        actions += (Dial(address) for address in self._dialer.due(now_ms))
        while self._dirty:
            link = self._conns[next(iter(self._dirty))]
            del self._dirty[link.conn]
            link.flush(actions, now_ms)
            self._press(link, actions)

    def _press(self, link: Link, actions: list[Action]) -> None:
        """Watch what waits on a link: congested links get no batches, and drained ones are announced."""
        config = self._house.config
        queued = link.session.outbox.queued
        if queued >= config.ready_bytes:
            link.backlog = True
            if queued > config.behind_bytes and not link.congested:
                link.congested = True
                self._overlay.gossip.congested(link.conn)
        elif link.backlog:
            link.backlog = link.congested = False
            self._overlay.gossip.drained(link.conn)
            actions.append(LinkReady(link.conn))

    # ---- for people, and for our link-state

    def _neighbours(self, now_ms: int) -> list[Neighbour]:
        return [link.neighbour(now_ms) for link in self._members.values()]

    def _say(self, notice: Notice, actions: list[Action], now_ms: int) -> None:
        actions += self._quiet.pass_on(notice, now_ms)


_NEVER = 1 << 62
