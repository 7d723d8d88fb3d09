"""Circuits: connections between members that only relays join, carried in messages on the links with those relays.

A relay stores no tables, so a member cannot catch up from it. After a split, two members on both sides of a relay have missed
each other's writes and need a link of their own. This module gives the core a connection for that link, with the same
handshake and certificates as any other, encrypted between the two ends. It wraps a `MeshCore`; events and actions of
connections that the shell made pass through unchanged.

Invariants: a relay keeps no state of circuits, and all it can do to a circuit is withhold frames. A member never forwards
frames. A node accepts a frame only on the link with the previous node of its route. The bytes that wait at a relay are
bounded.
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

CONNS_FROM = 1 << 40  # first connection number of circuits: shells never count so far
CIRCUITS_MAX = 64  # of one member: the tree needs five, the rest is for circuits that others open
PLAN_MS = 1_000  # between two plans, while there is a link with a relay
RETRY_MS = 5_000  # before the next circuit to the same member: the time of a whole handshake
REDUNDANT_MS = 10_000  # minimum age of a circuit that is closed because members join its ends: routes may be flapping
# Bytes that may wait at a relay for one of its links: eight windows of a link. Above this the relay refuses frames, which ends
# their circuit long before the link itself would be dropped.
QUEUED_BYTES_MAX = 16 << 20
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

    __slots__ = ("_by_conn", "_by_peer", "_core", "_opened", "_plan_ms", "_relayed", "_retry_ms")

    def __init__(self, core: MeshCore) -> None:
        self._core = core
        self._by_conn: dict[int, _Circuit] = {}
        self._by_peer: dict[bytes, _Circuit] = {}
        self._relayed: dict[int, bytes] = {}  # link -> peer; a relay's links, and members' links with relays
        self._retry_ms: dict[bytes, int] = {}
        self._opened = 0
        self._plan_ms = 0

    @property
    def mesh_clock(self) -> MeshClock:
        """The mesh's measurement of this node's clock."""
        return self._core.mesh_clock

    @property
    def roster(self) -> Roster:
        """The members that the core knows."""
        return self._core.roster

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
        return done

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
                    case DeliverMessage(link, payload) if link in self._relayed:
                        self._on_message(link, payload, todo, now_ms)
                    case _:
                        done.append(action)
                        self._track_links(action, todo, now_ms)

    def _track_links(self, action: Action, todo: deque[Event], now_ms: int) -> None:
        """Track links with relays; when one goes down, close its circuits."""
        match action:
            case LinkUp(link, peer) if "relay" in peer.roles or self._is_relay():
                if link < CONNS_FROM:
                    self._relayed[link] = peer.node_id
                    self._plan_ms = now_ms + PLAN_MS  # the peer's link-state arrives in a moment
            case LinkDown(link, _, _) if self._relayed.pop(link, None) is not None:
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
        """Handle a message on a link with a relay: deliver or forward a valid frame, and drop everything else."""
        try:
            frame = CircuitFrame.decode(payload)
        except DecodeError:
            return
        own = self._core.roster.own_id
        if frame.route[frame.at] != own or frame.route[frame.at - 1] != self._relayed[link]:
            return
        if frame.at < len(frame.route) - 1:
            if self._is_relay():
                todo.append(self._forward(link, frame))
        elif not self._is_relay():
            self._on_frame(link, frame, todo, now_ms)

    def _forward(self, link: int, frame: CircuitFrame) -> Event:
        next_link = self._core.links.members.get(frame.route[frame.at + 1])
        if next_link is None or next_link.session.outbox.queued > QUEUED_BYTES_MAX:
            return SendMessage(link, frame.refusal().encode(), PRIORITY)
        return SendMessage(next_link.conn, frame.onward().encode(), PRIORITY)

    def _on_frame(self, link: int, frame: CircuitFrame, todo: deque[Event], now_ms: int) -> None:
        peer = frame.route[0]
        circuit = self._by_peer.get(peer)
        if frame.kind is FrameKind.OPEN:
            if circuit is not None:  # the other end has forgotten the old circuit
                self._forget(circuit)
                todo.append(ConnClosed(circuit.conn))
            if len(self._by_conn) >= CIRCUITS_MAX:
                todo.append(SendMessage(link, frame.refusal().encode(), PRIORITY))
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
        return bool(self._relayed) and not self._is_relay()

    def _is_relay(self) -> bool:
        return "relay" in self._core.roster.identity.certificate.roles

    def _plan(self, todo: deque[Event], now_ms: int) -> None:
        members = self._core.links.members
        plan = CircuitPlan(self._core.roster.own_id, members, self._core.topology(), self._is_relay_member)
        for route in plan.routes_to_open():
            peer, relay = route[-1], members[route[1]]
            if peer in self._by_peer or self._retry_ms.get(peer, 0) > now_ms or len(self._by_conn) >= CIRCUITS_MAX:
                continue
            self._retry_ms = {each: due for each, due in self._retry_ms.items() if due > now_ms}
            self._retry_ms[peer] = now_ms + RETRY_MS
            number = (self._opened + 1) % NUMBER_MAX
            event = self._open(route, number, relay.conn, now_ms)
            todo.append(_frame(self._by_peer[peer], FrameKind.OPEN))
            todo.append(event)
        for circuit in self._by_conn.values():
            # Only the opener closes a circuit, and only one at a time: if several join the same groups, one must remain.
            ours, old = circuit.route[0] < circuit.route[-1], circuit.opened_ms + REDUNDANT_MS <= now_ms
            if ours and old and circuit.route[-1] in members and plan.is_joined(circuit.route[-1]):
                todo += (self._close(circuit), ConnClosed(circuit.conn))
                break

    def _is_relay_member(self, node_id: bytes) -> bool | None:
        certificate = self._core.roster.get(node_id)
        return None if certificate is None else "relay" in certificate.roles


def _frame(circuit: _Circuit, kind: FrameKind, data: bytes = b"") -> SendMessage:
    return SendMessage(circuit.link, CircuitFrame(kind, circuit.number, circuit.route, 1, data).encode(), PRIORITY)
