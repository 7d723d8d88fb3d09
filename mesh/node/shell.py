"""The network side of a running node: one core (a node's or a joiner's) driven over real sockets and real time.

Owns the transport, the discovery, the network watch and the one timer. What always holds: events are handled one after
another in the order in which they arrived, even when doing an action causes the next event at once; an idle shell has one
timer armed and nothing else. It must not know tables, files or keys.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from mesh.events import AddressFound, Address, Close, Dial, Event, NetworkChanged, Notice, TimerFired, Write
from mesh.io.discovery import Discovery
from mesh.io.netlink import Netlink
from mesh.io.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.node.config import NodeConfig, PeerName

__all__ = ["Core", "MeshShell", "clock"]

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
        self._busy = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport = Transport(self.feed)
        self._tag = mesh_id[:8].hex()
        self._discovery: Discovery | None = None
        self._netlink: Netlink | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def port(self) -> int:
        """The TCP port that others reach this node at."""
        return self._transport.address.port

    async def start(self, known: tuple[Address, ...] = (), *, announce: bool = True) -> None:
        """Listen, announce and browse, and hand the core every address that is known already."""
        await self._transport.start(self._config.port if announce else 0)
        loop = asyncio.get_running_loop()
        self._netlink = Netlink(self._on_network_changed)
        self._netlink.start()
        if self._config.multicast:
            self._discovery = Discovery(self._on_found, self._on_notice, loopback=self._config.loopback)
            await self._discovery.start(os.urandom(8).hex(), self._tag, self.port if announce else None)
        for address in known:
            self.feed(AddressFound(address))
        self._tasks += [loop.create_task(self._resolve(peer)) for peer in self._config.peers]
        self._arm()

    def feed(self, event: Event) -> None:
        """Hand one event to the core and do what it answers."""
        self._events.append(event)
        self._pump()

    def perform(self, actions: list[Any]) -> None:
        """Do actions that the core answered elsewhere (`NodeCore.on_exchange`), after those under way."""
        self._events.append(actions)
        self._pump()

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
