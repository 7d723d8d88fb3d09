"""The schemes `http://` and `https://`: rows as POST requests, for webhooks and functions, and a listener for messages.

Out: a topic is a path behind the URL. A request has `Idempotency-Key` and the headers of CloudEvents 1.0 in binary mode, whose
`ce-id` is the id of the change; it is done at any answer of 2xx. Requests of one row go over one connection, in order. In:
`listen = "HOST:PORT"` takes POST requests with the token of the credentials file, and answers 202 after the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import h11

from mycomesh.tools.bridges.http_server import BODY_BYTES_MAX, Listener
from mycomesh.tools.bridges.receiving import Pumps
from mycomesh.tools.bridges.scheme import (
    Arrival,
    Finding,
    Limits,
    LinkError,
    Message,
    Options,
    Scheme,
    SchemeError,
    reason,
)
from mycomesh.tools.bridges.tls import context_of, tls_error
from mycomesh.tools.tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HttpConnection", "HttpScheme"]

CONNECT_S = 5
ANSWER_S = 30
ANSWER_BYTES_MAX = 65_536  # of an answer's body; more ends the connection
CONNECTIONS = 4
READ_BYTES = 65_536
AGAIN = (408, 425, 429)  # and 5xx: the server wants the request later
FORBIDDEN = (401, 403, 407)
TYPES = {"insert": "mycomesh.row.inserted", "update": "mycomesh.row.updated", "delete": "mycomesh.row.deleted"}


class HttpScheme(Scheme):
    """Some connections to one server, and a listener."""

    separator = "/"
    wildcard_rest = "**"
    receives_everywhere = True  # whatever listens on this machine
    extra = "http"
    settings: Mapping[str, Any] = {"listen": "", "content_type": "application/json"}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._slots = [HttpConnection(options) for _ in range(CONNECTIONS)]
        self._listener: Listener | None = None
        self._pumps = Pumps()
        self.port = 0  # of the listener, once it listens

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL without a host, and a listener without an address."""
        if not urlsplit(options.url).hostname:
            raise SchemeError(f"{options.url!r} names no host; write https://HOST/PATH")
        if options.incoming:
            _address(options)

    async def connect(self) -> None:
        """Connect, so that a wrong address or certificate is seen before the first row."""
        self.limits = Limits(payload_max=BODY_BYTES_MAX)
        if self.options.outgoing:
            await self._slots[0].open()
        if self.options.incoming and not self.options.token:
            raise SchemeError("'in' needs a token: put token = \"SECRET\" into the credentials file")

    async def close(self) -> None:
        """End the connections and the listener."""
        await self._pumps.close()
        for slot in self._slots:
            slot.close()
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close()

    # ---- out

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:
        """Send each message as a request; those of one row one after another."""
        lanes: list[list[int]] = [[] for _ in self._slots]
        for number, message in enumerate(messages):
            lanes[zlib.crc32(message.key.encode()) % len(lanes)].append(number)
        answers = [""] * len(messages)

        async def send(slot: HttpConnection, numbers: list[int]) -> None:
            for number in numbers:
                if _climbs(messages[number].topic):
                    answers[number] = f"the path {messages[number].topic!r} has a level of dots, which servers resolve"
                    continue
                answers[number] = self._judged(await slot.post(messages[number]))

        tasks = [asyncio.ensure_future(send(slot, lane)) for slot, lane in zip(self._slots, lanes, strict=True) if lane]
        try:
            for task in asyncio.as_completed(tasks):
                await task
        finally:
            await end_tasks(tasks)
        return answers

    def _judged(self, status: int) -> str:
        """Return "" for taken, or why it is refused for ever; raise for all other answers."""
        if 200 <= status < 300:
            return ""
        if status == 409:
            return "duplicate"  # of an Idempotency-Key
        if status in FORBIDDEN:
            raise SchemeError(f"the server refuses the token, or the name or the password (status {status})")
        if status in AGAIN or status >= 500:
            raise LinkError(f"the server answers with status {status}")
        if 300 <= status < 400:
            raise SchemeError(f"the server moves the request elsewhere (status {status}); correct the url")
        return f"the server answers with status {status}"

    # ---- in

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Start the listener."""
        del offsets
        host, port = _address(self.options)
        self._listener = Listener(self.options.token, self._on_request)
        try:
            self.port = await self._listener.start(host, port)
        except OSError as error:
            raise LinkError(f"cannot listen on {host}:{port}: {error.strerror}") from error

    async def _on_request(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        event_id = headers.get("idempotency-key") or _event_id(headers)
        known = {name: value for name, value in headers.items() if name.startswith("mesh-")}
        gone = headers.get("ce-type") == TYPES["delete"] or not body
        self._pumps.collect(Arrival(path, body, event_id, known, delete=gone, token=committed))
        try:
            async with asyncio.timeout(ANSWER_S):
                await committed
        except TimeoutError:
            return 503
        return 202

    async def receive(self) -> list[Arrival]:
        """Return the messages of requests that wait for their answer."""
        return await self._pumps.get()

    async def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Answer the requests."""
        for arrival in arrivals:
            if not arrival.token.done():
                arrival.token.set_result(None)

    # ---- test

    async def probe(self) -> list[Finding]:
        """Connect and send one event of the type `mycomesh.test`."""
        message = Message("", b"{}", "test", "1", {"mesh-id": "test"})
        try:
            await self._slots[0].open()
            status = await self._slots[0].post(message)
            refused = self._judged(status)
        except (LinkError, SchemeError) as error:
            return [Finding("connect and POST", False, str(error))]
        good = refused in ("", "duplicate")
        text = f"status {status}" if good else refused
        return [Finding("connect", True, urlsplit(self.options.url).netloc), Finding("POST", good, text)]


class HttpConnection:
    """One connection, that is opened again when the server has closed it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._parts = urlsplit(options.url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._protocol = h11.Connection(h11.CLIENT)

    async def open(self) -> None:
        """Connect, unless the connection is open."""
        if self._streams is not None:
            return
        parts = self._parts
        tls = parts.scheme == "https"
        context = context_of(self._options.ca) if tls else None
        port = parts.port or (443 if tls else 80)
        server = f"{parts.hostname}:{port}"
        try:
            async with asyncio.timeout(CONNECT_S):
                self._streams = await asyncio.open_connection(parts.hostname, port, ssl=context)
        except ssl.SSLError as error:
            raise tls_error(server, error) from error
        except (OSError, TimeoutError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
            raise LinkError(f"cannot reach {server}: {why}") from error
        self._protocol = h11.Connection(h11.CLIENT)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def post(self, message: Message) -> int:
        """Send a message; return the status. Tries again once if the server has closed an idle connection meanwhile."""
        return (await self.exchange(message, ANSWER_BYTES_MAX))[0]

    async def exchange(self, message: Message, bytes_max: int) -> tuple[int, bytes | None]:
        """Send a message as `post` does; return the status and the body, None if that is larger than `bytes_max`."""
        for last in (False, True):
            used = self._streams is not None
            await self.open()
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await self._exchange(message, bytes_max)
            except (OSError, EOFError, h11.RemoteProtocolError, TimeoutError) as error:
                self.close()
                if last or not used or isinstance(error, TimeoutError):
                    hint = "" if used or self._parts.scheme == "https" else " (it may want TLS: https://)"
                    raise LinkError(f"the connection was lost: {reason(error)}{hint}") from error
        raise AssertionError

    async def _exchange(self, message: Message, bytes_max: int) -> tuple[int, bytes | None]:
        assert self._streams is not None
        reader, writer = self._streams
        protocol = self._protocol
        body = message.body or b""
        request = h11.Request(
            method="POST", target=self._target(message.topic), headers=self._headers(message, len(body))
        )
        data = protocol.send(request) or b""
        data += protocol.send(h11.Data(data=body)) or b""
        data += protocol.send(h11.EndOfMessage()) or b""
        writer.write(data)
        await writer.drain()
        status, answer = 0, b""
        while True:
            event: Any = protocol.next_event()
            if event is h11.NEED_DATA:
                piece = await reader.read(READ_BYTES)
                protocol.receive_data(piece)
                if not piece and protocol.their_state is h11.SEND_RESPONSE and not status:
                    raise EOFError("the server closed the connection")
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += event.data
                if len(answer) > bytes_max:
                    self.close()
                    return status, None
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("the server closed the connection")
        if protocol.our_state is h11.MUST_CLOSE or protocol.their_state in (h11.MUST_CLOSE, h11.CLOSED):
            self.close()
        else:
            with contextlib.suppress(h11.LocalProtocolError):
                protocol.start_next_cycle()
        return status, answer

    def _target(self, topic: str) -> str:
        path = f"{self._parts.path.rstrip('/')}/{quote(topic, safe='/%')}" if topic else self._parts.path or "/"
        return f"{path}?{self._parts.query}" if self._parts.query else path

    def _headers(self, message: Message, size: int) -> list[tuple[str, str]]:
        options = self._options
        hlc = message.headers.get("mesh-hlc", "0")
        at = dt.datetime.fromtimestamp((int(hlc) >> 16) / 1000, dt.UTC).isoformat(timespec="milliseconds")
        found = [
            ("host", self._parts.netloc.rpartition("@")[2]),
            ("content-length", str(size)),
            ("idempotency-key", message.id),
            ("ce-specversion", "1.0"),
            ("ce-id", message.id),
            ("ce-source", f"/mycomesh/{quote(message.table)}"),
            ("ce-type", TYPES.get(message.op, "mycomesh.test")),
            ("ce-subject", quote(message.key)),
            ("ce-time", at.replace("+00:00", "Z")),
            *((name, quote(value, safe="/ ")) for name, value in message.headers.items()),
        ]
        if size:
            found.append(("content-type", options.more.get("content_type", "application/json")))
        if options.token:
            found.append(("authorization", f"Bearer {options.token}"))
        elif options.user:
            import base64  # noqa: PLC0415 -- few sections have a name and a password

            plain = f"{options.user}:{options.password}".encode()
            found.append(("authorization", f"Basic {base64.b64encode(plain).decode()}"))
        return found


def _address(options: Options) -> tuple[str, int]:
    host, colon, port = str(options.more.get("listen", "")).rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise SchemeError("'in' needs an address to listen on: listen = \"127.0.0.1:8090\"")
    return host.strip("[]"), int(port)


def _climbs(path: str) -> bool:
    """Return whether a level of a path is `.` or `..`, also percent-encoded: a row would choose another path."""
    return any(unquote(level) in (".", "..") for level in path.split("/"))


def _event_id(headers: Mapping[str, str]) -> str:
    """Return what CloudEvents recognise an event by: the source and the id."""
    return f"{headers.get('ce-source', '')}#{headers['ce-id']}" if "ce-id" in headers else ""
