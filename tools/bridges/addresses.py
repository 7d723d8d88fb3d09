"""Places where data of vehicles comes from: a UDP port, a TCP server, a serial line; each is read until it is empty.

A UDP socket is drained at every wake-up, because nobody sends a datagram again; datagrams that the kernel dropped before that are
counted. A stream that ends is an error of the link, after which the bridge connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from mycomesh.tools.bridges.scheme import LinkError, SchemeError

__all__ = ["Address", "Feed", "open_feed", "parse_address"]

DATAGRAM_BYTES_MAX = 65_536
DRAIN_MAX = 2_000  # datagrams of one wake-up; then other work has its turn
RECEIVE_BUFFER_BYTES = 4 << 20  # as much as the kernel allows
CONNECT_S = 10
TTL = 8  # of multicast: hops between networks of one site
READ_BYTES = 65_536
_SO_RXQ_OVFL = 40  # Linux: each datagram says how many were dropped since the socket was opened
_BAUDS = (1_200, 4_800, 9_600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600, 1_500_000)


@dataclass(frozen=True, slots=True)
class Address:
    """`kind` is udpin, udpout, tcp, serial, or group; `place` the path of a serial line, or a group's local address."""

    kind: str
    host: str = ""
    port: int = 0
    place: str = ""
    baud: int = 0

    def __str__(self) -> str:
        return self.place if self.kind == "serial" else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Feed:
    """The owner's callbacks: bytes with host and port of their sender, the end of the stream, and datagrams that were dropped."""

    on_data: Callable[[bytes, str, int], None]
    on_end: Callable[[str], None]
    on_drops: Callable[[int], None]


class Source(Protocol):
    """An open place."""

    def send(self, data: bytes) -> None:
        """Send bytes to the other end of a stream."""

    def close(self) -> None:
        """Stop reading."""


def parse_address(url: str, kinds: tuple[str, ...], port: int = 0, baud: int = 57_600) -> Address:
    """Return the address in a URL: `udpin:HOST:PORT`, `tcp:HOST:PORT`, `HOST:PORT` or a path; the first kind is the default.

    Raises:
        SchemeError: it has another form.
    """
    parts = urlsplit(url)
    allowed = " or ".join(_example(parts.scheme, kind, port) for kind in kinds)
    if not parts.netloc and parts.path.startswith("/") and "serial" in kinds:
        wanted = parse_qs(parts.query).get("baud", [str(baud)])[-1]
        if not wanted.isdigit() or int(wanted) not in _BAUDS:
            raise SchemeError(f"{url!r}: no serial line has baud={wanted}; one of {', '.join(map(str, _BAUDS))}")
        return Address("serial", place=unquote(parts.path), baud=int(wanted))
    kind, _, rest = parts.netloc.partition(":")
    if kind not in ("udpin", "udpout", "tcp"):
        kind, rest = kinds[0], parts.netloc
    host, colon, number = rest.rpartition(":")
    if not colon:
        host, number = ("0.0.0.0", rest) if kind == "udpin" and rest.isdigit() else (rest, str(port))  # noqa: S104 -- a choice of the person who writes it
    if (
        kind not in kinds
        or not host
        or not number.isdigit()
        or not 0 < int(number) < 65_536
        or parts.path not in ("", "/")
    ):
        raise SchemeError(f"{url!r} is not an address of {parts.scheme}://; write {allowed}")
    return Address(kind, host.strip("[]"), int(number))


def _example(scheme: str, kind: str, port: int) -> str:
    number = port or 5_760
    examples = {
        "udpin": f"{scheme}://udpin:0.0.0.0:{number}",
        "udpout": f"{scheme}://udpout:HOST:{number}",
        "tcp": f"{scheme}://tcp:HOST:{number}",
        "serial": f"{scheme}:///dev/ttyACM0?baud=57600",
    }
    return examples[kind]


async def open_feed(address: Address, feed: Feed) -> Source:
    """Open an address and begin to read.

    Raises:
        LinkError: it cannot be opened now.
        SchemeError: a library or a right is missing.
    """
    try:
        match address.kind:
            case "udpin" | "udpout" | "group":
                return _Datagrams(address, feed)
            case "serial":
                return _Serial(address, feed)
            case _:
                async with asyncio.timeout(CONNECT_S):
                    streams = await asyncio.open_connection(address.host, address.port, limit=READ_BYTES)
                return _Stream(address, feed, *streams)
    except TimeoutError as error:
        raise LinkError(f"{address} does not answer within {CONNECT_S} s") from error
    except PermissionError as error:
        raise SchemeError(
            f"{address} may not be opened: {error.strerror}; add the user to the group that owns it"
        ) from error
    except OSError as error:
        raise LinkError(f"{address} cannot be opened: {error.strerror or error}") from error


class _Datagrams:
    """A UDP socket; `udpout` sends to one place and reads its answers."""

    def __init__(self, address: Address, feed: Feed) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._feed = feed
        self._dropped = 0
        self._group: tuple[str, int] | None = None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
            if address.kind == "udpin":
                self._socket.bind((address.host, address.port))
            elif address.kind == "group":
                self._join(address)
            else:
                self._socket.connect((address.host, address.port))
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket, self._drain)

    def _join(self, address: Address) -> None:
        """Join a multicast group; others on this machine may join it too."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((address.host, address.port))
        local = socket.inet_aton(address.place or "0.0.0.0")  # noqa: S104 -- the interface of the route
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(address.host) + local)
        if address.place:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, local)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
        self._group = (address.host, address.port)

    def _drain(self) -> None:
        for _ in range(DRAIN_MAX):
            try:
                data, notes, _flags, sender = self._socket.recvmsg(DATAGRAM_BYTES_MAX, socket.CMSG_SPACE(4))
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an answer such as "port unreachable" to what was sent
                self._feed.on_end(error.strerror or str(error))
                return
            for level, kind, value in notes:
                if level == socket.SOL_SOCKET and kind == _SO_RXQ_OVFL:
                    self._count(struct.unpack("=I", value[:4])[0])
            self._feed.on_data(data, str(sender[0]), int(sender[1]))

    def _count(self, dropped: int) -> None:
        if dropped != self._dropped:
            self._feed.on_drops((dropped - self._dropped) % 2**32)
            self._dropped = dropped

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._group is None:
                self._socket.send(data)
            else:
                self._socket.sendto(data, self._group)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


class _Stream:
    """A TCP connection."""

    def __init__(
        self, address: Address, feed: Feed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writer = writer
        self._task = asyncio.ensure_future(self._read(address, feed, reader))

    @staticmethod
    async def _read(address: Address, feed: Feed, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(READ_BYTES):
                feed.on_data(data, address.host, 0)
        except OSError as error:
            feed.on_end(f"{address}: {error.strerror or error}")
        else:
            feed.on_end(f"{address} has ended the connection")

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._task.cancel()
        self._writer.close()


class _Serial:
    """A serial line, by pyserial."""

    def __init__(self, address: Address, feed: Feed) -> None:
        try:
            serial: Any = importlib.import_module("serial")
        except ImportError as error:
            raise SchemeError(
                f"{address} needs pyserial, which is not installed; run: pip install 'mycomesh[mavlink]'"
            ) from error
        try:
            self._line = serial.Serial(address.place, address.baud, timeout=0, exclusive=True)
        except serial.SerialException as error:
            if error.errno is None:
                raise LinkError(f"{address} cannot be opened: {error}") from error
            raise OSError(error.errno, os.strerror(error.errno)) from error
        self._address = address
        self._feed = feed
        asyncio.get_running_loop().add_reader(self._line.fileno(), self._drain)

    def _drain(self) -> None:
        try:
            data = os.read(self._line.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if data:
            self._feed.on_data(data, self._address.place, 0)
        else:
            self._end("the line is closed")

    def _end(self, why: str) -> None:
        asyncio.get_running_loop().remove_reader(self._line.fileno())
        self._feed.on_end(f"{self._address}: {why}; is it still plugged in?")

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._line.fileno(), data)

    def close(self) -> None:
        if self._line.is_open:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._line.close()
