"""An HTTP/1.1 server for few clients: h11 reads and writes the protocol, asyncio the sockets.

A client that is slow, silent or sends invalid requests affects its own connection only: each limit below has a name. The
handler gets a complete request and returns a complete response, or a stream of pieces such as server-sent events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from mycomesh.tools.web.errors import BusyError, HttpError

__all__ = [
    "BODY_BYTES_MAX",
    "CONNECTIONS_MAX",
    "HEAD_BYTES_MAX",
    "UNSENT_BYTES_MAX",
    "HttpServer",
    "Request",
    "Response",
]

CONNECTIONS_MAX = 256  # a browser opens six; a hundred dashboards and their requests fit
HEAD_BYTES_MAX = 16_384
BODY_BYTES_MAX = 1 << 20  # the longest request is one SQL statement
REQUEST_S_MAX = 10  # for a whole request to arrive
IDLE_S_MAX = 60  # between two requests of one connection
SEND_S_MAX = 60  # for a response to a client that reads slowly
FIELDS_MAX = 64  # of a query string
STREAM_BYTES_MAX = 4 << 20  # of a stream that the client has not read; beyond it the stream waits
UNSENT_BYTES_MAX = (
    64 << 20
)  # of all answers that clients have not read; beyond it slow streams end, and answers are refused
CHUNK_BYTES = 16_384
LINGER_S = 0.5
NO_CONTENT = 204  # a response of this status has neither a body nor a length
LINGER_READS = 64
# No page of another origin can read or embed anything, and no text from a table can become a script.
SECURITY_HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `path` is as it was sent; names of headers are in lower case; `query` has the values of each name in order."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""

    def one(self, name: str) -> str | None:
        """Return the last value of a name in the query string, None if it is not there."""
        values = self.query.get(name)
        return values[-1] if values else None

    def json(self) -> dict[str, Any]:
        """Return the object in the body.

        Raises:
            HttpError: the body is no JSON object, or not declared as JSON: a form of another site can send anything else.
        """
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HttpError("send a JSON object with the header Content-Type: application/json", 415)
        try:
            value = json.loads(self.body)
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise HttpError("the body is not a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Response:
    """One response: a whole body, or pieces that are sent as they come until the iterator or the client ends.

    `on_end` is called once in any case, also if the client leaves before the first piece.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    pieces: AsyncIterator[bytes] | None = None
    on_end: Callable[[], None] | None = None


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: h11.Connection = field(
        default_factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    )
    task: asyncio.Task[None] | None = None
    idle: bool = True


class HttpServer:
    """Listens at one address and answers requests with one handler."""

    def __init__(self, handle: Callable[[Request], Awaitable[Response]]) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}

    async def start(self, host: str, port: int) -> None:
        """Listen; raises `OSError` if the address is in use or not this machine's."""
        self._server = await asyncio.start_server(self._on_client, host, port, limit=CHUNK_BYTES)

    @property
    def port(self) -> int:
        """The TCP port on which the server listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, and end all connections."""
        if self._server is not None:
            self._server.close()
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer, task=asyncio.current_task())
        self._connections[connection] = None
        writer.transport.set_write_buffer_limits(high=STREAM_BYTES_MAX)
        try:
            if len(self._connections) > CONNECTIONS_MAX and not self._end_idle(connection):
                await _send(connection, "GET", _failure(BusyError("too many connections; try again later")))
            else:
                while await self._one(connection):
                    pass
            await _linger(connection)
        except (OSError, TimeoutError, asyncio.CancelledError, h11.LocalProtocolError):
            # The client left, sent nothing, or reads too slowly; or the server ends. `close` would keep what it has not read.
            writer.transport.abort()
        finally:
            del self._connections[connection]
            writer.close()

    def _unsent(self) -> int:
        return sum(each.writer.transport.get_write_buffer_size() for each in self._connections)

    def _if_room(self, response: Response) -> Response:
        """Return the response, or a refusal while slow clients leave too much unread."""
        if len(response.body) <= CHUNK_BYTES or self._unsent() + len(response.body) <= UNSENT_BYTES_MAX:
            return response
        return _failure(BusyError("other clients have not read their answers yet; try again later"))

    def _end_idle(self, new: _Connection) -> bool:
        """Make room: end the connection that has been waiting for a request the longest. Return False if all are busy."""
        for connection in self._connections:
            if connection.idle and connection is not new and connection.task is not None:
                connection.task.cancel()
                return True
        return False

    async def _one(self, connection: _Connection) -> bool:
        """Answer one request; return whether another one may follow."""
        connection.idle = True
        method = "GET"
        try:
            request = await _receive(connection)
            if request is None:
                return False
            connection.idle = False
            method = request.method
            try:
                response = await self._handle(request)
            except HttpError as error:
                response = _failure(error)
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint if 400 <= error.error_status_hint < 500 else 400
            response = _failure(HttpError(f"not a request of HTTP/1.1: {error}", status))
        except HttpError as error:
            response = _failure(error)
        try:
            if response.pieces is not None and method != "HEAD":
                await _stream(connection, response, response.pieces, self._unsent)
                return False  # the byte that it may have read is lost, so no other request follows
            await _send(connection, method, response if method == "HEAD" else self._if_room(response))
        finally:
            if response.on_end is not None:
                response.on_end()
        if connection.state.our_state is not h11.DONE or connection.state.their_state is not h11.DONE:
            return False
        connection.state.start_next_cycle()
        return True


async def _linger(connection: _Connection) -> None:
    """Read what is still on its way: closing before would take the answer from a client that is still sending."""
    if connection.reader.at_eof() or connection.state.our_state is h11.CLOSED:
        return
    connection.writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            for _ in range(LINGER_READS):
                if not await connection.reader.read(CHUNK_BYTES):
                    return


async def _receive(connection: _Connection) -> Request | None:
    """Return the next request, None if the client ends the connection."""
    head: h11.Request | None = None
    body = bytearray()
    limit_s = float(IDLE_S_MAX)
    while True:
        async with asyncio.timeout(limit_s):
            event = await _next_event(connection)
        limit_s = REQUEST_S_MAX
        match event:
            case h11.Request():
                head = event
                _check_length(head)
                async with asyncio.timeout(REQUEST_S_MAX):
                    await _read_body(connection, body)
                return _request(head, bytes(body))
            case _:
                return None


def _check_length(head: h11.Request) -> None:
    """Refuse a body that is too long before it is sent, and one whose end a proxy may see at another place (RFC 9112, 6.1)."""
    declared = {name: value for name, value in head.headers if name in (b"content-length", b"transfer-encoding")}
    if len(declared) > 1:
        raise HttpError("give Content-Length or Transfer-Encoding, not both")
    if int(declared.get(b"content-length", 0)) > BODY_BYTES_MAX:
        raise HttpError(f"the body is larger than {BODY_BYTES_MAX:,} bytes", 413)


async def _read_body(connection: _Connection, body: bytearray) -> None:
    while True:
        event = await _next_event(connection)
        match event:
            case h11.Data():
                body += event.data
                if len(body) > BODY_BYTES_MAX:
                    raise HttpError(f"the body is larger than {BODY_BYTES_MAX:,} bytes", 413)
            case h11.EndOfMessage():
                return
            case _:
                raise ConnectionResetError


async def _next_event(connection: _Connection) -> Any:
    state = connection.state
    while (event := state.next_event()) is h11.NEED_DATA:
        if state.they_are_waiting_for_100_continue:
            connection.writer.write(state.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        state.receive_data(await connection.reader.read(CHUNK_BYTES))
    return event


def _request(head: h11.Request, body: bytes) -> Request:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    try:
        target = urlsplit(head.target.decode("latin-1"))
        query = parse_qs(target.query, keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
        unquote(target.path, errors="strict")
    except ValueError as error:
        raise HttpError(f"the address cannot be read: it has more than {FIELDS_MAX} fields, or is not UTF-8") from error
    return Request(head.method.decode("latin-1"), target.path, query, headers, body)


def _failure(error: HttpError) -> Response:
    body = json.dumps({"error": str(error), "code": error.code}).encode()
    return Response(body, error.status, headers=error.headers)


def _head(response: Response, headers: list[tuple[str, str]]) -> h11.Response:
    own = {name.lower() for name, _ in response.headers}
    named = [("Content-Type", response.content_type), *headers, *response.headers]
    named += [each for each in SECURITY_HEADERS if each[0].lower() not in own]
    if "cache-control" not in own:
        named.append(("Cache-Control", "no-store"))
    reason = HTTPStatus(response.status).phrase.encode()
    return h11.Response(status_code=response.status, reason=reason, headers=named)


async def _send(connection: _Connection, method: str, response: Response) -> None:
    state, writer = connection.state, connection.writer
    if state.our_state is h11.ERROR or state.our_state is h11.MUST_CLOSE:
        return
    length = [] if response.status == NO_CONTENT else [("Content-Length", str(len(response.body)))]
    writer.write(state.send(_head(response, length)) or b"")
    if method != "HEAD" and response.body:
        writer.writelines(state.send_with_data_passthrough(h11.Data(data=response.body)) or [])
    writer.write(state.send(h11.EndOfMessage()) or b"")
    await _drain(writer)


async def _drain(writer: asyncio.StreamWriter) -> None:
    """Wait until the client has read nearly all."""
    async with asyncio.timeout(SEND_S_MAX):
        writer.transport.set_write_buffer_limits(high=CHUNK_BYTES)
        await writer.drain()
        writer.transport.set_write_buffer_limits(high=STREAM_BYTES_MAX)


async def _stream(
    connection: _Connection, response: Response, pieces: AsyncIterator[bytes], unsent: Callable[[], int]
) -> None:
    """Send pieces as they come. A client that leaves ends the iterator at once; one that does not read ends its connection."""
    state, writer = connection.state, connection.writer
    task = asyncio.current_task()
    assert task is not None
    writer.write(state.send(_head(response, [])) or b"")
    left = asyncio.get_running_loop().create_task(connection.reader.read(1))  # a client sends nothing until the end
    left.add_done_callback(lambda done: None if done.cancelled() else task.cancel())
    try:
        async for piece in pieces:
            writer.writelines(state.send_with_data_passthrough(h11.Data(data=piece)) or [])
            if writer.transport.get_write_buffer_size() > STREAM_BYTES_MAX:
                if unsent() > UNSENT_BYTES_MAX:
                    raise ConnectionResetError
                async with asyncio.timeout(SEND_S_MAX):
                    await writer.drain()
        writer.write(state.send(h11.EndOfMessage()) or b"")
        await _drain(writer)
    finally:
        left.cancel()
        await asyncio.wait([left])  # the connection's next reader must find it gone
        close = getattr(pieces, "aclose", None)
        if close is not None:
            with contextlib.suppress(RuntimeError):
                await close()
