"""TCP transport for a core: listens on a port, dials addresses, and moves bytes both ways.

Invariants: each connection causes exactly one `ConnOpened` and later one `ConnClosed`. A connection number is never reused.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

from mycomesh.mesh.address import is_loopback
from mycomesh.mesh.events import Address, ConnClosed, ConnDrained, ConnOpened, ConnReceived, DialFailed, Event

__all__ = ["Transport", "TransportError"]

# An address that does not answer within this time is not on this LAN; all addresses of a peer are dialled at once.
DIAL_S_MAX = 2.0
# How long a closed connection may flush its queue: a dead peer must not keep a socket for longer.
FLUSH_S_MAX = 2.0
# Watermarks of a connection's send queue. Above the high one the core waits, because no ConnDrained comes; below the low one
# it receives ConnDrained. Four frames and one frame of 64 KiB keep a fast link full and a slow link's queue short.
WRITE_HIGH = 256 << 10
WRITE_LOW = 64 << 10
# The most that waits for a peer that stops reading; above it the connection is aborted. The core's window allows 2 MiB in
# flight on a link, plus credits and heartbeats, so no honest link comes near.
WRITE_MAX = 16 << 20
# Connections that wait in the kernel to be accepted; they cost no descriptor. With fewer, the kernel would drop a member's
# connection behind a burst of junk, and the member's kernel would retry a second later.
BACKLOG = 1_024
# Open connections, including refused ones until they are closed. The core limits unauthenticated peers by count and host;
# this limits descriptors (1,024 by default) even if the core cannot keep up.
CONNECTIONS_MAX = 512
# Tries to find one free port on both loopback addresses: another program may hold it on one of them alone.
LOOPBACK_TRIES = 16
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class TransportError(Exception):
    """The port cannot be used. The operator must choose another port; nothing was changed."""

    code = "port.unusable"


class Transport:
    """All connections of one node. Everything runs on the event loop's thread."""

    def __init__(
        self,
        on_event: Callable[[Event], None],
        *,
        loopback: bool = False,
        numbers: Iterator[int] | None = None,
        interface_of: Callable[[str], str] | None = None,
    ) -> None:
        """Create a transport that neither listens nor dials.

        `on_event` receives ConnOpened, ConnReceived, ConnDrained, ConnClosed and DialFailed. With `loopback`, the transport
        listens on this machine's loopback addresses only, and dials no others. `numbers` are those of connections, where another
        transport of the same node has some of them. `interface_of` returns the interface that has a local address; without it the
        events name none.
        """
        self._on_event = on_event
        self._loopback = loopback
        self._interface_of = interface_of
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._conns: dict[int, _Connection] = {}
        self._dials: dict[Address, asyncio.Task[None]] = {}
        self._servers: list[asyncio.Server] = []
        self._port = 0
        self._isolated = False

    async def start(self, port: int) -> None:
        """Listen on every interface, or on the loopback addresses only, with IPv4 and IPv6, on `port` (0: any free one).

        Raises:
            TransportError: the port is in use or not allowed; the message says what to do.
        """
        try:
            sockets = _loopback_sockets(port) if self._loopback else [_listening_socket(port)]
        except OSError as error:
            raise TransportError(_listen_fault(port, error)) from error
        self._port = sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_server(lambda: _Connection(self, None), sock=sock, backlog=BACKLOG) for sock in sockets
        ]

    @property
    def address(self) -> Address:
        """The listening address; port 0 while not listening."""
        return Address("::1" if self._loopback else "::", self._port)

    def write(self, conn: int, data: bytes) -> None:
        """Append bytes to a connection's send queue; do nothing if it is gone."""
        connection = self._conns.get(conn)
        if connection is not None:
            connection.write(data)

    def close(self, conn: int) -> None:
        """Flush and close a connection."""
        connection = self._conns.get(conn)
        if connection is not None:
            connection.close()

    def dial(self, address: Address) -> None:
        """Open a connection; `ConnOpened` or `DialFailed` follows. A second dial of the same address is ignored."""
        if address not in self._dials:
            self._dials[address] = asyncio.get_running_loop().create_task(self._dial(address))

    @property
    def isolated(self) -> bool:
        """Whether this node neither makes nor accepts connections."""
        return self._isolated

    def isolate(self, *, cut: bool) -> None:
        """Cut this node off on purpose, or end that: close all connections, and make and accept none."""
        self._isolated = cut
        if cut:
            for connection in list(self._conns.values()):
                connection.abort()

    async def close_all(self) -> None:
        """Stop listening and dialling, then flush and close every connection; later dials fail."""
        self._isolated = True  # otherwise the core would dial again when it loses its links
        for server in self._servers:
            server.close()
        dials = list(self._dials.values())
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        closed = [connection.closed for connection in self._conns.values()]
        for connection in list(self._conns.values()):
            connection.close()
        if closed:
            await asyncio.wait(closed, timeout=FLUSH_S_MAX + 1)

    async def _dial(self, address: Address) -> None:
        loop = asyncio.get_running_loop()
        sock: socket.socket | None = None
        try:
            family, target = self._reachable(address)
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            async with asyncio.timeout(DIAL_S_MAX):
                await _connect(sock, target)
        except (OSError, ValueError, TimeoutError):
            if sock is not None:
                sock.close()
            del self._dials[address]  # before the event, because the core may dial again at once
            self._on_event(DialFailed(address))
        except asyncio.CancelledError:
            if sock is not None:
                sock.close()
            raise
        else:
            del self._dials[address]
            await loop.create_connection(lambda: _Connection(self, address), sock=sock)

    def _reachable(self, address: Address) -> tuple[int, Any]:
        if self._isolated:
            raise OSError(errno.ENETUNREACH, "this node is cut off on purpose")
        if self._loopback and not is_loopback(address.host):
            raise OSError(errno.ENETUNREACH, "this node uses the loopback addresses only")
        return _target(address)

    # ---- called by connections

    @property
    def refuses_connections(self) -> bool:
        """Whether new connections are refused: the node is cut off on purpose, or CONNECTIONS_MAX connections are open."""
        return self._isolated or len(self._conns) >= CONNECTIONS_MAX

    def on_opened(self, connection: _Connection, address: Address) -> int:
        """Assign a number to a connection and announce it to the core."""
        conn = next(self._numbers)
        self._conns[conn] = connection
        # Before the event: a core that refuses the connection at once closes it by this number.
        connection.conn = conn
        interface = self._interface_of(connection.host) if self._interface_of is not None else ""
        self._on_event(ConnOpened(conn, address, connection.dialled is not None, interface))
        return conn

    def on_refused(self, dialled: Address | None) -> None:
        """Report a failed dial if the refused connection was dialled."""
        if dialled is not None:
            self._on_event(DialFailed(dialled))

    def on_received(self, conn: int, data: bytes) -> None:
        """Pass received bytes to the core."""
        self._on_event(ConnReceived(conn, data))

    def on_drained(self, conn: int) -> None:
        """Report that a send queue fell below the low watermark."""
        self._on_event(ConnDrained(conn))

    def on_lost(self, conn: int) -> None:
        """Forget a closed connection and report it."""
        if self._conns.pop(conn, None) is not None:
            self._on_event(ConnClosed(conn))


class _Connection(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, owner: Transport, dialled: Address | None) -> None:
        self.dialled = dialled
        self.conn = 0
        self.host = ""  # the local address
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._abort: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")  # None: the peer has already reset the connection
        if self._owner.refuses_connections or (self.dialled is None and peername is None):
            self._transport.abort()
            self._owner.on_refused(self.dialled)
            return
        sockname = transport.get_extra_info("sockname")
        self.host = sockname[0] if sockname else ""
        self._owner.on_opened(self, self.dialled or _address(peername))
        if not self._transport.is_closing():  # a refused one needs no options, and a flood is mostly refused
            self._set_options()

    def _set_options(self) -> None:
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=WRITE_HIGH, low=WRITE_LOW)
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        self._owner.on_received(self.conn, data)

    def eof_received(self) -> bool:
        return False  # half-open connections are useless here: close

    def resume_writing(self) -> None:
        self._owner.on_drained(self.conn)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._abort is not None:
            self._abort.cancel()
        self._owner.on_lost(self.conn)
        if not self.closed.done():
            self.closed.set_result(None)

    def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > WRITE_MAX:
            self._transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.close()
        self._abort = asyncio.get_running_loop().call_later(FLUSH_S_MAX, self._transport.abort)


def _listening_socket(port: int) -> socket.socket:
    """Return one socket bound for IPv6 and IPv4, or for IPv4 alone if the kernel has no IPv6."""
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return _bound(socket.socket(socket.AF_INET, socket.SOCK_STREAM), "0.0.0.0", port)  # noqa: S104 -- a LAN service
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        return _bound(sock, "::", port)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is compiled in and switched off
            raise
        return _bound(socket.socket(socket.AF_INET, socket.SOCK_STREAM), "0.0.0.0", port)  # noqa: S104


def _loopback_sockets(port: int) -> list[socket.socket]:
    """Return sockets bound to 127.0.0.1 and ::1 on one port; the first alone if the kernel has no IPv6."""
    for tries_left in reversed(range(LOOPBACK_TRIES)):
        first = _bound(socket.socket(socket.AF_INET, socket.SOCK_STREAM), "127.0.0.1", port)
        try:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            return [first, _bound(sock, "::1", first.getsockname()[1])]
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return [first]
            first.close()
            if port or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _bound(sock: socket.socket, host: str, port: int) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, target: Any) -> None:
    """Connect a socket. `loop.sock_connect` does the same, but uvloop's loses the scope of a link-local IPv6 address."""
    fault = sock.connect_ex(target)
    if fault == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_writer(sock, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_writer(sock)
        fault = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if fault:
        raise OSError(fault, os.strerror(fault))


def _listen_fault(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program; choose another with --port, or omit it for any free port"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges; choose one above 1023 with --port"
    return f"port {port} cannot be opened: {error.strerror or error}"


def _target(address: Address) -> tuple[int, Any]:
    """Return (family, socket address) of a numeric address; OSError or ValueError if the host is not numeric."""
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )
    return found[0][0], found[0][4]


def _address(peername: Any) -> Address:
    """Return a peer's socket address as an `Address`; an IPv4-mapped IPv6 address becomes IPv4."""
    host, port = str(peername[0]), int(peername[1])
    bare = host.split("%", 1)[0]
    with contextlib.suppress(ValueError):
        parsed = ipaddress.ip_address(bare)
        if isinstance(parsed, ipaddress.IPv6Address):
            if parsed.ipv4_mapped is not None:
                return Address(str(parsed.ipv4_mapped), port)
            if parsed.is_link_local and len(peername) > 3 and peername[3]:
                with contextlib.suppress(OSError):
                    return Address(f"{bare}%{socket.if_indextoname(peername[3])}", port)
    return Address(host, port)
