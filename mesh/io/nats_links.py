"""Connections between nodes over the subjects of a NATS server, for nodes that reach a server and not each other.

A node listens under a random instance, and says so when it connects and now and then. Each byte stream between two instances
carries an ordinary link with its own handshake, so the server sees sizes and times, and can do no more than a cut cable.
The core sees a connection like any other; `mesh.address` marks its address.

Anyone with a login at the server can send here. Streams, instances and the rate of opening are bounded, and what is sent beyond a
stream's window ends it. A stream whose other end falls silent is ended by the link's failure detector.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nats.errors import Error as NatsError

from mycomesh.mesh.address import nats_address, nats_instance
from mycomesh.mesh.events import (
    Address,
    AddressFound,
    ConnClosed,
    ConnDrained,
    ConnOpened,
    ConnReceived,
    DialFailed,
    Event,
    Notice,
)
from mycomesh.mesh.io.nats_client import Connection, NatsConnectError, NatsServer, connect
from mycomesh.mesh.io.subject_stream import CHUNK_BYTES_MAX, ID_BYTES, Frame, Kind, StreamError, SubjectStream
from mycomesh.mesh.io.transport import WRITE_HIGH, WRITE_LOW, WRITE_MAX
from mycomesh.mesh.primitives import derive
from mycomesh.mesh.rate_limit import admit_at_rate

if TYPE_CHECKING:
    from nats.aio.msg import Msg

__all__ = ["NatsLinks", "tag_of"]

SUBJECT = "mycomesh-link"
DIAL_S_MAX = 5.0  # two satellite hops; a node that is gone answers nothing
STREAMS_MAX = 256  # at once; the core limits those without a login to the mesh to far fewer
INSTANCES_MAX = 256  # that were heard of: the largest mesh that meets at one server
OPEN_EVERY_MS, OPENS_AT_ONCE = 100, 32  # streams that others open, and answers to those who say that they listen
HERE_EVERY_MS, HERES_AT_ONCE = 20, 256  # announcements that are heard: a mesh of 256 nodes makes 9 a second
HERE_S = 30.0  # between two announcements, times the spacing of searches; another server's nodes may have come
RETRY_S = (1.0, 30.0)  # between tries to connect: the first, and the longest
JITTER = 0.2
PENDING_BYTES_MAX = 16 << 20  # received and not yet handled; beyond it messages are lost, and their streams end
FRAMING_BYTES = 64  # of the server's payload limit


def tag_of(mesh_id: bytes) -> str:
    """Return the part of subjects that keeps meshes apart; the mesh id cannot be computed from it."""
    return derive(mesh_id, b"nats tag", b"")[:8].hex()


@dataclass(slots=True)
class _Conn:
    """One stream. `conn` is 0 until the other end has accepted it."""

    peer: bytes
    stream: bytes
    dialled: bool
    bytes: SubjectStream
    conn: int = 0
    above: bool = False  # its queue was above the high watermark
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class NatsLinks:
    """All streams of one node at one server. Everything runs on the event loop's thread."""

    def __init__(
        self,
        server: NatsServer,
        mesh_id: bytes,
        on_event: Callable[[Event], None],
        on_notice: Callable[[Notice], None],
        numbers: Iterator[int],
        entropy: Callable[[int], bytes],
    ) -> None:
        """Take a server and the callbacks of the shell; `numbers` are those of connections, shared with other transports."""
        self._server = server
        self._prefix = f"{SUBJECT}.{tag_of(mesh_id)}"
        self._on_event = on_event
        self._on_notice = on_notice
        self._numbers = numbers
        self._entropy = entropy
        self._instance = entropy(ID_BYTES)
        self._line = _Line()
        self._conns: dict[tuple[bytes, bytes], _Conn] = {}  # by peer and stream
        self._by_number: dict[int, _Conn] = {}
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._opens = _Rate(OPEN_EVERY_MS, OPENS_AT_ONCE)
        self._heres = _Rate(HERE_EVERY_MS, HERES_AT_ONCE)
        self._isolated = False

    # ---- for the shell

    def start(self, spacing: Callable[[], int]) -> None:
        """Connect, and keep connecting; `spacing` says how many times longer to wait between announcements."""
        self._line.task = asyncio.get_running_loop().create_task(self._run(spacing))

    def owns(self, conn: int) -> bool:
        """Return whether this number is of a connection here."""
        return conn in self._by_number

    def knows(self, address: Address) -> bool:
        """Return whether the instance of an address was heard of at this server."""
        return nats_instance(address.host) in self._known

    def dial(self, address: Address) -> None:
        """Open a stream to an instance; `ConnOpened` or `DialFailed` follows."""
        instance = nats_instance(address.host)
        if instance is None or self._line.connection is None or self._isolated or len(self._conns) >= STREAMS_MAX:
            asyncio.get_running_loop().call_soon(self._on_event, DialFailed(address))
            return
        conn = self._add(instance, self._entropy(ID_BYTES), dialled=True)
        conn.timer = asyncio.get_running_loop().call_later(DIAL_S_MAX, self._end, conn)
        self._send(conn, Kind.OPEN)

    def write(self, number: int, data: bytes) -> None:
        """Append bytes to a connection's send queue; end it if the other end does not take them."""
        conn = self._by_number.get(number)
        if conn is None:
            return
        conn.bytes.write(data)
        self._flush(conn)
        if conn.bytes.queued > WRITE_MAX:
            self._end(conn)

    def close(self, number: int) -> None:
        """Close a connection; what the window has let out arrives before."""
        conn = self._by_number.get(number)
        if conn is not None:
            self._end(conn)

    def isolate(self, *, cut: bool) -> None:
        """Cut this node off on purpose, or end that."""
        self._isolated = cut
        for conn in list(self._conns.values()) if cut else ():
            self._end(conn)
        if not cut:
            self._line.announce.set()

    async def close_all(self) -> None:
        """Close every stream and the connection to the server."""
        self._isolated = True
        for conn in list(self._conns.values()):
            self._end(conn)
        await self._line.close()

    # ---- the line to the server

    async def _run(self, spacing: Callable[[], int]) -> None:
        wait_s, reported = RETRY_S[0], False
        while True:
            try:
                lost = await self._connect()
            except (NatsConnectError, NatsError, TimeoutError, OSError) as error:
                if not reported:
                    text = f"no links over {self._server}: {error}; the node keeps trying"
                    self._on_notice(Notice("nats.unreachable", text, level="warning"))
                reported = True
            else:
                self._on_notice(Notice("nats.connected", f"nodes that reach {self._server} can link over it"))
                wait_s, reported = RETRY_S[0], False
                await self._announce(lost, spacing)
                self._on_notice(Notice("nats.unreachable", f"{self._server}: {lost.result()}", level="warning"))
                await self._line.hang_up()
                for conn in list(self._conns.values()):
                    self._forget(conn)
            await asyncio.sleep(wait_s * random.uniform(1 - JITTER, 1 + JITTER))
            wait_s = min(2 * wait_s, RETRY_S[1])

    async def _connect(self) -> asyncio.Future[str]:
        """Connect and subscribe; return a future that gets the reason when the connection is lost."""
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def on_lost(reason: str) -> None:
            if not lost.done():
                lost.set_result(reason)

        connection = await connect(self._server, "mycomesh links", on_lost)
        self._line.begin(connection, on_lost)
        try:
            for subject in (f"{self._prefix}.here", f"{self._prefix}.to.{self._instance.hex()}"):
                await connection.client.subscribe(subject, cb=self._on_message, pending_bytes_limit=PENDING_BYTES_MAX)
        except NatsError:
            await self._line.hang_up()
            raise
        return lost

    async def _announce(self, lost: asyncio.Future[str], spacing: Callable[[], int]) -> None:
        """Say that this instance listens, at once and now and then, until the connection is lost."""
        while not lost.done():
            self._line.announce.clear()
            if not self._isolated:
                self._line.send(f"{self._prefix}.here", Frame(Kind.HERE, self._instance).encode())
            asked = asyncio.ensure_future(self._line.announce.wait())
            wait_s = HERE_S * max(spacing(), 1) * random.uniform(1 - JITTER, 1 + JITTER)
            waits: list[asyncio.Future[object]] = [lost, asked]  # type: ignore[list-item]
            await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()

    # ---- frames

    async def _on_message(self, message: Msg) -> None:
        try:
            frame = Frame.decode(message.data)
        except StreamError:
            return
        if frame.sender == self._instance or self._isolated:
            return
        conn = self._conns.get((frame.sender, frame.stream))
        match frame.kind:
            case Kind.HERE:
                self._on_here(frame.sender, public=message.subject.endswith(".here"))
            case Kind.OPEN if conn is None:
                self._on_open(frame)
            case Kind.ACCEPT if conn is not None and conn.dialled and not conn.conn:
                self._open(conn)
            case Kind.DATA | Kind.ACK if conn is not None and conn.conn:
                self._on_bytes(conn, frame)
            case Kind.DATA | Kind.ACK:  # of a stream that has ended here
                self._reply(frame, Kind.CLOSE)
            case Kind.CLOSE if conn is not None:
                self._forget(conn)
            case _:
                pass

    def _on_here(self, instance: bytes, *, public: bool) -> None:
        """Tell the core of an instance; answer one that has not been heard of, so that it can dial too."""
        if not self._heres.admit():
            return
        new = instance not in self._known
        self._known[instance] = None
        self._known.move_to_end(instance)
        if len(self._known) > INSTANCES_MAX:
            self._known.popitem(last=False)
        if new and public and self._opens.admit():
            self._line.send(f"{self._prefix}.to.{instance.hex()}", Frame(Kind.HERE, self._instance).encode())
        self._on_event(AddressFound(nats_address(instance), instance=instance.hex()))

    def _on_open(self, frame: Frame) -> None:
        if len(self._conns) >= STREAMS_MAX or not self._opens.admit():
            self._reply(frame, Kind.CLOSE)
            return
        conn = self._add(frame.sender, frame.stream, dialled=False)
        self._send(conn, Kind.ACCEPT)
        self._open(conn)

    def _on_bytes(self, conn: _Conn, frame: Frame) -> None:
        try:
            data = conn.bytes.on_frame(frame)
        except StreamError:
            self._end(conn)
            return
        if data:
            self._on_event(ConnReceived(conn.conn, data))
        self._flush(conn)

    # ---- streams

    def _add(self, peer: bytes, stream: bytes, *, dialled: bool) -> _Conn:
        conn = _Conn(peer, stream, dialled, SubjectStream(self._instance, stream, self._line.chunk))
        self._conns[peer, stream] = conn
        return conn

    def _open(self, conn: _Conn) -> None:
        """Announce a stream to the core."""
        if conn.timer is not None:
            conn.timer.cancel()
        conn.conn = next(self._numbers)
        self._by_number[conn.conn] = conn
        self._on_event(ConnOpened(conn.conn, nats_address(conn.peer), dialled=conn.dialled))

    def _flush(self, conn: _Conn) -> None:
        subject = f"{self._prefix}.to.{conn.peer.hex()}"
        for frame in conn.bytes.frames():
            self._line.send(subject, frame)
        if conn.bytes.queued > WRITE_HIGH:
            conn.above = True
        elif conn.above and conn.bytes.queued < WRITE_LOW:
            conn.above = False
            self._on_event(ConnDrained(conn.conn))

    def _send(self, conn: _Conn, kind: Kind) -> None:
        self._line.send(f"{self._prefix}.to.{conn.peer.hex()}", Frame(kind, self._instance, conn.stream).encode())

    def _reply(self, frame: Frame, kind: Kind) -> None:
        if self._opens.admit():
            subject = f"{self._prefix}.to.{frame.sender.hex()}"
            self._line.send(subject, Frame(kind, self._instance, frame.stream).encode())

    def _end(self, conn: _Conn) -> None:
        """Close a stream and tell the other end."""
        if (conn.peer, conn.stream) in self._conns:
            self._send(conn, Kind.CLOSE)
            self._forget(conn)

    def _forget(self, conn: _Conn) -> None:
        """Remove a stream and tell the core."""
        if self._conns.pop((conn.peer, conn.stream), None) is None:
            return
        if conn.timer is not None:
            conn.timer.cancel()
        if self._by_number.pop(conn.conn, None) is not None:
            self._on_event(ConnClosed(conn.conn))
        elif conn.dialled:
            self._on_event(DialFailed(nats_address(conn.peer)))


class _Rate:
    """A limit on what strangers make this node do, with a bucket of its own."""

    def __init__(self, every_ms: int, at_once: int) -> None:
        self._every_ms = every_ms
        self._at_once = at_once
        self._over_ms: int | None = None

    def admit(self) -> bool:
        """Count one more; return False if it exceeds the rate."""
        now_ms = time.monotonic_ns() // 1_000_000
        over_ms = admit_at_rate(self._over_ms, now_ms, every_ms=self._every_ms, at_once=self._at_once)
        self._over_ms = self._over_ms if over_ms is None else over_ms
        return over_ms is not None


class _Line:
    """The connection to the server, and the messages that wait for it: the client's own calls may have to wait."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.announce = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._queue: deque[tuple[str, bytes]] = deque()
        self._wake = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    @property
    def chunk(self) -> int:
        """Bytes of data that fit a message."""
        return CHUNK_BYTES_MAX if self.connection is None else int(self.connection.client.max_payload) - FRAMING_BYTES

    def begin(self, connection: Connection, on_lost: Callable[[str], None]) -> None:
        """Begin to send over a connection."""
        self.connection = connection
        self._queue.clear()
        self._sender = asyncio.get_running_loop().create_task(self._send_all(connection, on_lost))

    def send(self, subject: str, payload: bytes) -> None:
        """Send a message after those that wait; drop it without a connection. Windows bound what can wait."""
        if self.connection is not None:
            self._queue.append((subject, payload))
            self._wake.set()

    async def hang_up(self) -> None:
        """End the connection, after what waits has been sent."""
        connection, self.connection = self.connection, None
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])
        if connection is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                for subject, payload in self._queue:
                    await connection.client.publish(subject, payload)
            await connection.close()

    async def close(self) -> None:
        """End the task of the owner and the connection."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
        await self.hang_up()

    async def _send_all(self, connection: Connection, on_lost: Callable[[str], None]) -> None:
        try:
            while True:
                while self._queue:
                    await connection.client.publish(*self._queue[0])
                    self._queue.popleft()
                self._wake.clear()
                if not self._queue:
                    await self._wake.wait()
        except (NatsError, OSError) as error:
            on_lost(str(error) or type(error).__name__)
