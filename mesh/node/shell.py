"""The network side of a running node: one core (a node's or a joiner's) driven over real sockets and real time.

Owns the transport, the discovery, the network watch and the one timer. What always holds: events are handled one
after another in the order in which they arrived, even when doing an action causes the next event at once; an idle shell
has one timer armed and nothing else. It must not know tables, files or keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from mycomesh.mesh.events import Address, AddressFound, Close, Dial, Event, NetworkChanged, Notice, TimerFired, Write
from mycomesh.mesh.io.discovery import Discovery
from mycomesh.mesh.io.netlink import Netlink
from mycomesh.mesh.io.transport import Transport, TransportError
from mycomesh.mesh.node.config import PORT_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.mesh.node.config import NodeConfig, PeerName

__all__ = ["Core", "MeshShell", "clock"]

INSTANCE_BYTES = 8  # a random name a run: what mDNS shows to everybody must not say who a node is
RESOLVE_RETRY_S = 30  # a name that has no address yet: DNS answers change with the network, not by the second


class Core(Protocol):
    """What a shell needs of `NodeCore` and `Joiner`."""

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Any]:
        """Take one event; answer with the actions in order."""
        ...

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, or None."""
        ...


def clock() -> tuple[int, int]:
    """Return both times in milliseconds: monotonic for deadlines, wall for stamps and expiry."""
    return time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000


class MeshShell:
    """Drives one core. Everything happens on the event loop's thread."""

    def __init__(self, core: Core, config: NodeConfig, mesh_id: bytes, on_action: Callable[[Any], None]) -> None:
        self._core = core
        self._config = config
        self._on_action = on_action
        self._events: deque[Event | list[Any]] = deque()
        self._busy = True  # until `start`: whoever calls between `listen` and `start` waits in the queue
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport = Transport(self.feed)
        self._tag = mesh_id[:8].hex()
        self._discovery: Discovery | None = None
        self._netlink: Netlink | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The TCP port that others reach this node at; 0 where it does not listen."""
        return self._transport.address.port

    async def listen(self) -> int:
        """Open the port that others reach this node at; return it. A shell that never listens only dials."""
        if self._config.port is not None:
            await self._transport.start(self._config.port)
        else:
            try:
                await self._transport.start(PORT_DEFAULT)
            except TransportError:
                await self._transport.start(0)
        return self.port

    async def start(self, known: tuple[Address, ...] = ()) -> None:
        """Announce (where it listens) and browse, and hand the core every address that is known already."""
        self._busy = False
        loop = asyncio.get_running_loop()
        self._netlink = Netlink(self._on_network_changed)
        self._netlink.start()
        if self._config.multicast:
            self._discovery = Discovery(self._on_found, self._on_action, loopback=self._config.loopback)
            await self._discovery.start(os.urandom(INSTANCE_BYTES).hex(), self._tag, self.port or None)
        for address in known:
            self.feed(AddressFound(address))
        self._tasks += [loop.create_task(self._resolve(peer)) for peer in self._config.peers]
        self._pump()

    def feed(self, event: Event) -> None:
        """Hand one event to the core and do what it answers."""
        self._events.append(event)
        self._pump()

    def perform(self, actions: list[Any]) -> None:
        """Do actions that the core answered elsewhere (`NodeCore.on_exchange`), after those under way."""
        self._events.append(actions)
        self._pump()

    @property
    def isolated(self) -> bool:
        """Whether this node is cut off."""
        return self._transport.isolated

    def isolate(self, *, cut: bool) -> None:
        """Cut this node off from every other, or let it meet them again: a split on purpose, to see what happens."""
        self._transport.isolate(cut=cut)
        if not cut:
            self.feed(NetworkChanged())

    async def close(self) -> None:
        """Take leave: withdraw the announcement, flush and close every connection."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        if self._netlink is not None:
            self._netlink.close()
        if self._discovery is not None:
            await self._discovery.close()
        await self._transport.close_all()

    # ---- what arrives

    def _on_found(self, address: Address, instance: str) -> None:
        self.feed(AddressFound(address, instance=instance))

    def _on_network_changed(self) -> None:
        if self._discovery is not None:
            self._discovery.network_changed()
        self.feed(NetworkChanged())

    def _on_timer(self) -> None:
        self._timer = None
        self.feed(TimerFired())

    async def _resolve(self, peer: PeerName) -> None:
        """Turn a static peer into addresses; a name without one is asked for again, since networks come and go."""
        if (numeric := _numeric(peer)) is not None:  # without the resolver's threads, which cost memory for ever
            self.feed(AddressFound(numeric, static=True))
            return
        loop = asyncio.get_running_loop()
        told = False
        while True:
            try:
                found = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
            except OSError as error:
                if not told:
                    text = f"peer {peer.host!r} has no address yet ({error.strerror}); trying again until it has one"
                    self._on_action(Notice("peer.unresolved", text, {"peer": peer.host}, "warning"))
                    told = True
                await asyncio.sleep(RESOLVE_RETRY_S)
                continue
            for address in dict.fromkeys(_address(entry[4]) for entry in found):
                self.feed(AddressFound(address, static=True))
            return

    # ---- what is done

    def _pump(self) -> None:
        """Handle queued events in order; an event caused by an action waits for its turn."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                event = self._events.popleft()
                now_ms, wall_ms = clock()
                actions = event if isinstance(event, list) else self._core.handle(event, now_ms, wall_ms)
                for action in actions:
                    self._do(action)
        finally:
            self._busy = False
        self._arm()

    def _do(self, action: Any) -> None:
        match action:
            case Write(conn, data):
                self._transport.write(conn, data)
            case Dial(address):
                self._transport.dial(address)
            case Close(conn, _):
                self._transport.close(conn)
                self._on_action(action)
            case _:
                self._on_action(action)

    def _arm(self) -> None:
        """Set the one timer to the core's deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.next_deadline()
        if deadline is None or self._closed:
            return
        wait_s = max(0, deadline - clock()[0]) / 1000
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)


def _numeric(peer: PeerName) -> Address | None:
    """Return the address that a peer's host already is, None where it is a name."""
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None
    return _address(found[0][4])


def _address(found: tuple[Any, ...]) -> Address:
    """Return what getaddrinfo found as a numeric address, the scope of a link-local one by its interface's name."""
    host, port = str(found[0]), int(found[1])
    scope = int(found[3]) if len(found) > 3 else 0
    if scope and "%" not in host:
        with contextlib.suppress(OSError):  # the interface has just gone: the bare address will fail by itself
            host = f"{host}%{socket.if_indextoname(scope)}"
    return Address(host, port)
