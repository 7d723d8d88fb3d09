"""TCP connections for a core: a listening port, dialling, and bytes both ways.

Owns the numbering of connections and their send queues. What always holds: every connection is announced by one
`ConnOpened` and ended by one `ConnClosed`, in that order; a number is never used again. It must not know what the bytes
mean or who the peer is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import itertools
import os
import socket
from collections.abc import Callable
from typing import Any, cast

from mycomesh.mesh.events import Address, ConnClosed, ConnDrained, ConnOpened, ConnReceived, DialFailed, Event

__all__ = ["Transport", "TransportError"]

# An address that does not answer in this time is not on this LAN; every address of a peer is dialled at once.
DIAL_S_MAX = 2.0
# Flushing a closed connection's last words may not keep a dead peer's socket for longer.
FLUSH_S_MAX = 2.0
# Above the high mark the core is told (by silence) to wait; below the low mark it hears ConnDrained. Four and one frames
# of 64 KiB keep a fast link full and a slow one's queue short.
WRITE_HIGH = 256 << 10
WRITE_LOW = 64 << 10
# A peer that stops reading may not make us hold more. The core's window keeps 2 MiB under way on a link, credits and
# heartbeats come on top: no honest link comes near.
WRITE_MAX = 16 << 20
# Connections that wait to be taken: behind a burst of junk a member's would else be dropped by the kernel, and come again
# a second later. They cost no descriptor.
BACKLOG = 1_024
# Taken at once, refused ones counted until they are gone. The core turns strangers away by their number and host; this
# bounds descriptors (1,024 by default) even where it cannot keep up.
TAKEN_MAX = 512
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class TransportError(Exception):
    """The port cannot be used. The operator's to mend; nothing was changed."""

    code = "port.unusable"


class Transport:
    """All connections of one node. Everything happens on the event loop's thread."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        """`on_event` takes ConnOpened, ConnReceived, ConnDrained, ConnClosed and DialFailed."""
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._conns: dict[int, _Connection] = {}
        self._dials: dict[Address, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._port = 0
        self._isolated = False

    async def start(self, port: int) -> None:
        """Listen on every interface, IPv4 and IPv6, on `port` (0: any free one).

        Raises:
            TransportError: the port is taken or not allowed; one line with what to do.
        """
        try:
            sock = _listening_socket(port)
        except OSError as error:
            raise TransportError(_listen_fault(port, error)) from error
        self._port = sock.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, None), sock=sock, backlog=BACKLOG)

    @property
    def address(self) -> Address:
        """The listening address; port 0 while not listening."""
        return Address("::", self._port)

    def write(self, conn: int, data: bytes) -> None:
        """Append bytes to a connection's send queue; nothing happens if it is gone."""
        connection = self._conns.get(conn)
        if connection is not None:
            connection.write(data)

    def close(self, conn: int) -> None:
        """Flushes and closes a connection."""
        connection = self._conns.get(conn)
        if connection is not None:
            connection.close()

    def dial(self, address: Address) -> None:
        """Open a connection; answers with `ConnOpened` or `DialFailed`. A dial under way is not doubled."""
        if address not in self._dials:
            self._dials[address] = asyncio.get_running_loop().create_task(self._dial(address))

    @property
    def isolated(self) -> bool:
        """Whether no connection is made or taken."""
        return self._isolated

    def isolate(self, *, cut: bool) -> None:
        """Cuts this node off (every connection ends, none is made or taken), or ends that: a split on purpose."""
        self._isolated = cut
        if cut:
            for connection in list(self._conns.values()):
                connection.abort()

    async def close_all(self) -> None:
        """Stop listening and dialling, flushes and closes every connection; whatever is asked for after it fails."""
        self._isolated = True  # a core that loses its links would dial again
        if self._server is not None:
            self._server.close()
        dials = list(self._dials.values())
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        ended = [connection.ended for connection in self._conns.values()]
        for connection in list(self._conns.values()):
            connection.close()
        if ended:
            await asyncio.wait(ended, timeout=FLUSH_S_MAX + 1)

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
            del self._dials[address]  # before the event: its answer may be to dial again
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
            raise OSError(errno.ENETUNREACH, "cut off on purpose")
        return _target(address)

    # ---- called by connections

    @property
    def closed(self) -> bool:
        """True while no connection may stand: cut off on purpose, or more of them than one node has use for."""
        return self._isolated or len(self._conns) >= TAKEN_MAX

    def opened(self, connection: _Connection, address: Address) -> int:
        """Numbers a connection and announces it."""
        conn = next(self._numbers)
        self._conns[conn] = connection
        # A core that refuses the connection at once does so by name: it has to know the number first.
        connection.conn = conn
        self._on_event(ConnOpened(conn, address, dialled=connection.dialled is not None))
        return conn

    def refused(self, dialled: Address | None) -> None:
        """End a connection that came while none may stand."""
        if dialled is not None:
            self._on_event(DialFailed(dialled))

    def received(self, conn: int, data: bytes) -> None:
        """Hands bytes on."""
        self._on_event(ConnReceived(conn, data))

    def drained(self, conn: int) -> None:
        """Tells that the send queue fell below the low mark."""
        self._on_event(ConnDrained(conn))

    def lost(self, conn: int) -> None:
        """End a connection."""
        if self._conns.pop(conn, None) is not None:
            self._on_event(ConnClosed(conn))


class _Connection(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, owner: Transport, dialled: Address | None) -> None:
        self.dialled = dialled
        self.conn = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._abort: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")  # None: whoever called has reset the connection meanwhile
        if self._owner.closed or (self.dialled is None and peername is None):
            self._transport.abort()
            self._owner.refused(self.dialled)
            return
        self._owner.opened(self, self.dialled or _address(peername))
        if not self._transport.is_closing():  # else it was refused, as most are in a flood: every microsecond counts
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
        self._owner.received(self.conn, data)

    def eof_received(self) -> bool:
        return False  # half-open connections are of no use here: close

    def resume_writing(self) -> None:
        self._owner.drained(self.conn)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._abort is not None:
            self._abort.cancel()
        self._owner.lost(self.conn)
        if not self.ended.done():
            self.ended.set_result(None)

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
    """Return one socket bound for IPv6 and IPv4, or for IPv4 alone where the kernel has no IPv6."""
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
    """Connect as `loop.sock_connect` does, which in uvloop loses the scope of a link-local IPv6 address."""
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
        return f"port {port} is in use by another program; give another with --port, or leave it out for any free one"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges; give one above 1023 with --port"
    return f"port {port} cannot be opened: {error.strerror or error}"


def _target(address: Address) -> tuple[int, Any]:
    """Return (family, socket address) of a numeric address; raises OSError or ValueError if it is none."""
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )
    return found[0][0], found[0][4]


def _address(peername: Any) -> Address:
    """Return a peer's socket address as an `Address`; IPv4 mapped into IPv6 becomes IPv4."""
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
