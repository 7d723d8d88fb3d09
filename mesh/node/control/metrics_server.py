"""A small HTTP server for Prometheus and for health checks; runs only if the configuration asks for it.

Each response reads the node's current status. A client that sends no request in time, or a too long one, loses its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.health import BUSY, unhealthy
from mycomesh.mesh.node.control.metrics import exposition
from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mycomesh.mesh.node.config import PeerName
    from mycomesh.mesh.node.status import Status

__all__ = ["CLIENTS_MAX", "CONTENT_TYPE", "MetricsServer"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_BYTES_MAX = 8_192
REQUEST_S_MAX = 5
HEALTH_S_MAX = 3  # less than REQUEST_S_MAX: a node that hangs still gets an answer
CLIENTS_MAX = 8  # at a time; Prometheus needs one


class MetricsServer:
    """Answers `GET /metrics` and `GET /healthz` over HTTP/1.0 at one address."""

    def __init__(self, address: PeerName, status: Callable[[], Awaitable[Status]]) -> None:
        self._address = address
        self._status = status
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Start listening; raise `NodeError` if the address is in use or not this machine's."""
        host, port = self._address.host, self._address.port
        try:
            self._server = await asyncio.start_server(self._on_client, host, port, limit=REQUEST_BYTES_MAX)
        except OSError as error:
            reason = error.strerror or str(error)
            raise NodeError(
                f"cannot serve metrics at {host}:{port}: {reason}; choose another --metrics HOST:PORT"
            ) from error

    @property
    def port(self) -> int:
        """The TCP port on which the server listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= CLIENTS_MAX:
                async with asyncio.timeout(REQUEST_S_MAX):
                    request = await reader.readuntil(b"\r\n\r\n")
                    answer = await self._answer(request)
                    if not writer.is_closing():  # the client may have left meanwhile
                        writer.write(answer)
                        await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client sent nothing, sent too much, or left
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "this server answers only GET\n")
        if path == b"/healthz":
            reason = await self._unhealthy()
            outcome = "503 Service Unavailable" if reason else "200 OK"
            return _response(outcome, f"{reason or 'ok'}\n", head=method == b"HEAD")
        if path != b"/metrics":
            return _response("404 Not Found", "the metrics are at /metrics, the health at /healthz\n")
        return _response("200 OK", exposition(await self._status()), head=method == b"HEAD")

    async def _unhealthy(self) -> str:
        try:
            async with asyncio.timeout(HEALTH_S_MAX):
                return unhealthy(await self._status(), int(time.time()))
        except TimeoutError:
            return BUSY
        except (NodeError, SyncError) as error:
            return f"{error} [{error.code}]"


def _response(outcome: str, text: str, *, head: bool = False) -> bytes:
    body = text.encode()
    lines = f"HTTP/1.0 {outcome}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    return lines.encode() + (b"" if head else body)
