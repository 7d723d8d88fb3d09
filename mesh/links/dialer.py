"""Dialler: the address book of one node, with the state of each address and the time of its next dial.

Addresses are hints from mDNS, settings and peers, and may be wrong. Anybody on the network can announce addresses, so one where
no member has authenticated is unproven: few are kept, a dial there costs a token, and an announcement that only repeats an
earlier one does not make its failures forgotten.

Invariants: an address has at most one dial at a time, and at most one per `dial_ms`, however often it is announced. Where a
member was seen, a change of this machine's network brings one at once, at most one per `HASTE_MS`. Addresses of linked members
are not dialled. The node's own addresses are not dialled again until the network changes. The book is bounded,
and an event costs no more than the logarithm of its size.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, assert_never

from mycomesh.mesh.address import directness, is_circuit, is_lasting
from mycomesh.mesh.events import AddressFound, DialFailed, NetworkChanged
from mycomesh.mesh.rate_limit import admit_at_rate

if TYPE_CHECKING:
    import random

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.events import Address

__all__ = ["Dialer"]

_STATIC, _PROVEN, _UNPROVEN = range(3)  # ranks of addresses that wait for a slot; unproven ones rank by their failures

ADDRESSES_MAX = 1_024  # 64 members with 16 addresses each
# Unproven addresses among them: twice as many as the names that mDNS keeps. In a flood of spoofed records the oldest are removed.
UNPROVEN_MAX = 512
HOSTS_MAX = 256  # hosts where members were seen, for which slots are reserved: as many as are near in a large mesh
# Failures in a row until an unproven address is given up: about two minutes. From then on a hint brings one more dial each
# REVISIT_MS, because a cable may be plugged in where nobody announces anything again.
FAILURES_MAX = 8
REVISIT_MS = 180_000
# Failed dials to unproven addresses, together: a burst for the start in a large mesh, then one a second, which costs less than a
# thousandth of a core. A dial that finds a member is free.
UNPROVEN_AT_ONCE = 64
UNPROVEN_EVERY_MS = 1_000
# Between two dials to an address of a member, or of the settings, that changes of the network bring. A cable that is plugged in
# makes several changes, of which only the last one may let a dial through.
HASTE_MS = 50


class _State(Enum):
    WAITING = auto()  # for its next dial, at due_ms
    DIALLING = auto()  # a dial is in progress
    CONNECTED = auto()  # a connection that we dialled there is open
    GIVEN_UP = auto()  # no member answered FAILURES_MAX times in a row
    RESTING = auto()  # its member is linked, at this address or another
    OWN = auto()  # it is an address of this node


_MOVES = {
    (_State.WAITING, _State.DIALLING),
    (_State.WAITING, _State.RESTING),
    (_State.WAITING, _State.OWN),
    (_State.WAITING, _State.GIVEN_UP),
    (_State.GIVEN_UP, _State.WAITING),
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
    instance: str = ""  # the name by which mDNS announced it last; each run of a node draws another
    ticket: int = 0  # of its place in the queues; places with an older one are void

    def move(self, state: _State) -> None:
        assert (self.state, state) in _MOVES, f"no transition from {self.state.name} to {state.name}"
        self.state = state


class Dialer:
    """The address book of one node. The core sets `links_wanted` and `sought` before it calls `start_dials`."""

    __slots__ = (
        "_book",
        "_config",
        "_dialling",
        "_linked",
        "_member_hosts",
        "_over_ms",
        "_queue",
        "_ready",
        "_rng",
        "_set_aside",
        "_sought_looked",
        "_sought_ready",
        "_tickets",
        "_unlooked",
        "_unproven",
        "avoided",
        "links_wanted",
        "sought",
    )

    def __init__(self, config: MeshConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._book: OrderedDict[Address, _Entry] = OrderedDict()
        self._unproven: OrderedDict[Address, None] = (
            OrderedDict()
        )  # the unproven ones of the book, the latest hint last
        self._queue: list[tuple[int, int, Address]] = []  # heap of (due_ms, ticket, address): what waits for its time
        self._ready: list[
            tuple[int, int, int, Address]
        ] = []  # heap of (rank, order, ticket, address): what waits for a slot
        self._set_aside: list[tuple[int, int, int, Address]] = []  # what was ready, of members that are avoided
        # Among those that are ready: which of them are of members that were sought at the last look, and which came since.
        self._sought_ready: list[tuple[int, int, int, Address]] = []
        self._unlooked: list[tuple[int, int, int, Address]] = []
        self._sought_looked: frozenset[bytes] = frozenset()
        self._tickets = itertools.count(1)
        self._linked: dict[bytes, int] = {}  # member -> directness of its link
        self._member_hosts: OrderedDict[str, None] = OrderedDict()
        self._dialling = 0
        self._over_ms: int | None = None  # token bucket of dials to unproven addresses
        self.links_wanted = 1 << 30  # how many more links the node wants
        self.sought: frozenset[bytes] = frozenset()  # members to dial also if it wants no more links
        self.avoided: frozenset[bytes] = frozenset()  # members with whom it wants no more links, unless they are sought

    # ---- hints

    def on_event(self, event: AddressFound | DialFailed | NetworkChanged, now_ms: int) -> None:
        """Handle an event of the shell about addresses."""
        match event:
            case AddressFound(address, static, instance):
                self.on_address_found(address, now_ms, static=static, instance=instance)
            case DialFailed(address):
                self.on_dial_failed(address, now_ms)
            case NetworkChanged():
                self.on_network_changed(now_ms)
            case _:
                assert_never(event)

    def on_address_found(
        self, address: Address, now_ms: int, *, static: bool = False, node_id: bytes | None = None, instance: str = ""
    ) -> None:
        """Handle a hint that a member may listen there: dial soon, unless the hint repeats an earlier one."""
        if is_circuit(address.host) or (address.port and not is_lasting(address.host)):
            return  # nobody can dial it
        entry = self._book.get(address)
        if entry is None:
            entry = self._book[address] = _Entry(static, node_id=node_id, instance=instance)
            if not static:
                self._unproven[address] = None
            self._shrink()
            news = True
        else:
            # mDNS repeats what it has cached, also of a node that is gone or was never there. A run of a node has a new name.
            news = static or node_id is not None or entry.proven or instance != entry.instance
            self._update(address, entry, static=static, node_id=node_id, instance=instance)
        if entry.state is _State.GIVEN_UP:
            assert entry.tried_ms is not None
            if not news and now_ms - entry.tried_ms < REVISIT_MS:
                return
            entry.move(_State.WAITING)
            entry.failures = FAILURES_MAX - 1
            self._wait(address, entry, now_ms, 0)
        if news:
            entry.failures = 0
        if entry.state is _State.WAITING:
            if self._is_linked(address, entry):
                entry.move(_State.RESTING)
            elif news:
                self._hasten(address, entry, now_ms)

    def _update(self, address: Address, entry: _Entry, *, static: bool, node_id: bytes | None, instance: str) -> None:
        """Record another hint of a known address."""
        self._book.move_to_end(address)
        if static:
            self._unproven.pop(address, None)
        elif address in self._unproven:
            self._unproven.move_to_end(address)
        entry.static = entry.static or static
        entry.instance = instance or entry.instance
        if node_id is None and not entry.proven:
            # A node announces the address itself, so another member's statement about who is there is outdated.
            entry.node_id = None
            if entry.state is _State.RESTING:
                entry.move(_State.WAITING)
                entry.due_ms = 1 << 62  # its place in the queue is void: `_hasten` gives it another

    def on_network_changed(self, now_ms: int) -> None:
        """Handle a change of interfaces: any member may be reachable again, so dial every waiting address at once."""
        for address, entry in self._book.items():
            entry.failures = 0
            if entry.state in (_State.OWN, _State.GIVEN_UP):
                entry.move(_State.WAITING)
            if entry.state is _State.WAITING:
                spacing_ms = HASTE_MS if entry.static or entry.proven else self._config.dial_ms
                self._wait(address, entry, now_ms, 0, spacing_ms)

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
            if self._is_linked(address, entry):
                entry.move(_State.RESTING)
            else:
                self._retry(address, entry, now_ms)

    def record_member(self, address: Address, node_id: bytes) -> None:
        """Record the member that authenticated at an address that we dialled. It may still refuse this node."""
        entry = self._book.get(address)
        if entry is not None:
            entry.node_id = node_id
            self._prove(address, entry)

    def _prove(self, address: Address, entry: _Entry) -> None:
        if not entry.proven and not entry.static and self._over_ms is not None:
            self._over_ms -= UNPROVEN_EVERY_MS  # the token of the dial that found the member
        entry.proven = True
        self._unproven.pop(address, None)

    def on_version_mismatch(self, address: Address, node_id: bytes, now_ms: int) -> None:
        """Handle a member that shares no protocol version with this node: do not dial it for a while.

        Hints do not shorten that time: they do not mean that the member was upgraded. An upgraded member dials by itself.
        """
        entry = self._book.get(address)
        if entry is not None:
            entry.node_id = node_id
            self._prove(address, entry)
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
        self._linked[node_id] = directness(host)  # over a NATS server: keep dialling other addresses for a direct link
        for address, entry in self._book.items():
            if entry.node_id == node_id:
                entry.failures = 0
                if entry.state is _State.WAITING and self._is_linked(address, entry):
                    entry.move(_State.RESTING)

    def on_link_down(self, node_id: bytes, now_ms: int) -> None:
        """Handle the end of the link to a member: dial its addresses again."""
        self._linked.pop(node_id, None)
        for address, entry in self._book.items():
            if entry.node_id == node_id and entry.state is _State.RESTING:
                entry.move(_State.WAITING)
                entry.failures = 0
                self._wait(address, entry, now_ms, self._backoff(0))

    # ---- dialling

    def start_dials(self, now_ms: int) -> list[Address]:
        """Return the addresses to dial now, which count as dialling from here on.

        Static addresses come first, then proven ones. Of the unproven ones the least failed come first, the latest hint before
        the others: a member that arrives after a flood of spoofed addresses does not wait for all of them.
        """
        while self._queue and self._queue[0][0] <= now_ms:
            due_ms, ticket, address = heapq.heappop(self._queue)
            entry = self._waiting(address, ticket)
            if entry is not None:
                rank = _STATIC if entry.static else _PROVEN if entry.proven else _UNPROVEN + entry.failures
                place = (rank, due_ms if rank < _UNPROVEN else -ticket, ticket, address)
                heapq.heappush(self._ready, place)
                self._unlooked.append(place)
        dials: list[Address] = []
        for at in reversed(range(len(self._set_aside))):
            if not self._avoids(self._set_aside[at]):
                heapq.heappush(self._ready, self._set_aside.pop(at))
        while self._ready and self._has_slot():
            rank, _, ticket, address = self._ready[0]
            entry = self._waiting(address, ticket)
            if entry is not None:
                if self._avoids(self._ready[0]):
                    self._set_aside.append(heapq.heappop(self._ready))
                    continue
                if rank >= _UNPROVEN and not self._take_token(now_ms):
                    break
                self._dial(address, entry, now_ms, dials)
            heapq.heappop(self._ready)
        if self.sought:
            self._dial_sought(dials, now_ms)
        else:
            self._unlooked, self._sought_looked = [], self.sought
        return dials

    def _dial_sought(self, dials: list[Address], now_ms: int) -> None:
        """Dial the members that are sought among the addresses that wait for a slot.

        A base may seek a thousand members, and each message that arrives leads here: each address is looked at once, unless
        other members are sought.
        """
        if self.sought is not self._sought_looked and self.sought != self._sought_looked:
            self._unlooked, self._sought_ready = [*self._ready, *self._set_aside], []
        self._sought_looked = self.sought
        found = [place for place in self._unlooked if self._is_sought(place)]
        self._unlooked = []
        if found:
            self._sought_ready = sorted(filter(self._is_sought, {*self._sought_ready, *found}))
        done = 0
        for rank, _, ticket, address in self._sought_ready:
            entry = self._waiting(address, ticket)
            if self._dialling >= self._config.dials_max:
                break
            # A later hint may have forgotten whose address it is.
            if entry is not None and entry.node_id in self.sought:
                if rank >= _UNPROVEN and not self._take_token(now_ms):
                    break  # a token comes with time
                self._dial(address, entry, now_ms, dials)  # its place among those that are ready is void
            done += 1
        del self._sought_ready[:done]

    def _is_sought(self, place: tuple[int, int, int, Address]) -> bool:
        entry = self._waiting(place[3], place[2])
        return entry is not None and entry.node_id in self.sought

    def _avoids(self, place: tuple[int, int, int, Address]) -> bool:
        entry = self._waiting(place[3], place[2])
        return entry is not None and entry.node_id is not None and entry.node_id in self.avoided

    def _dial(self, address: Address, entry: _Entry, now_ms: int, dials: list[Address]) -> None:
        entry.move(_State.DIALLING)
        entry.tried_ms = now_ms
        self._dialling += 1
        dials.append(address)

    def deadline(self) -> int | None:
        """Return when `start_dials` may have addresses; None while all slots are in use, because an outcome must come first."""
        if not self._has_slot():
            return (
                self._queue[0][0] if self._queue and self.sought and self._dialling < self._config.dials_max else None
            )
        dues = [self._queue[0][0]] if self._queue else []
        if self._ready:  # they wait for a token, or for slots that have become free since
            wait_ms = UNPROVEN_EVERY_MS * (UNPROVEN_AT_ONCE - 1)
            dues.append(0 if self._ready[0][0] < _UNPROVEN or self._over_ms is None else self._over_ms - wait_ms)
        return min(dues, default=None)

    def _has_slot(self) -> bool:
        return self.links_wanted > self._dialling < self._config.dials_max

    def _take_token(self, now_ms: int) -> bool:
        over_ms = admit_at_rate(self._over_ms, now_ms, every_ms=UNPROVEN_EVERY_MS, at_once=UNPROVEN_AT_ONCE)
        self._over_ms = self._over_ms if over_ms is None else over_ms
        return over_ms is not None

    def _waiting(self, address: Address, ticket: int) -> _Entry | None:
        """Return the entry whose place in a queue this is; None if it has left the queue since."""
        entry = self._book.get(address)
        return entry if entry is not None and entry.state is _State.WAITING and entry.ticket == ticket else None

    def is_member_host(self, host: str) -> bool:
        """Return True if a member was linked from or at this host."""
        return host in self._member_hosts

    def _is_linked(self, address: Address, entry: _Entry) -> bool:
        """Return True if the member at an address has a link that a connection there would not replace."""
        return entry.node_id is not None and self._linked.get(entry.node_id, 0) >= directness(address.host)

    def _retry(self, address: Address, entry: _Entry, now_ms: int) -> None:
        entry.failures += 1
        if entry.failures >= FAILURES_MAX and not entry.proven and not entry.static:
            entry.move(_State.GIVEN_UP)
            return
        self._wait(address, entry, now_ms, self._backoff(entry.failures - 1))

    def _hasten(self, address: Address, entry: _Entry, now_ms: int) -> None:
        """Dial as soon as allowed, unless that is planned already: repeated hints must not fill the queue."""
        if self._soonest(entry, now_ms) < entry.due_ms or not entry.ticket:
            self._wait(address, entry, now_ms, 0)

    def _wait(self, address: Address, entry: _Entry, now_ms: int, delay_ms: int, spacing_ms: int | None = None) -> None:
        entry.due_ms = max(now_ms + delay_ms, self._soonest(entry, now_ms, spacing_ms))
        entry.ticket = next(self._tickets)
        heapq.heappush(self._queue, (entry.due_ms, entry.ticket, address))
        if len(self._queue) > 4 * ADDRESSES_MAX:  # network changes in a row leave a void place of each address
            self._queue = [place for place in self._queue if self._waiting(place[2], place[1]) is not None]
            heapq.heapify(self._queue)

    def _soonest(self, entry: _Entry, now_ms: int, spacing_ms: int | None = None) -> int:
        spacing_ms = self._config.dial_ms if spacing_ms is None else spacing_ms
        return max(now_ms if entry.tried_ms is None else entry.tried_ms + spacing_ms, entry.not_before_ms)

    def _backoff(self, failures: int) -> int:
        longest = min(self._config.dial_ms << min(failures, 16), self._config.dial_ms_max)
        # Jitter: after a split heals, nodes must not all dial at the same moments.
        return int(longest * self._rng.uniform(0.5, 1.0))

    def _shrink(self) -> None:
        """Remove the unproven address whose last hint is the oldest, or else the oldest address, if there are too many."""
        if len(self._unproven) > UNPROVEN_MAX:
            self._remove_oldest(self._unproven)
        if len(self._book) > ADDRESSES_MAX:
            self._remove_oldest(self._unproven if len(self._unproven) > 1 else self._book)

    def _remove_oldest(self, addresses: OrderedDict[Address, Any]) -> None:
        busy = (_State.DIALLING, _State.CONNECTED)
        newest = next(reversed(self._book))
        for address in addresses:
            entry = self._book[address]
            if not entry.static and entry.state not in busy and address != newest:
                del self._book[address]
                self._unproven.pop(address, None)
                return
