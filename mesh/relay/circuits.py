"""Circuits: connections between members that only relays join, carried in messages of the links with those relays.

A relay stores no tables, so nobody can catch up with it; after a split, two members on both sides of a relay have missed
what the other side wrote. They need a link of their own, and this gives the core a connection for it: the same handshake,
the same certificates, sealed between the two ends. Owns the numbers of these connections and what travels for them. What
always holds: a relay keeps no state of circuits and can only hold frames back; a member forwards for nobody; a frame came
over the link of the node that stands before us in its route; what waits at a relay is bounded.
Must not know: what a connection carries.

Wraps a `MeshCore`: events and actions of connections that a shell made pass unchanged.
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
    SendMessage,
    Write,
)
from mycomesh.mesh.relay.circuit_frame import NUMBER_MAX, CircuitFrame, FrameKind
from mycomesh.mesh.relay.circuit_plan import CircuitPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.core import MeshCore
    from mycomesh.mesh.events import Action, Event
    from mycomesh.mesh.membership.roster import Roster
    from mycomesh.mesh.mesh_clock import MeshClock
    from mycomesh.mesh.peer_status import PeerStatus

__all__ = ["CONNS_FROM", "Circuits"]

CONNS_FROM = 1 << 40  # numbers of connections that no shell counts up to
CIRCUITS_MAX = 64  # of one member: a tree needs five, the rest is what others may try
PLAN_MS = 1_000  # between looks at the link-states, while there is a link with a relay
RETRY_MS = 5_000  # before the same member is called again: a whole handshake's time
SPARE_MS = 10_000  # a circuit is so old before it is given up because members join its ends: routes may be flapping
# What may wait at a relay for one of its links: eight windows of a link. Above it frames are refused and their circuit ends,
# long before the link itself would be given up.
WAITING_BYTES_MAX = 16 << 20
PRIORITY = 1  # of frames: behind live alerts on the links with relays, ahead of nothing that is urgent


@dataclass(slots=True)
class _Circuit:
    """One of ours; `route` begins here, `link` leads to its first relay."""

    conn: int
    number: int
    route: tuple[bytes, ...]
    link: int
    opened_ms: int


class Circuits:
    """A `MeshCore` and its connections through relays; handle it like the core itself."""

    __slots__ = ("_by_conn", "_by_peer", "_core", "_opened", "_plan_ms", "_relayed", "_retry_ms")

    def __init__(self, core: MeshCore) -> None:
        self._core = core
        self._by_conn: dict[int, _Circuit] = {}
        self._by_peer: dict[bytes, _Circuit] = {}
        self._relayed: dict[int, bytes] = {}  # links that carry frames: those of a relay all, those of others to relays
        self._retry_ms: dict[bytes, int] = {}
        self._opened = 0
        self._plan_ms = 0

    @property
    def mesh_clock(self) -> MeshClock:
        """Return what the mesh says of this node's clock."""
        return self._core.mesh_clock

    @property
    def roster(self) -> Roster:
        """What the core knows of members."""
        return self._core.roster

    def peers(self, now_ms: int) -> Sequence[PeerStatus]:
        """Every other member."""
        return self._core.peers(now_ms)

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Action]:
        """Take one event; return what must be done, in order."""
        todo: deque[Event] = deque([event])
        if isinstance(event, ConnClosed) and event.conn in self._by_conn:
            todo.appendleft(self._hang_up(self._by_conn[event.conn]))  # who runs this core has dropped the link
        done: list[Action] = []
        self._run(todo, done, now_ms, wall_ms)
        if self._plans() and self._plan_ms <= now_ms:
            self._plan_ms = now_ms + PLAN_MS
            self._plan(todo, now_ms)
            self._run(todo, done, now_ms, wall_ms)
        return done

    def next_deadline(self) -> int | None:
        """The monotonic millisecond at which `TimerFired` is due."""
        due = self._core.next_deadline()
        if due is None or not self._plans():
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
                            todo.append(_said(circuit, FrameKind.DATA, data))
                    case Close(conn, _) if conn >= CONNS_FROM:
                        if conn in self._by_conn:
                            todo.append(self._hang_up(self._by_conn[conn]))
                    case Dial(address) if is_circuit(address.host):
                        todo.append(DialFailed(address))  # somebody's idea of an address: nobody listens there
                    case DeliverMessage(link, payload) if link in self._relayed:
                        self._on_message(link, payload, todo, now_ms)
                    case _:
                        done.append(action)
                        self._watch(action, todo, now_ms)

    def _watch(self, action: Action, todo: deque[Event], now_ms: int) -> None:
        """Links with relays come and go."""
        match action:
            case LinkUp(link, peer) if "relay" in peer.roles or self._is_relay():
                if link < CONNS_FROM:
                    self._relayed[link] = peer.node_id
                    self._plan_ms = now_ms + PLAN_MS  # its link-state is about to come
            case LinkDown(link, _, _) if self._relayed.pop(link, None) is not None:
                for circuit in [each for each in self._by_conn.values() if each.link == link]:
                    self._forget(circuit)
                    todo.append(ConnClosed(circuit.conn))
            case _:
                pass

    def _hang_up(self, circuit: _Circuit) -> Event:
        """Forget a circuit; the answer tells its other end."""
        self._forget(circuit)
        return _said(circuit, FrameKind.CLOSE)

    def _forget(self, circuit: _Circuit) -> None:
        del self._by_conn[circuit.conn]
        del self._by_peer[circuit.route[-1]]

    # ---- frames

    def _on_message(self, link: int, payload: bytes, todo: deque[Event], now_ms: int) -> None:
        """A frame, or whatever a peer says instead: that is dropped, as it can only have been meant for nobody."""
        try:
            frame = CircuitFrame.decode(payload)
        except DecodeError:
            return
        own = self._core.roster.own_id
        if frame.route[frame.at] != own or frame.route[frame.at - 1] != self._relayed[link]:
            return
        if frame.at < len(frame.route) - 1:
            if self._is_relay():
                todo.append(self._forwarded(link, frame))
        elif not self._is_relay():
            self._on_frame(link, frame, todo, now_ms)

    def _forwarded(self, link: int, frame: CircuitFrame) -> Event:
        onward = self._core.links.members.get(frame.route[frame.at + 1])
        if onward is None or onward.session.outbox.queued > WAITING_BYTES_MAX:
            return SendMessage(link, frame.refusal().encode(), PRIORITY)
        return SendMessage(onward.conn, frame.onward().encode(), PRIORITY)

    def _on_frame(self, link: int, frame: CircuitFrame, todo: deque[Event], now_ms: int) -> None:
        peer = frame.route[0]
        circuit = self._by_peer.get(peer)
        if frame.kind is FrameKind.OPEN:
            if circuit is not None:  # its other end knows nothing of it any more
                self._forget(circuit)
                todo.append(ConnClosed(circuit.conn))
            if len(self._by_conn) >= CIRCUITS_MAX:
                todo.append(SendMessage(link, frame.refusal().encode(), PRIORITY))
            else:
                todo.append(self._made(frame.route[::-1], frame.number, link, now_ms))
        elif circuit is not None and circuit.number == frame.number:
            if frame.kind is FrameKind.DATA:
                todo.append(ConnReceived(circuit.conn, frame.data))
            else:
                self._forget(circuit)
                todo.append(ConnClosed(circuit.conn))
        elif frame.kind is FrameKind.DATA:
            todo.append(SendMessage(link, frame.refusal().encode(), PRIORITY))

    def _made(self, route: tuple[bytes, ...], number: int, link: int, now_ms: int) -> ConnOpened:
        """A circuit of ours from here on; the answer tells the core."""
        self._opened += 1
        circuit = _Circuit(CONNS_FROM + self._opened, number, route, link, now_ms)
        self._by_conn[circuit.conn] = self._by_peer[route[-1]] = circuit
        relay = self._core.roster.get(route[1])
        address = circuit_address(route[1][:4].hex() if relay is None else relay.name, route[-1])
        return ConnOpened(circuit.conn, address, dialled=route[0] < route[-1])

    # ---- which circuits there are

    def _plans(self) -> bool:
        return bool(self._relayed) and not self._is_relay()

    def _is_relay(self) -> bool:
        return "relay" in self._core.roster.identity.certificate.roles

    def _plan(self, todo: deque[Event], now_ms: int) -> None:
        members = self._core.links.members
        seen = CircuitPlan(self._core.roster.own_id, members, self._core.topology(), self._role)
        for route in seen.wanted():
            peer, relay = route[-1], members[route[1]]
            if peer in self._by_peer or self._retry_ms.get(peer, 0) > now_ms or len(self._by_conn) >= CIRCUITS_MAX:
                continue
            self._retry_ms = {each: due for each, due in self._retry_ms.items() if due > now_ms}
            self._retry_ms[peer] = now_ms + RETRY_MS
            number = (self._opened + 1) % NUMBER_MAX
            opened = self._made(route, number, relay.conn, now_ms)
            todo.append(_said(self._by_peer[peer], FrameKind.OPEN))
            todo.append(opened)
        for circuit in self._by_conn.values():
            # One at a time, and by the end that opened it: if several join the same groups, one has to stay.
            ours, old = circuit.route[0] < circuit.route[-1], circuit.opened_ms + SPARE_MS <= now_ms
            if ours and old and circuit.route[-1] in members and seen.joined(circuit.route[-1]):
                todo += (self._hang_up(circuit), ConnClosed(circuit.conn))
                break

    def _role(self, node_id: bytes) -> bool | None:
        certificate = self._core.roster.get(node_id)
        return None if certificate is None else "relay" in certificate.roles


def _said(circuit: _Circuit, kind: FrameKind, data: bytes = b"") -> SendMessage:
    return SendMessage(circuit.link, CircuitFrame(kind, circuit.number, circuit.route, 1, data).encode(), PRIORITY)
