"""A small HTTP/1.1 listener for messages that come in: POST with a token, one message a request, by h11."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import h11

__all__ = ["BODY_BYTES_MAX", "Listener"]

BODY_BYTES_MAX = 1 << 20
CLIENTS_MAX = 64
IDLE_S = 30
READ_BYTES = 65_536

Answer = Callable[[str, Mapping[str, str], bytes], Awaitable[int]]


class Listener:
    """Listens on one address. `answer` takes path, headers and body of a message, and returns the status."""

    def __init__(self, token: str, answer: Answer) -> None:
        self._token = token.encode()
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.StreamWriter, None] = {}

    async def start(self, host: str, port: int) -> int:
        """Start listening; return the port. Raises OSError if the address is taken."""
        self._server = await asyncio.start_server(self._on_client, host, port)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._clients):
                writer.close()
            await self._server.wait_closed()
            self._server = None

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= CLIENTS_MAX:
            writer.close()
            return
        self._clients[writer] = None
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._serve_one(connection, reader, writer):
                connection.start_next_cycle()
        except (OSError, TimeoutError):
            pass  # the client has left, or says nothing
        except h11.RemoteProtocolError as error:
            with contextlib.suppress(h11.LocalProtocolError, OSError):
                await self._respond(connection, writer, error.error_status_hint or 400)
        finally:
            del self._clients[writer]
            writer.close()

    async def _serve_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Serve one request; return whether the connection goes on."""
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event: Any = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                async with asyncio.timeout(IDLE_S):
                    data = await reader.read(READ_BYTES)
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
                if not self._is_allowed(event):
                    await self._respond(connection, writer, 401)
                    return False
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_BYTES_MAX:
                    await self._respond(connection, writer, 413)
                    return False
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
                allowed = request.method in (b"POST", b"PUT")
                path = request.target.decode().partition("?")[0].strip("/")
                status = await self._answer(path, headers, bytes(body)) if allowed else 405
                await self._respond(connection, writer, status)
                return connection.our_state is h11.DONE and connection.their_state is h11.DONE
            else:
                return False

    def _is_allowed(self, request: h11.Request) -> bool:
        given = next((value for name, value in request.headers if name == b"authorization"), b"")
        return hmac.compare_digest(bytes(given), b"Bearer " + self._token)

    async def _respond(self, connection: h11.Connection, writer: asyncio.StreamWriter, status: int) -> None:
        headers = [("content-length", "0")] + ([("www-authenticate", "Bearer")] if status == 401 else [])
        writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
