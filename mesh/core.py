"""Mesh core: authenticates connections, keeps one link per member, and passes messages between links, overlay and shell.

The core is synchronous. It has no I/O, no clock and no randomness of its own: a shell passes in events (`mesh.events`) with the
time, and does the actions that the core returns, in their order.

Two connections to one member need a rule by which both sides choose the same one. The side that was dialled decides
(`LinkTable.accepts`). The dialling side does not finish a handshake with a member that is linked already, and treats a link as up
only when the first frame arrives on it. If both sides dialled at once, the connection dialled by the lower node id stays. A
member that has restarted (it presents another boot number) replaces its old connection at once.

Invariants: LinkUp and LinkDown come in pairs, with one link to a member between them. An unauthenticated peer occupies one of a
bounded number of slots for a bounded time, and without a secret of the mesh or a join code it receives no bytes. The send queue
of a link is bounded.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, assert_never

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.context import (
    SUPERSEDED,
    Context,
    never_refuse,
    notice_identity_cloned,
    notice_link_taken_over,
    notice_version_mismatch,
)
from mycomesh.mesh.errors import EnrolmentError, MeshError
from mycomesh.mesh.events import (
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
    LinkDown,
    LinkReady,
    LinkUp,
    MembershipChanged,
    NetworkChanged,
    Notice,
    PublishBatch,
    PurgeWrites,
    RevokeMembers,
    SendMessage,
    StateInterests,
    TimerFired,
)
from mycomesh.mesh.joiner import Joiner
from mycomesh.mesh.link_budget import DayCount
from mycomesh.mesh.links.authentication import BOOT_BYTES, JoinRequest, MemberGate, MemberHello, RefusalError
from mycomesh.mesh.links.connection_limits import ConnectionLimits
from mycomesh.mesh.links.dialer import Dialer
from mycomesh.mesh.links.failure_detector import FailureDetector
from mycomesh.mesh.links.link import (
    PONGS_MAX,
    Link,
    addresses_to_share,
    clock_offsets,
    due_links,
    shareable_addresses,
)
from mycomesh.mesh.links.link_table import LinkTable
from mycomesh.mesh.membership.membership import Membership
from mycomesh.mesh.mesh_clock import MeshClock
from mycomesh.mesh.messages import (
    Addresses,
    App,
    EpochHave,
    Epochs,
    Message,
    Ping,
    Pong,
    Revocations,
    Wants,
    decode_pieces,
)
from mycomesh.mesh.notice_throttle import NoticeThrottle
from mycomesh.mesh.overlay.active_view import ActiveView
from mycomesh.mesh.overlay.overlay import Overlay
from mycomesh.mesh.peer_status import PeerStatus, peer_status
from mycomesh.mesh.results import Drop, Result, Send
from mycomesh.mesh.session.session import Closed, Opened, Phase, Received, Reply, Session, Step
from mycomesh.mesh.turn import Turn
from mycomesh.mesh.versions import VersionMismatches

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from mycomesh.mesh.events import Action, Event
    from mycomesh.mesh.membership.enrolment import Invitation
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.overlay.interests import Interests
    from mycomesh.mesh.overlay.topology import LinkState, Neighbour

__all__ = ["Joiner", "MeshConfig", "MeshCore", "PeerStatus"]


class MeshCore:
    """The mesh core of one member. Pass it events, do the actions that it returns, and call it again at `next_deadline()`.

    `membership` is what the last `MembershipChanged` action asked the shell to store. Only the node with the root key of the mesh
    has a `root_seed`, and only that node can use `invitations`.
    """

    __slots__ = (
        "_active_view",
        "_connection_limits",
        "_context",
        "_dialer",
        "_dirty",
        "_links_due_ms",
        "_notice_throttle",
        "_overlay",
        "_version_mismatches",
        "links",
        "membership",
        "mesh_clock",
        "roster",
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
        membership: bytes = b"",
    ) -> None:
        self.membership = Membership(identity, root_seed, entropy, membership)
        self.roster = self.membership.roster
        self._context = Context(identity, config, entropy, entropy(BOOT_BYTES), root_seed)
        self.links = LinkTable(config.kind_of, config.budget, DayCount(config.metered))
        self._dirty: dict[int, None] = {}
        self._dialer = Dialer(config, rng)
        self._connection_limits = ConnectionLimits(config)
        self._overlay = Overlay(self.membership, config, rng, self._neighbours)
        self._notice_throttle = NoticeThrottle()
        self._version_mismatches = VersionMismatches()
        self.mesh_clock = MeshClock()
        # No link is due earlier. Traffic only moves deadlines later, so this may be too early and is then computed again.
        self._links_due_ms = _NEVER
        self._active_view = ActiveView(config, self._overlay, rng)
        for invitation in invitations:
            self.invite(invitation)

    # ---- for the shell

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Handle one event; return the actions, in the order in which they must happen."""
        turn = Turn(now_ms, wall_ms, self._notice_throttle)
        match event:
            case ConnOpened() | ConnReceived() | ConnDrained() | ConnClosed():
                self._on_conn(event, turn)
            case AddressFound() | DialFailed() | NetworkChanged():
                self._dialer.on_event(event, now_ms)
            case SendMessage(conn, payload, priority, optional, deferrable):
                link = self.links.conns.get(conn)
                if link is not None and link.hello is not None:
                    self._queue(link, App(payload, optional), priority, turn, deferrable=deferrable)
            case PublishBatch(payload, priority):
                self._apply(self._overlay.publish(payload, priority, now_ms), turn)
            case RevokeMembers(node_ids):
                self._apply(self._overlay.revoke(node_ids, wall_ms), turn)
            case PurgeWrites(node_id, since_ms):
                self._apply(self.membership.purge(node_id, since_ms, wall_ms), turn)
            case StateInterests():
                self._apply(self._overlay.state_interests(event), turn)
            case CertificatesFound(raws):
                self._apply(self._overlay.record_certificates(raws, now_ms, wall_ms), turn)
            case TimerFired():
                self._on_timer(turn)
            case _:
                assert_never(event)
        self._after_event(turn)
        return turn.actions

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due."""
        due = self._overlay.deadline()
        dial = self._dialer.deadline()
        trim = self._active_view.deadline(self.links.members)
        return min(due, self._links_due_ms, due if dial is None else dial, due if trim is None else trim)

    def search_spacing(self, now_ms: int) -> int:
        """Return how many times longer than at its start this node may wait between searches of the network for others."""
        return self._active_view.search_spacing(self.links.members, now_ms)

    def invite(self, invitation: Invitation) -> None:
        """Accept an invitation. It replaces the oldest one when there are more than a handshake tries."""
        self._context.invite(invitation)

    def invitations(self) -> tuple[Invitation, ...]:
        """Return the open invitations with their remaining uses. Store them again at each `enrolment.granted` notice."""
        return self._context.invitations

    def advertise_port(self, port: int) -> None:
        """Present this TCP port to peers as the one on which the node listens."""
        self._context.port = port

    def peers(self, now_ms: int) -> tuple[PeerStatus, ...]:
        """Return the status of every other member, by name."""
        overlay = self._overlay
        others = (each for each in self.roster.members() if each.node_id != self.roster.own_id)
        return tuple(
            peer_status(
                each,
                overlay.topology,
                self.links.members.get(each.node_id),
                self._version_mismatches.versions_of(each.node_id),
                now_ms,
            )
            for each in others
        )

    def introduce(self, *conns: int) -> None:
        """Tell the peers of two links where the other one listens, unless a link has ended; the next event sends it."""
        links = [self.links.conns.get(conn) for conn in conns]
        for link, other in (links, links[::-1]):
            if link is None or other is None:
                return
            entries = shareable_addresses(other, link)
            if entries:
                self._send(link, Addresses(tuple(entries)), 1)

    def in_reach(self) -> tuple[bytes, ...]:
        """Return the ids of the other members, and behind them those of the ones that are linked or reachable."""
        topology, linked = self._overlay.topology, self.links.members
        others = [each.node_id for each in self.roster.members() if each.node_id != self.roster.own_id]
        return (*others, b"", *(each for each in others if each in linked or topology.hops(each) is not None))

    def topology(self) -> tuple[LinkState, ...]:
        """Return the newest link-state of every node, by node id."""
        return self._overlay.topology.states()

    @property
    def interests(self) -> Interests:
        """The interests of members, as this node knows them."""
        return self._overlay.interests

    @property
    def topology_version(self) -> int:
        """A number that increases when some link of the mesh has come or gone."""
        return self._overlay.topology.version

    # ---- connections

    def _on_conn(self, event: ConnOpened | ConnReceived | ConnDrained | ConnClosed, turn: Turn) -> None:
        if isinstance(event, ConnOpened):
            self._on_opened(event, turn)
            return
        link = self.links.conns.get(event.conn)
        if link is None:
            return  # this node has closed the connection; these bytes were in flight
        match event:
            case ConnReceived(_, data):
                self._on_received(link, data, turn)
            case ConnDrained():
                self._dirty[link.conn] = None
            case ConnClosed():
                self._drop(link, "the connection was lost", turn, gone=True)
            case _:
                assert_never(event)

    def _on_opened(self, event: ConnOpened, turn: Turn) -> None:
        conn, address, dialled = event.conn, event.address, event.dialled
        assert conn not in self.links.conns, f"connection {conn} was opened twice"
        context = self._context
        if dialled:
            self._dialer.on_conn_opened(address)
        elif self._connection_limits.refuses(
            self.links.conns.values(), address.host, turn.now_ms, known=self._dialer.is_member_host(address.host)
        ):
            text = f"too many unauthenticated connections; closed one from {address.host}"
            turn.notify(Notice("conn.crowded", text, level="warning"))
            turn.do(Close(conn, "too many unauthenticated connections"))
            return
        invitations = () if dialled else context.open_invitations(turn.wall_ms)
        refusal_reason = functools.partial(self._refusal_reason, address.host) if dialled else never_refuse
        membership = self.membership
        secrets = (membership.secret_for(address, turn.wall_ms),) if dialled else membership.secrets(turn.wall_ms)
        gate = MemberGate(context.hello(), membership.roster, secrets, invitations, refusal_reason)
        session = Session(gate.keys(), gate, initiator=dialled, entropy=context.entropy)
        detector = FailureDetector(turn.now_ms, heartbeat_ms=context.config.heartbeat_ms)
        link = Link(conn, address, dialled, session, gate, turn.now_ms, detector, self.links.traffic_of(address))
        self.links.meter(link, event.interface, turn.now_ms)
        self.links.conns[conn] = link
        self._links_due_ms = min(self._links_due_ms, link.deadline(context.config.handshake_ms))
        if dialled:
            link.write(session.start(), turn)

    def _on_received(self, link: Link, data: bytes, turn: Turn) -> None:
        link.gate.wall_ms = turn.wall_ms
        link.record_received(len(data), turn)
        for step in link.session.receive(data, turn.now_ms):
            if not self._on_step(link, step, turn):
                return
        self._dirty[link.conn] = None

    def _on_step(self, link: Link, step: Step, turn: Turn) -> bool:
        """Handle one step of a session; return False if it ended the connection."""
        match step:
            case Received(pieces, _):
                assert isinstance(link.gate, MemberGate)
                # The first frame of the side that was dialled: it has chosen this connection.
                if link.hello is None and not link.gate.stale:
                    assert link.gate.hello is not None
                    self._admit(link, link.gate.hello, turn)
                try:
                    message = decode_pieces(pieces, link.version)
                    link.traffic.record_received(message, sum(map(len, pieces)))
                    if link.hello is None:
                        self._on_stale_message(link, message, turn)
                    elif message is not None:
                        self._on_message(link, message, turn)
                except MeshError as error:
                    self._drop(link, f"protocol: {error}", turn)
            case Reply(data):
                link.write(data, turn)
            case Opened():
                self._on_handshake_done(link, turn)
            case Closed(reason, error):
                self._on_session_closed(link, error, reason, turn)
            case _:
                assert_never(step)
        return link.conn in self.links.conns

    def _on_session_closed(self, link: Link, error: MeshError | None, reason: str, turn: Turn) -> None:
        assert isinstance(link.gate, MemberGate)
        hello = link.gate.hello
        if isinstance(error, RefusalError) and hello is not None:
            if hello.certificate.node_id != self._context.identity.node_id:
                self._dialer.record_member(link.address, hello.certificate.node_id)
            elif hello.boot == self._context.boot:
                self._dialer.record_own_address(link.address)
            else:
                turn.notify(notice_identity_cloned(link.address))
        elif error is not None and link.hello is None:
            turn.notify(Notice("peer.refused", f"refused {link.address}: {error}"))
        elif reason == SUPERSEDED and link.hello is not None and self.links.is_only_link(link):
            # The peer replaced this link, but not by one of our connections: another node uses our keys. If we dialled at once,
            # our connection would end that one in turn, and so on without end.
            self._dialer.pause_member(link.hello.certificate.node_id, turn.now_ms)
            turn.notify(notice_link_taken_over(link.address, link.hello))
        self._drop(link, reason if error is not None else f"the peer closed it: {reason}", turn)

    def _drop(self, link: Link, reason: str, turn: Turn, *, gone: bool = False) -> None:
        """Close a connection and remove everything kept for it. With `gone`, the transport has ended already: send nothing."""
        unlinked = self.links.remove(link)
        self._dirty.pop(link.conn, None)
        if link.dialled and link.hello is None:
            phase = link.session.phase
            refused = gone and phase is Phase.OPEN
            self.membership.record_call(link.address, answered=phase is not Phase.CALLED, refused=refused)
        if not gone:
            link.write(link.session.end(reason), turn)
            turn.do(Close(link.conn, reason))
        if unlinked is not None:
            self._dialer.on_link_down(unlinked, turn.now_ms)
        if link.hello is not None:
            self._overlay.on_link_down(link.conn, turn.now_ms, lost=gone or link.detector.is_dead(turn.now_ms))
            turn.do(LinkDown(link.conn, link.peer_info(), reason))
        if link.dialled:
            self._dialer.on_conn_closed(link.address, turn.now_ms)

    # ---- admission

    def _on_stale_message(self, link: Link, message: Message | None, turn: Turn) -> None:
        """Handle a message of a member that used an older mesh secret.

        Only decrees pass. Once both sides use the same secret, the link ends, and the next handshake uses that secret.
        """
        if isinstance(message, Revocations | EpochHave | Epochs):
            self._apply(self.membership.on_message(link.conn, message), turn)
        if link.conn in self.links.conns and self.membership.has_same_secret(message):
            self._drop(link, "both sides have the same secret now", turn)

    def _refusal_reason(self, host: str, hello: MemberHello) -> str:
        """Return why this node does not finish a handshake that it began; an empty string if it does."""
        node_id = hello.certificate.node_id
        if node_id == self._context.identity.node_id:
            return "this is this node's own address"
        rival = self.links.competing_link(node_id, host)
        if rival is not None and rival[1].boot == hello.boot:
            return f"{hello.certificate.name} is linked already, or about to be"
        return ""

    def _on_handshake_done(self, link: Link, turn: Turn) -> None:
        """Handle a finished handshake.

        If this node dialled, the link stays pending until the first frame: the peer may still choose another connection.
        """
        assert isinstance(link.gate, MemberGate)
        if link.gate.join_request is not None:
            self._enrol(link, link.gate.join_request, turn)
            return
        hello = link.gate.hello
        assert hello is not None, "the gate keeps the hello of each member that it admits"
        node_id = hello.certificate.node_id
        link.version = hello.versions.common(self._context.config.versions)
        if node_id == self._context.identity.node_id:
            # Another node uses our keys: if we had dialled ourselves, the dialling end would have stopped before message 3.
            turn.notify(notice_identity_cloned(link.address))
            self._drop(link, "cloned identity", turn)
        elif not link.version:
            self._on_version_mismatch(link, hello, turn)
        elif link.gate.stale:
            self._apply(self.membership.send_all_decrees(link.conn), turn)
        elif link.dialled:
            self._dialer.record_member(link.address, node_id)
            self.links.record_pending(node_id, link)
        elif not self.links.accepts(hello, link.address.host, own_id=self._context.identity.node_id):
            self._drop(link, "linked already", turn)
        else:
            self._admit(link, hello, turn)

    def _on_version_mismatch(self, link: Link, hello: MemberHello, turn: Turn) -> None:
        """Handle a member that shares no protocol version with this node.

        Both sides have the other's hello, so both notify once, and the side that dialled waits before it dials again.
        """
        node_id = hello.certificate.node_id
        self.membership.record_certificate(hello.certificate)
        if self._version_mismatches.record(node_id, hello.versions):
            turn.do(notice_version_mismatch(link.address, hello, self._context.config.versions))
        if link.dialled:
            self._dialer.on_version_mismatch(link.address, node_id, turn.now_ms)
        self._drop(link, "no version of the protocol in common", turn)

    def _admit(self, link: Link, hello: MemberHello, turn: Turn) -> None:
        """Make this connection the link to its member."""
        node_id = hello.certificate.node_id
        # The new link is recorded before the old ones are dropped: else the dialler would find the member without a link.
        for rival in self.links.admit(node_id, link):
            self._drop(rival, SUPERSEDED, turn)
        link.hello = hello
        self._version_mismatches.forget(node_id)
        self._links_due_ms = min(self._links_due_ms, link.deadline(self._context.config.handshake_ms))
        if hello.port and not link.dialled:
            self._dialer.on_address_found(Address(link.address.host, hello.port), turn.now_ms, node_id=node_id)
        self._dialer.on_link_up(node_id, link.address.host)
        turn.do(LinkUp(link.conn, link.peer_info()))
        self._apply(self._overlay.on_link_up(link.conn, hello.certificate, turn.now_ms, turn.wall_ms), turn)
        if link.budget is not None and self._context.config.budget is not None and self._context.config.budget.tables:
            self._overlay.gossip.on_paced(link.conn)
        self._send(link, link.detector.make_ping(turn.now_ms, turn.wall_ms), 0)
        small = not self._overlay.is_large(turn.now_ms)
        for recipient, entries in addresses_to_share(link, self.links.members.values(), both=small):
            self._send(recipient, entries, 1)

    def _enrol(self, link: Link, join_request: JoinRequest, turn: Turn) -> None:
        """Send a joining node its grant, and close the connection. This uses up one use of its invitation."""
        name = join_request.request.name
        try:
            granted, name, left = self._context.grant(join_request, self.membership, turn.wall_ms)
        except EnrolmentError as error:
            text = f"{name} could not join: {error}"
            turn.notify(Notice("enrolment.failed", text, level="warning"))
            self._drop(link, str(error), turn)
            return
        text = f"{name} has joined the mesh from {link.address}"
        turn.do(Notice("enrolment.granted", text, {"name": name, "uses_left": left.uses_left}))
        link.session.send(granted, 0)
        self._drop(link, "welcome", turn)

    # ---- messages

    def _on_message(self, link: Link, message: Message, turn: Turn) -> None:
        match message:
            case App(payload):
                turn.do(DeliverMessage(link.conn, payload))
            case Ping(token):
                link.detector.on_ping()
                if link.session.outbox.queued_messages(0) < PONGS_MAX:
                    self._send(link, Pong(token, turn.wall_ms), 0)
            case Pong():
                link.detector.on_pong(message, turn.now_ms)
                self._schedule_links()  # else a resting node would wake up for the probe that this reply has made needless
                measured, signed = clock_offsets(self.links.members.values(), turn, self.membership.roster)
                for notice in self.mesh_clock.update(measured, turn.now_ms, turn.wall_ms, signed):
                    turn.notify(notice)
            case Addresses(entries):
                for node_id, address in entries:
                    if node_id != self._context.identity.node_id:
                        self._dialer.on_address_found(address, turn.now_ms, node_id=node_id)
            case Wants():
                self._apply(self._overlay.on_wants(link.conn, message), turn)
            case _:
                self._apply(self._overlay.on_message(link.conn, message, turn.now_ms, turn.wall_ms), turn)

    def _apply(self, results: list[Result], turn: Turn) -> None:
        for result in results:
            match result:
                case Send(conn, message, priority):
                    link = self.links.conns.get(conn)
                    if link is not None:
                        self._queue(link, message, priority, turn)
                case DeliverBatch():
                    turn.do(result)
                case MembershipChanged():
                    self._context.identity = self._overlay.roster.identity
                    turn.do(result)
                case Drop(conn, reason):
                    link = self.links.conns.get(conn)
                    if link is not None:
                        self._drop(link, reason, turn)
                case Notice():
                    turn.notify(result)
                case _:
                    assert_never(result)

    def _queue(self, link: Link, message: Message, priority: int, turn: Turn, *, deferrable: bool = False) -> None:
        if link.is_overfull(self._context.config.queue_bytes_max):
            self._drop(link, "the peer does not read what it is sent", turn)
        elif deferrable:
            link.send(message, priority)
        else:
            self._send(link, message, priority)

    def _send(self, link: Link, message: Message, priority: int) -> None:
        link.send(message, priority)
        self._dirty[link.conn] = None

    # ---- time

    def _on_timer(self, turn: Turn) -> None:
        config = self._context.config
        near_ms, due = due_links(self.links.conns.values(), config, turn.now_ms)
        for link in due:
            if link.conn not in self.links.conns:
                continue
            if link.hello is None:
                self._drop(link, f"no handshake within {config.handshake_ms} ms", turn)
            elif link.detector.is_dead(turn.now_ms):
                silent_ms = link.detector.metrics(turn.now_ms).silent_ms
                self._drop(link, f"the peer was silent for {silent_ms} ms", turn)
            elif link.detector.is_ping_due(near_ms):
                self._send(link, link.detector.make_ping(turn.now_ms, turn.wall_ms), 0)
                link.refresh_keys(turn)
            elif link.paced_ms is not None and link.paced_ms <= turn.now_ms:
                self._dirty[link.conn] = None
        self._schedule_links()
        excess = self._active_view.excess_member(self.links.members, self._spare_members, turn.now_ms)
        if excess is not None:
            self._drop(self.links.members[excess], "enough links", turn)
        if self._overlay.deadline() <= turn.now_ms:
            self._apply(self._overlay.on_timer(turn.now_ms, turn.wall_ms), turn)

    def _schedule_links(self) -> None:
        deadlines = (link.deadline(self._context.config.handshake_ms) for link in self.links.conns.values())
        self._links_due_ms = min(deadlines, default=_NEVER)

    def _after_event(self, turn: Turn) -> None:
        """Finish every event: start due dials, and write the frames that may be sent."""
        room = self._active_view.links_wanted(self.links.members, turn.now_ms)
        if 0 < room <= self._context.config.view_min:
            room -= self.links.count_pending_dials()
        self._dialer.links_wanted = room
        self._dialer.avoided = self._overlay.kin.members() if self._active_view.wants_others else frozenset()
        self._dialer.sought = self._overlay.kin.sought(self.links.by_directness, turn.now_ms)
        turn.actions += (Dial(address) for address in self._dialer.start_dials(turn.now_ms))
        while self._dirty:
            link = self.links.conns[next(iter(self._dirty))]
            del self._dirty[link.conn]
            link.flush(turn)
            if link.paced_ms is not None:
                self._links_due_ms = min(self._links_due_ms, link.paced_ms)
            self._watch_backlog(link, turn)

    def _watch_backlog(self, link: Link, turn: Turn) -> None:
        """Report congestion of a link to the gossip, and its end to the gossip and the shell."""
        outbox = link.session.outbox
        ready_bytes, behind_bytes = link.backlog_bytes(self._context.config)
        if outbox.queued >= ready_bytes:
            link.backlog = True
            if outbox.queued > behind_bytes:
                self._overlay.gossip.on_congested(link.conn, urgent=outbox.urgent > behind_bytes)
        elif link.backlog:
            link.backlog = False
            self._overlay.gossip.on_drained(link.conn)
            turn.do(LinkReady(link.conn))

    def _spare_members(self) -> list[bytes]:
        """Return the members whose links may be dropped: not those that join members with the same interests."""
        members, needs = self.links.members, self._overlay.kin.needs
        return [each for each in self.links.droppable_members() if not needs(each, members)]

    # ---- for our link-state

    def _neighbours(self, now_ms: int) -> list[Neighbour]:
        return [link.neighbour(now_ms) for link in self.links.members.values()]


_NEVER = 1 << 62
