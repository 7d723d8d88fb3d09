"""Connections of TAK clients: a TCP server, or one connection to another server; both ways XML events.

Each connection has the events that wait for it by uid, so that a slow client gets the latest event of each item, and costs no
more memory than the picture. A client that sends faster than `EVENTS_PER_S_MAX` is read more slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mycomesh.tools.bridges.addresses import Address
from mycomesh.tools.bridges.scheme import LinkError, SchemeError
from mycomesh.tools.bridges.tak_picture import ITEMS_MAX
from mycomesh.tools.tasks import end_tasks
from mycomesh.tools.vehicles.cot import CotError, Event, EventSplitter, parse_event

__all__ = ["CLIENTS_MAX", "SHARE_MAX", "Client", "Clients", "Listener", "tls_context"]

CLIENTS_MAX = 64
SHARE_MAX = 2_000  # uids that one client may bring
REFUSED_MAX = 20  # events that cannot be read, after which a client is disconnected
EVENTS_PER_S_MAX = 200
BURST = 2_000
CONNECT_S = 10
CLOSE_S = 1
READ_BYTES = 65_536
_HIGH_WATER = 256 * 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """The owner's callbacks: a client has come, an event of it, events that could not be read, the end of the only connection."""

    on_client: Callable[[Client], None]
    on_event: Callable[[Client, Event, bytes], None]
    on_damage: Callable[[int], None]
    on_end: Callable[[str], None]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: OrderedDict[str, bytes] = OrderedDict()
        self._wake = asyncio.Event()
        self.brought: set[str] = set()  # uids, up to SHARE_MAX
        self.pruned_ms = 0
        self.callsign = ""
        self.dropped = 0

    def send(self, uid: str, data: bytes) -> None:
        """Let an event wait, in place of an earlier one of the same uid."""
        self._waiting[uid] = data
        if len(self._waiting) > ITEMS_MAX:
            self._waiting.popitem(last=False)
            self.dropped += 1
        self._wake.set()

    async def run(self, listener: Listener) -> str:
        """Read and write until one of them ends; return why."""
        tasks = [asyncio.ensure_future(self._read(listener)), asyncio.ensure_future(self._write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(tasks)
            await self.close()
        return next((task.result() for task in tasks if not task.cancelled()), "")

    async def close(self) -> None:
        """End the connection."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):  # of a goodbye in TLS
                await self._writer.wait_closed()

    async def _read(self, listener: Listener) -> str:
        splitter, refused, room, last = EventSplitter(), 0, float(BURST), time.monotonic()
        try:
            while data := await self._reader.read(READ_BYTES):
                for piece in splitter.feed(data):
                    try:
                        event = parse_event(piece)
                    except CotError as error:
                        listener.on_damage(1)
                        refused += 1
                        if refused > REFUSED_MAX:
                            return str(error)
                    else:
                        listener.on_event(self, event, piece)
                    now = time.monotonic()
                    room, last = min(BURST, room + (now - last) * EVENTS_PER_S_MAX) - 1, now
                    if room < 0:
                        await asyncio.sleep(-room / EVENTS_PER_S_MAX)
        except CotError as error:
            listener.on_damage(1)
            return str(error)
        except OSError as error:
            return error.strerror or str(error)
        return "the other side has ended the connection"

    async def _write(self) -> str:
        self._writer.transport.set_write_buffer_limits(high=_HIGH_WATER)
        try:
            while True:
                while self._waiting:
                    _, data = self._waiting.popitem(last=False)
                    self._writer.write(data)
                    await self._writer.drain()
                self._wake.clear()
                await self._wake.wait()
        except OSError as error:
            return error.strerror or str(error)


class Clients:
    """All connections of a bridge."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._tasks: dict[Client, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Client]:
        return iter(tuple(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def serve(self, address: Address, tls: ssl.SSLContext | None) -> None:
        """Listen.

        Raises:
            LinkError: another program has the port.
        """
        try:
            self._server = await asyncio.start_server(
                self._accept, address.host, address.port, ssl=tls, limit=READ_BYTES
            )
        except socket.gaierror as error:
            raise LinkError(
                f"cannot listen on {address}: {error.strerror}; write an address of this machine"
            ) from error
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)  # asyncio's own text repeats the address
            raise LinkError(
                f"cannot listen on {address}: {why}; 'ss -ltnp' names the program that has the port"
            ) from error

    async def connect(self, address: Address, tls: ssl.SSLContext | None) -> None:
        """Connect to a server.

        Raises:
            LinkError: it cannot be reached.
            SchemeError: its certificate is not trusted.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                streams = await asyncio.open_connection(address.host, address.port, ssl=tls, limit=READ_BYTES)
        except TimeoutError as error:
            raise LinkError(f"{address} does not answer within {CONNECT_S} s") from error
        except ssl.SSLCertVerificationError as error:
            raise SchemeError(f"{address}: {error.verify_message}; name the server's CA with ca = FILE") from error
        except OSError as error:
            raise LinkError(f"{address} cannot be reached: {error.strerror or error}") from error
        self._start(Client(*streams), self._listener.on_end)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= CLIENTS_MAX:
            writer.close()
            self._listener.on_damage(1)
            return
        self._start(Client(reader, writer), lambda _why: None)

    def _start(self, client: Client, on_end: Callable[[str], None]) -> None:
        async def run() -> None:
            try:
                on_end(await client.run(self._listener))
            finally:
                self._tasks.pop(client, None)

        self._tasks[client] = asyncio.ensure_future(run())
        self._listener.on_client(client)

    async def close(self) -> None:
        """End all connections and stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        clients, tasks = list(self._tasks), list(self._tasks.values())
        await end_tasks(tasks)
        for client in clients:  # one that came just now has not begun to run
            await client.close()
        self._tasks.clear()


def tls_context(*, serve: bool, cert: str, key: str, ca: str | None) -> ssl.SSLContext:
    """Return the TLS settings; a server with `ca` wants a certificate of each client.

    Raises:
        SchemeError: a file is missing or is of another kind.
    """
    try:
        purpose = ssl.Purpose.CLIENT_AUTH if serve else ssl.Purpose.SERVER_AUTH
        context = ssl.create_default_context(purpose, cafile=ca)
        if serve and ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        if cert:
            context.load_cert_chain(cert, key or None)
    except OSError as error:  # ssl.SSLError too
        raise SchemeError(
            f"TLS: {cert or ca}: {error.strerror or error}; 'cert', 'key' and 'ca' are files in PEM"
        ) from error
    return context
