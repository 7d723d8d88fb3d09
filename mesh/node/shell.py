"""The network shell: drives one sans-I/O core (a node's or a joiner's) with real sockets, timers and clocks.

Invariants: events are handled in the order of arrival, even if performing an action causes another event at once; an idle shell
has one timer armed and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import os
import socket
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mycomesh.mesh.address import is_loopback, nats_instance
from mycomesh.mesh.events import Address, AddressFound, Close, Dial, Event, NetworkChanged, Notice, TimerFired, Write
from mycomesh.mesh.io.interfaces import interface_with
from mycomesh.mesh.io.netlink import Netlink
from mycomesh.mesh.io.transport import Transport, TransportError
from mycomesh.mesh.node.config import PORT_DEFAULT
from mycomesh.mesh.node.credentials import read_login
from mycomesh.mesh.node.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mycomesh.mesh.io.discovery import Discovery
    from mycomesh.mesh.io.nats_links import NatsLinks
    from mycomesh.mesh.node.config import NodeConfig, PeerName

__all__ = ["Core", "MeshShell", "clock"]

INSTANCE_BYTES = 8  # of a random mDNS name for each run: everybody sees it, so it must not identify the node
RESOLVE_RETRY_S = 30  # between look-ups of a name without an address: DNS changes with the network, not by the second


class Core(Protocol):
    """The interface that `NodeCore` and `Joiner` share."""

    def handle(self, event: Event, now_ms: int, wall_ms: int) -> list[Any]:
        """Handle one event; return the actions in order."""
        ...

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, or None."""
        ...


def clock() -> tuple[int, int]:
    """Return the monotonic time, for deadlines, and the wall time, for stamps and expiry, in milliseconds."""
    return time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000


class MeshShell:
    """Drives one core. All methods run on the event loop's thread."""

    def __init__(
        self,
        core: Core,
        config: NodeConfig,
        mesh_id: bytes,
        on_action: Callable[[Any], None],
        *,
        search_spacing: Callable[[int], int] = lambda _now_ms: 1,
        on_handled: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the core; `search_spacing` says at a time how many times longer to wait between searches by mDNS.

        `on_handled` is called after the core has handled events.
        """
        self._core = core
        self._config = config
        self._on_action = on_action
        self._search_spacing = search_spacing
        self._on_handled = on_handled
        self._events: deque[Event | list[Any]] = deque()
        self._busy = True  # until `start`: events between `listen` and `start` wait in the queue
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        numbers = itertools.count(1)
        metered = config.link is not None and bool(config.link.interfaces)
        self._transport = Transport(
            self.feed,
            loopback=config.loopback,
            numbers=numbers,
            interface_of=interface_with if metered else None,
        )
        self._nats = _nats_links(config, mesh_id, self.feed, on_action, numbers)
        self._mesh_tag = mesh_id[:8].hex()
        self._discovery: Discovery | None = None
        self._netlink: Netlink | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The TCP port on which this node listens; 0 if it does not."""
        return self._transport.address.port

    async def listen(self) -> int:
        """Listen on the configured port, or on any free one; return it. A shell that never listens only dials."""
        if self._config.port is not None:
            await self._transport.start(self._config.port)
        else:
            try:
                await self._transport.start(PORT_DEFAULT)
            except TransportError:
                await self._transport.start(0)
        return self.port

    async def start(self, known: tuple[Address, ...] = ()) -> None:
        """Start discovery and the network watch, and give the core the addresses known from earlier runs."""
        self._busy = False
        loop = asyncio.get_running_loop()
        self._netlink = Netlink(self._on_network_changed)
        self._netlink.start()
        if self._config.multicast:
            from mycomesh.mesh.io.discovery import Discovery  # noqa: PLC0415 -- 4 MB that other nodes do not need

            self._discovery = Discovery(
                self._on_address_found,
                self._on_action,
                loopback=self._config.loopback,
                spacing=lambda: self._search_spacing(clock()[0]),
            )
            await self._discovery.start(os.urandom(INSTANCE_BYTES).hex(), self._mesh_tag, self.port or None)
        for address in known:
            self.feed(AddressFound(address))
        self._tasks += [loop.create_task(self._resolve(peer)) for peer in self._config.peers if not peer.nats]
        for each in self._nats:
            each.start(lambda: self._search_spacing(clock()[0]))
        self._pump()

    def feed(self, event: Event) -> None:
        """Let the core handle one event, and perform its actions."""
        self._events.append(event)
        self._pump()

    def perform(self, actions: list[Any]) -> None:
        """Perform actions that the core returned elsewhere (`NodeCore.on_exchange`), after those in progress."""
        self._events.append(actions)
        self._pump()

    @property
    def isolated(self) -> bool:
        """Whether this node is cut off."""
        return self._transport.isolated

    def isolate(self, *, cut: bool) -> None:
        """Cut this node off from all others, or reconnect it: a deliberate partition, to observe the effects."""
        for each in self._nats:
            each.isolate(cut=cut)
        self._transport.isolate(cut=cut)
        if not cut:
            self.feed(NetworkChanged())

    async def close(self) -> None:
        """Withdraw the announcement; flush and close every connection."""
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
        for each in self._nats:
            await each.close_all()
        await self._transport.close_all()

    # ---- events

    def _on_address_found(self, address: Address, instance: str) -> None:
        self.feed(AddressFound(address, instance=instance))

    def _on_network_changed(self) -> None:
        if self._discovery is not None:
            self._discovery.network_changed()
        self.feed(NetworkChanged())

    def _on_timer(self) -> None:
        self._timer = None
        self.feed(TimerFired())

    async def _resolve(self, peer: PeerName) -> None:
        """Feed the addresses of a static peer. Look a name without an address up again, because networks change."""
        if (
            numeric := _numeric(peer)
        ) is not None:  # avoids the resolver's threads, whose memory stays with the process
            self.feed(AddressFound(numeric, static=True))
            return
        loop = asyncio.get_running_loop()
        reported = False
        while True:
            try:
                found = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
            except OSError as error:
                if not reported:
                    text = f"peer {peer.host!r} has no address yet ({error.strerror}); the node keeps looking it up"
                    self._on_action(Notice("peer.unresolved", text, {"peer": peer.host}, "warning"))
                    reported = True
                await asyncio.sleep(RESOLVE_RETRY_S)
                continue
            addresses = list(dict.fromkeys(_address(entry[4]) for entry in found))
            if self._config.loopback and not any(is_loopback(address.host) for address in addresses):
                text = f"peer {peer.host!r} is at {addresses[0].host}, and 'loopback' uses 127.0.0.1 and ::1 only; remove one"
                self._on_action(Notice("peer.unresolved", text, {"peer": peer.host}, "warning"))
            for address in addresses:
                self.feed(AddressFound(address, static=True))
            return

    # ---- actions

    def _pump(self) -> None:
        """Handle queued events in order; an event caused by an action joins the end of the queue."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                event = self._events.popleft()
                now_ms, wall_ms = clock()
                actions = event if isinstance(event, list) else self._core.handle(event, now_ms, wall_ms)
                for action in actions:
                    self._perform(action)
        finally:
            self._busy = False
        self._arm()
        self._on_handled()

    def _perform(self, action: Any) -> None:
        match action:
            case Write(conn, data):
                self._carrier(conn).write(conn, data)
            case Dial(address):
                self._dial(address)
            case Close(conn, _):
                self._carrier(conn).close(conn)
                self._on_action(action)
            case _:
                self._on_action(action)

    def _carrier(self, conn: int) -> Transport | NatsLinks:
        return next((each for each in self._nats if each.owns(conn)), self._transport)

    def _dial(self, address: Address) -> None:
        """Dial by TCP, or at each NATS server: a run of a node is heard of at some of them, and the first answer counts."""
        if nats_instance(address.host) is None or not self._nats:
            self._transport.dial(address)
        else:
            next((each for each in self._nats if each.knows(address)), self._nats[0]).dial(address)

    def _arm(self) -> None:
        """Set the timer to the core's deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._core.next_deadline()
        if deadline is None or self._closed:
            return
        wait_s = max(0, deadline - clock()[0]) / 1000
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)


def _nats_links(
    config: NodeConfig,
    mesh_id: bytes,
    on_event: Callable[[Event], None],
    on_notice: Callable[[Notice], None],
    numbers: Iterator[int],
) -> tuple[NatsLinks, ...]:
    """Return the links over NATS servers that are among the peers. The modules are loaded only then, to save memory."""
    servers = [peer for peer in config.peers if peer.nats]
    if not servers:
        return ()
    try:
        client = importlib.import_module("mycomesh.mesh.io.nats_client")
        links = importlib.import_module("mycomesh.mesh.io.nats_links")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "nats":
            raise
        raise ConfigError(
            "a peer at nats:// needs nats-py, which is not installed; run: pip install 'mycomesh[nats]'"
        ) from error
    login: dict[str, str] = {}
    if config.peer_credentials:
        login = read_login(Path(config.peer_credentials), ("user", "password", "token", "ca"))
    return tuple(
        links.NatsLinks(
            client.NatsServer(peer.host, peer.port, **login), mesh_id, on_event, on_notice, numbers, os.urandom
        )
        for peer in servers
    )


def _numeric(peer: PeerName) -> Address | None:
    """Return the address if a peer's host is numeric, None if it is a name."""
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return None
    return _address(found[0][4])


def _address(found: tuple[Any, ...]) -> Address:
    """Return a getaddrinfo result as a numeric address; a link-local one gets its interface's name as scope."""
    host, port = str(found[0]), int(found[1])
    scope = int(found[3]) if len(found) > 3 else 0
    if scope and "%" not in host:
        with contextlib.suppress(OSError):  # the interface has just gone; dialling the bare address will fail
            host = f"{host}%{socket.if_indextoname(scope)}"
    return Address(host, port)
