"""Dialler: the address book of one node, with the state of each address and the time of its next dial.

Addresses are hints from mDNS, settings and peers, and may be wrong. Invariants: an address has at most one dial at a time, and
at most one per `dial_ms`, however often it is announced. Addresses of linked members are not dialled. The node's own addresses
are not dialled again until the network changes. The book is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

from mycomesh.mesh.address import is_circuit
from mycomesh.mesh.events import AddressFound, DialFailed, NetworkChanged

if TYPE_CHECKING:
    import random

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.events import Address

__all__ = ["Dialer"]

ADDRESSES_MAX = 1_024  # 64 members with 16 addresses each; in a flood of spoofed records the oldest are removed
HOSTS_MAX = 256  # hosts where members were seen, for which slots are reserved: as many as are near in a large mesh
FAILURES_MAX = 8  # in a row until an address that no member proved is removed: several minutes; a hint adds it again


class _State(Enum):
    WAITING = auto()  # for its next dial, at due_ms
    DIALLING = auto()  # a dial is in progress
    CONNECTED = auto()  # a connection that we dialled there is open
    RESTING = auto()  # its member is linked, at this address or another
    OWN = auto()  # it is an address of this node


_MOVES = {
    (_State.WAITING, _State.DIALLING),
    (_State.WAITING, _State.RESTING),
    (_State.WAITING, _State.OWN),
    (_State.DIALLING, _State.CONNECTED),
    (_State.DIALLING, _State.WAITING),
    (_State.CONNECTED, _State.WAITING),
    (_State.CONNECTED, _State.RESTING),
    (_State.CONNECTED, _State.OWN),
    (_State.RESTING, _State.WAITING),
    (_State.OWN, _State.WAITING),
}


@dataclass(slots=True)
class _Entry:
    static: bool
    state: _State = _State.WAITING
    node_id: bytes | None = None  # the member that was there last, or that a peer says is there
    proven: bool = False  # a member has authenticated there
    due_ms: int = 0
    tried_ms: int | None = None
    failures: int = 0
    not_before_ms: int = 0  # no dial before this time, whatever hints arrive

    def move(self, state: _State) -> None:
        assert (self.state, state) in _MOVES, f"no transition from {self.state.name} to {state.name}"
        self.state = state


class Dialer:
    """The address book of one node. The core sets `links_wanted` before it calls `start_dials`."""

    __slots__ = ("_book", "_config", "_dialling", "_due_ms", "_linked", "_member_hosts", "_rng", "links_wanted")

    def __init__(self, config: MeshConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._book: OrderedDict[Address, _Entry] = OrderedDict()
        self._linked: dict[bytes, None] = {}
        self._member_hosts: OrderedDict[str, None] = OrderedDict()
        self._dialling = 0
        self._due_ms: int | None = None  # no dial is due earlier
        self.links_wanted = 1 << 30  # how many more links the node wants

    # ---- hints

    def on_event(self, event: AddressFound | DialFailed | NetworkChanged, now_ms: int) -> None:
        """Handle an event of the shell about addresses."""
        match event:
            case AddressFound(address, static, _):
                self.on_address_found(address, now_ms, static=static)
            case DialFailed(address):
                self.on_dial_failed(address, now_ms)
            case NetworkChanged():
                self.on_network_changed(now_ms)
            case _:
                assert_never(event)

    def on_address_found(
        self, address: Address, now_ms: int, *, static: bool = False, node_id: bytes | None = None
    ) -> None:
        """Handle a hint that a member may listen there: dial soon, whatever failed before."""
        if is_circuit(address.host):
            return
        entry = self._book.get(address)
        if entry is None:
            entry = self._book[address] = _Entry(static, due_ms=now_ms, node_id=node_id)
            self._shrink()
        else:
            self._book.move_to_end(address)
            entry.static = entry.static or static
            entry.failures = 0
            if node_id is None and not entry.proven:
                # A node announces the address itself, so another member's statement about who is there is outdated.
                entry.node_id = None
                if entry.state is _State.RESTING:
                    entry.move(_State.WAITING)
        if entry.state is _State.WAITING:
            if entry.node_id in self._linked:
                entry.move(_State.RESTING)
            else:
                self._wait(entry, now_ms, 0)

    def on_network_changed(self, now_ms: int) -> None:
        """Handle a change of interfaces: any member may be reachable again, so dial every waiting address at once."""
        for entry in self._book.values():
            entry.failures = 0
            if entry.state is _State.OWN:
                entry.move(_State.WAITING)
            if entry.state is _State.WAITING:
                self._wait(entry, now_ms, 0)

    # ---- outcomes of dials

    def on_dial_failed(self, address: Address, now_ms: int) -> None:
        """Handle a dial that failed."""
        entry = self._book.get(address)
        if entry is not None and entry.state is _State.DIALLING:
            self._dialling -= 1
            entry.move(_State.WAITING)
            self._retry(address, entry, now_ms)

    def on_conn_opened(self, address: Address) -> None:
        """Handle a dial that led to a connection."""
        entry = self._book.get(address)
        if entry is not None and entry.state is _State.DIALLING:
            self._dialling -= 1
            entry.move(_State.CONNECTED)

    def on_conn_closed(self, address: Address, now_ms: int) -> None:
        """Handle the end of a connection that we dialled, whether or not a member was at its other end."""
        entry = self._book.get(address)
        if entry is not None and entry.state is _State.CONNECTED:
            entry.move(_State.WAITING)
            if entry.node_id in self._linked:
                entry.move(_State.RESTING)
            else:
                self._retry(address, entry, now_ms)

    def record_member(self, address: Address, node_id: bytes) -> None:
        """Record the member that authenticated at an address that we dialled."""
        entry = self._book.get(address)
        if entry is not None:
            entry.node_id = node_id
            entry.proven = True
            entry.failures = 0

    def on_version_mismatch(self, address: Address, node_id: bytes, now_ms: int) -> None:
        """Handle a member that shares no protocol version with this node: do not dial it for a while.

        Hints do not shorten that time: they do not mean that the member was upgraded. An upgraded member dials by itself.
        """
        entry = self._book.get(address)
        if entry is not None:
            entry.node_id = node_id
            entry.proven = True
            entry.not_before_ms = now_ms + self._config.dial_ms_max

    def pause_member(self, node_id: bytes, now_ms: int) -> None:
        """Do not dial a member for a while: it has replaced its link to this node."""
        for entry in self._book.values():
            if entry.node_id == node_id:
                entry.not_before_ms = now_ms + self._config.dial_ms_max

    def record_own_address(self, address: Address) -> None:
        """Record that this address leads to this node itself."""
        entry = self._book.get(address)
        if entry is not None and entry.state is _State.CONNECTED:
            entry.move(_State.OWN)

    # ---- members

    def on_link_up(self, node_id: bytes, host: str) -> None:
        """Handle a new link to a member, whose connection comes from or leads to this host: stop dialling its addresses."""
        self._member_hosts[host] = None
        self._member_hosts.move_to_end(host)
        if len(self._member_hosts) > HOSTS_MAX:
            self._member_hosts.popitem(last=False)
        if is_circuit(host):
            return  # a direct link would relieve the relays: keep dialling for one
        self._linked[node_id] = None
        for entry in self._book.values():
            if entry.node_id == node_id and entry.state is _State.WAITING:
                entry.move(_State.RESTING)

    def on_link_down(self, node_id: bytes, now_ms: int) -> None:
        """Handle the end of the link to a member: dial its addresses again."""
        self._linked.pop(node_id, None)
        for entry in self._book.values():
            if entry.node_id == node_id and entry.state is _State.RESTING:
                entry.move(_State.WAITING)
                entry.failures = 0
                self._wait(entry, now_ms, self._backoff(0))

    # ---- dialling

    def start_dials(self, now_ms: int) -> list[Address]:
        """Return the addresses to dial now, which count as dialling from here on. Static ones come first."""
        if self._due_ms is None or self._due_ms > now_ms:
            return []
        slots = min(self._config.dials_max - self._dialling, self.links_wanted - self._dialling)
        if slots <= 0:
            return []
        ready = [
            (not entry.static, entry.due_ms, number)
            for number, entry in enumerate(self._book.values())
            if entry.state is _State.WAITING and entry.due_ms <= now_ms
        ]
        chosen = dict.fromkeys(number for _, _, number in sorted(ready)[:slots])
        dials: list[Address] = []
        for number, (address, entry) in enumerate(self._book.items()):
            if number in chosen:
                entry.move(_State.DIALLING)
                entry.tried_ms = now_ms
                self._dialling += 1
                dials.append(address)
        waiting = (entry.due_ms for entry in self._book.values() if entry.state is _State.WAITING)
        self._due_ms = min(waiting, default=None)
        return dials

    def deadline(self) -> int | None:
        """Return when `start_dials` may have addresses; None while all slots are in use, because an outcome must come first."""
        if min(self._config.dials_max, self.links_wanted) <= self._dialling:
            return None
        return self._due_ms

    def is_member_host(self, host: str) -> bool:
        """Return True if a member was linked from or at this host."""
        return host in self._member_hosts

    def _retry(self, address: Address, entry: _Entry, now_ms: int) -> None:
        entry.failures += 1
        if entry.failures >= FAILURES_MAX and not entry.proven and not entry.static:
            del self._book[address]
            return
        self._wait(entry, now_ms, self._backoff(entry.failures - 1))

    def _wait(self, entry: _Entry, now_ms: int, delay_ms: int) -> None:
        soonest = now_ms if entry.tried_ms is None else entry.tried_ms + self._config.dial_ms
        entry.due_ms = max(now_ms + delay_ms, soonest, entry.not_before_ms)
        self._due_ms = entry.due_ms if self._due_ms is None else min(self._due_ms, entry.due_ms)

    def _backoff(self, failures: int) -> int:
        longest = min(self._config.dial_ms << min(failures, 16), self._config.dial_ms_max)
        # Jitter: after a split heals, nodes must not all dial at the same moments.
        return int(longest * self._rng.uniform(0.5, 1.0))

    def _shrink(self) -> None:
        if len(self._book) <= ADDRESSES_MAX:
            return
        idle = (_State.WAITING, _State.RESTING, _State.OWN)
        newest = next(reversed(self._book))
        for address, entry in self._book.items():
            if not entry.static and entry.state in idle and address != newest:
                del self._book[address]
                return
