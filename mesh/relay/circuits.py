"""Circuits: connections between members that other nodes separate, carried in messages on the links with those.

A relay stores no tables, so a member cannot catch up from it. After a split, two members on both sides of a relay have missed
each other's writes and need a link of their own. To a topic that it does not want, a member is what a relay is (`topic_plan`).
This module gives the core a connection for that link, with the same handshake and certificates as any other, encrypted between
the two ends. It wraps a `MeshCore`; events and actions of connections that the shell made pass through unchanged.

Invariants: a node that forwards frames keeps no state of circuits, and all it can do to a circuit is withhold frames. A member
forwards frames only after it has stated its interests. A node accepts a frame only on the link with the previous node of its
route. The bytes that wait at a forwarding node are bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.address import circuit_address, is_circuit
from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.events import (
    Close,
    ConnClosed,
    ConnOpened,
    ConnReceived,
    DeliverMessage,
    Dial,
    DialFailed,
    LinkDown,
    LinkUp,
    Notice,
    SendMessage,
    Write,
)
from mycomesh.mesh.messages import CIRCUIT_FRAME
from mycomesh.mesh.relay.circuit_frame import NUMBER_MAX, CircuitFrame, FrameKind
from mycomesh.mesh.relay.circuit_plan import CircuitPlan, MeshGraph
from mycomesh.mesh.relay.topic_plan import TopicPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.core import MeshCore
    from mycomesh.mesh.events import Action, Event
    from mycomesh.mesh.membership.membership import Membership
    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.mesh_clock import MeshClock
    from mycomesh.mesh.peer_status import PeerStatus
    from mycomesh.mesh.relay.circuit_plan import Route

__all__ = ["CONNS_FROM", "Circuits"]

CONNS_FROM = 1 << 40  # first connection number of circuits: shells never count so far
CIRCUITS_MAX = 64  # of one member: the tree needs five, the rest is for circuits that others open
# Minimum age of a circuit that is closed because another member waits while there are `CIRCUITS_MAX`: enough for a comparison
# and, on most links, for what it finds. A member that loses its circuit waits in turn.
TURN_MS = 60_000
NOTICE_MS = 3_600_000  # between two notices that members wait
PLAN_MS = 1_000  # between two plans, while there is a link with a relay, or circuits for topics are missing
PLAN_NODE_MS = 5  # and this long for each node of a large mesh, whose plan takes longer
RETRY_MS = 5_000  # before the next circuit to the same member: the time of a whole handshake
AVOID_MS = TURN_MS  # for which a member with which no circuit came about is asked only if no other one will do
REDUNDANT_MS = 10_000  # minimum age of a circuit that is closed because members join its ends: routes may be flapping
# Bytes that may wait at a relay for one of its links: eight windows of a link. Above this the relay refuses frames, which ends
# their circuit long before the link itself would be dropped.
QUEUED_BYTES_MAX = 16 << 20
MEMBER_QUEUED_BYTES_MAX = 2 << 20  # and at a member, whose memory belongs to others first
PRIORITY = 1  # of frames: behind live alerts on the links with relays


@dataclass(slots=True)
class _Circuit:
    """A circuit that ends at this node: `route` begins here, `link` leads to its first relay."""

    conn: int
    number: int
    route: tuple[bytes, ...]
    link: int
    opened_ms: int


class Circuits:
    """A `MeshCore` with connections through relays; it has the interface of the core itself."""

    __slots__ = (
        "_avoid_ms", "_by_conn", "_by_peer", "_changes", "_core", "_links", "_notice_ms", "_opened", "_plan_ms", "_planned",
        "_relayed", "_retry_ms", "_waits",
    )  # fmt: skip

    def __init__(self, core: MeshCore) -> None:
        self._core = core
        self._by_conn: dict[int, _Circuit] = {}
        self._by_peer: dict[bytes, _Circuit] = {}
        self._links: dict[int, bytes] = {}  # link -> peer, of all links
        self._relayed: dict[int, bytes] = {}  # link -> peer; a relay's links, and members' links with relays
        self._changes = 0  # of links
        self._planned: object = None  # the state of the mesh in which no circuit for topics was missing
        self._retry_ms: dict[bytes, int] = {}
        self._avoid_ms: dict[bytes, int] = {}  # member with which no circuit came about -> until when it is avoided
        self._opened = 0
        self._plan_ms = 0
        self._waits = False  # some member waits for a circuit
        self._notice_ms: int | None = None  # when the next notice that members wait may be; None: there was none

    @property
    def membership(self) -> Membership:
        """The members as this node manages them."""
        return self._core.membership

    @property
    def mesh_clock(self) -> MeshClock:
        """The mesh's measurement of this node's clock."""
        return self._core.mesh_clock

    @property
    def roster(self) -> Roster:
        """The members that the core knows."""
        return self._core.roster

    def received(self) -> dict[str, int]:
        """Return the bytes that its connections have received, by kind of message."""
        return {name: kind.received_bytes for name, kind in self._core.links.carried.kinds()}

    def peers(self, now_ms: int) -> Sequence[PeerStatus]:
        """Return the status of every other member."""
        return self._core.peers(now_ms)

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Handle one event; return the actions, in the order in which they must happen."""
        todo: deque[Event] = deque([event])
        if isinstance(event, ConnClosed) and event.conn in self._by_conn:
            todo.appendleft(self._close(self._by_conn[event.conn]))  # the shell has dropped the link
        done: list[Action] = []
        self._run(todo, done, now_ms, wall_ms)
        if self._needs_plan() and self._plan_ms <= now_ms:
            self._plan_ms = now_ms + PLAN_MS
            self._plan(todo, now_ms)
            self._run(todo, done, now_ms, wall_ms)
        if self._waits:
            self._waits = False
            self._notify_waiting(done, now_ms)
        return done

    def _notify_waiting(self, done: list[Action], now_ms: int) -> None:
        if self._notice_ms is None or self._notice_ms <= now_ms:
            self._notice_ms = now_ms + NOTICE_MS
            text = (
                f"members wait for a connection through others: this node has {CIRCUITS_MAX}, and each has its turn of"
                f" {TURN_MS // 1_000} s; give it direct links, or let another node keep the same areas"
            )
            done.append(Notice("circuits.full", text, {"circuits": CIRCUITS_MAX}, "warning"))

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, or None."""
        due = self._core.next_deadline()
        if due is None or not self._needs_plan():
            return due
        return min(due, self._plan_ms)

    # ---- between the core and its shell

    def _run(self, todo: deque[Event], done: list[Action], now_ms: int, wall_ms: int) -> None:
        while todo:
            for action in self._core.handle(todo.popleft(), now_ms, wall_ms):
                match action:
                    case Write(conn, data) if conn >= CONNS_FROM:
                        circuit = self._by_conn.get(conn)
                        if circuit is not None:
                            todo.append(_frame(circuit, FrameKind.DATA, data))
                    case Close(conn, _) if conn >= CONNS_FROM:
                        if conn in self._by_conn:
                            todo.append(self._close(self._by_conn[conn]))
                    case Dial(address) if is_circuit(address.host):
                        # A peer announced a circuit's address, which cannot be dialled.
                        todo.append(DialFailed(address))
                    case DeliverMessage(link, payload) if link in self._relayed or payload[:1] == CIRCUIT_FRAME:
                        self._on_message(link, payload, todo, now_ms)
                    case _:
                        done.append(action)
                        self._track_links(action, todo, now_ms)

    def _track_links(self, action: Action, todo: deque[Event], now_ms: int) -> None:
        """Track links, those with relays among them; when one goes down, close its circuits."""
        match action:
            case LinkUp(link, peer):
                self._links[link] = peer.node_id
                self._changes += 1
                if link < CONNS_FROM and ("relay" in peer.roles or self._is_relay()):
                    self._relayed[link] = peer.node_id
                    self._plan_ms = now_ms + PLAN_MS  # the peer's link-state arrives in a moment
            case LinkDown(link, _, _):
                self._links.pop(link, None)
                self._changes += 1
                self._relayed.pop(link, None)
                for circuit in [each for each in self._by_conn.values() if each.link == link]:
                    self._forget(circuit)
                    todo.append(ConnClosed(circuit.conn))
            case _:
                pass

    def _close(self, circuit: _Circuit) -> Event:
        """Forget a circuit; return the event that sends CLOSE to its other end."""
        self._forget(circuit)
        return _frame(circuit, FrameKind.CLOSE)

    def _forget(self, circuit: _Circuit) -> None:
        del self._by_conn[circuit.conn]
        del self._by_peer[circuit.route[-1]]

    # ---- frames

    def _on_message(self, link: int, payload: bytes, todo: deque[Event], now_ms: int) -> None:
        """Handle a frame on a link, or any message on one with a relay: deliver or forward valid frames, drop everything else."""
        try:
            frame = CircuitFrame.decode(payload)
        except DecodeError:
            return
        own = self._core.roster.own_id
        if frame.route[frame.at] != own or frame.route[frame.at - 1] != self._links.get(link):
            return
        if frame.at < len(frame.route) - 1:
            if self._is_relay() or self._core.interests.own is not None:
                todo.append(self._forward(link, frame))
        elif not self._is_relay():
            self._on_frame(link, frame, todo, now_ms)

    def _forward(self, link: int, frame: CircuitFrame) -> Event:
        next_link = self._core.links.members.get(frame.route[frame.at + 1])
        most = QUEUED_BYTES_MAX if self._is_relay() else MEMBER_QUEUED_BYTES_MAX
        if next_link is None or next_link.session.outbox.queued > most:
            return SendMessage(link, frame.refusal().encode(), PRIORITY)
        if frame.kind in (FrameKind.OPEN, FrameKind.ASK) and len(frame.route) == 3:
            self._core.introduce(link, next_link.conn)  # a direct link would relieve this node
        return SendMessage(next_link.conn, frame.onward().encode(), PRIORITY)

    def _on_frame(self, link: int, frame: CircuitFrame, todo: deque[Event], now_ms: int) -> None:
        peer = frame.route[0]
        circuit = self._by_peer.get(peer)
        if frame.kind is FrameKind.ASK:
            todo += self._begin(frame.route[::-1], now_ms)
        elif frame.kind is FrameKind.OPEN:
            if circuit is not None:  # the other end has forgotten the old circuit
                self._forget(circuit)
                todo.append(ConnClosed(circuit.conn))
            if len(self._by_conn) >= CIRCUITS_MAX:
                todo.append(SendMessage(link, frame.refusal().encode(), PRIORITY))
                todo += self._give_turn(now_ms)
            else:
                todo.append(self._open(frame.route[::-1], frame.number, link, now_ms))
        elif circuit is not None and circuit.number == frame.number:
            if frame.kind is FrameKind.DATA:
                todo.append(ConnReceived(circuit.conn, frame.data))
            else:
                self._forget(circuit)
                todo.append(ConnClosed(circuit.conn))
        elif frame.kind is FrameKind.DATA:
            todo.append(SendMessage(link, frame.refusal().encode(), PRIORITY))

    def _open(self, route: tuple[bytes, ...], number: int, link: int, now_ms: int) -> ConnOpened:
        """Record a circuit that ends here; return the event that opens its connection in the core."""
        self._opened += 1
        circuit = _Circuit(CONNS_FROM + self._opened, number, route, link, now_ms)
        self._by_conn[circuit.conn] = self._by_peer[route[-1]] = circuit
        relay = self._core.roster.get(route[1])
        address = circuit_address(route[1][:4].hex() if relay is None else relay.name, route[-1])
        return ConnOpened(circuit.conn, address, dialled=route[0] < route[-1])

    # ---- which circuits there are

    def _needs_plan(self) -> bool:
        return not self._is_relay() and (bool(self._relayed) or self._planned != self._state())

    def _state(self) -> object:
        """Return by what the circuits for topics are planned; None if there are no topics."""
        interests = self._core.interests
        if interests.own is None and not interests.held:
            return None
        return interests.version, self._core.topology_version, self._changes

    def _is_relay(self) -> bool:
        return "relay" in self._core.roster.identity.certificate.roles

    def _plan(self, todo: deque[Event], now_ms: int) -> None:
        members, state = self._core.links.members, self._state()
        carried = [node_id for node_id, link in members.items() if link.conn >= CONNS_FROM]
        graph = MeshGraph(self._core.roster.own_id, members, self._core.topology(), carried)
        plan = CircuitPlan(graph, self._is_relay_member)
        routes = plan.routes_to_open() if self._relayed else []
        self._expire_tries(now_ms)
        topics = (
            None if state is None else TopicPlan(graph, self._core.interests, self._is_relay_member, self._avoid_ms)
        )
        missing = [] if topics is None else topics.routes_to_open()
        for route in (*routes, *missing):
            todo += self._begin(route, now_ms)
        self._plan_ms = max(self._plan_ms, now_ms + PLAN_NODE_MS * len(self._core.roster))
        kept = False
        for circuit in self._by_conn.values():
            # Only the opener closes a circuit, and only one at a time: if several join the same groups, one must remain.
            ours, peer = circuit.route[0] < circuit.route[-1], circuit.route[-1]
            if (
                not ours
                or peer not in members
                or not plan.is_joined(peer)
                or (topics is not None and topics.needs(peer))
            ):
                continue
            if circuit.opened_ms + REDUNDANT_MS <= now_ms:
                todo += (self._close(circuit), ConnClosed(circuit.conn))
                break
            kept = True
        self._planned = None if missing or kept else state  # else there is something to do after a while

    def _expire_tries(self, now_ms: int) -> None:
        """Forget tries that are over; avoid members with which no circuit came about, since theirs may all be taken."""
        self._avoid_ms = {peer: until for peer, until in self._avoid_ms.items() if until > now_ms}
        for peer in [peer for peer, due_ms in self._retry_ms.items() if due_ms <= now_ms]:
            del self._retry_ms[peer]
            if peer not in self._core.links.members:
                self._avoid_ms[peer] = now_ms + AVOID_MS

    def _begin(self, route: Route, now_ms: int) -> list[Event]:
        """Return the events that open a circuit, or that ask its lower end to; nothing if that was tried a moment ago."""
        peer, first = route[-1], self._core.links.members.get(route[1])
        if first is None or peer in self._core.links.members or peer in self._by_peer:
            return []
        if self._retry_ms.get(peer, 0) > now_ms:
            return []
        if len(self._by_conn) >= CIRCUITS_MAX:
            return self._give_turn(now_ms)
        self._expire_tries(now_ms)
        self._retry_ms[peer] = now_ms + RETRY_MS
        if route[0] > peer:
            return [SendMessage(first.conn, CircuitFrame(FrameKind.ASK, 0, route, 1).encode(), PRIORITY)]
        event = self._open(route, (self._opened + 1) % NUMBER_MAX, first.conn, now_ms)
        return [_frame(self._by_peer[peer], FrameKind.OPEN), event]

    def _give_turn(self, now_ms: int) -> list[Event]:
        """Return the events that close the oldest circuit, if it has had its turn, since another member waits for one."""
        self._waits = True
        oldest = min(self._by_conn.values(), key=lambda circuit: circuit.opened_ms)
        if oldest.opened_ms + TURN_MS > now_ms:
            return []
        peer = oldest.route[-1]
        self._retry_ms[peer] = now_ms + TURN_MS  # the others come first
        return [self._close(oldest), ConnClosed(oldest.conn)]

    def _is_relay_member(self, node_id: bytes) -> bool | None:
        certificate = self._core.roster.get(node_id)
        return None if certificate is None else "relay" in certificate.roles


def _frame(circuit: _Circuit, kind: FrameKind, data: bytes = b"") -> SendMessage:
    return SendMessage(circuit.link, CircuitFrame(kind, circuit.number, circuit.route, 1, data).encode(), PRIORITY)
