"""A small HTTP server that Prometheus scrapes.

What always holds: nothing listens unless it was asked for; each answer is of this moment; a client that sends no request, or too
long a one, is let go. It must not know what the metrics are.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.metrics import exposition
from mycomesh.mesh.node.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mycomesh.mesh.node.config import PeerName
    from mycomesh.mesh.node.status import Status

__all__ = ["CLIENTS_MAX", "CONTENT_TYPE", "MetricsServer"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_BYTES_MAX = 8_192
REQUEST_S_MAX = 5
CLIENTS_MAX = 8  # Prometheus is one


class MetricsServer:
    """Answers `GET /metrics` over HTTP/1.0 at one address."""

    def __init__(self, place: PeerName, status: Callable[[], Awaitable[Status]]) -> None:
        self._place = place
        self._status = status
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Begin to listen; `NodeError` where the address is taken or not this machine's."""
        place = self._place
        try:
            self._server = await asyncio.start_server(self._on_client, place.host, place.port, limit=REQUEST_BYTES_MAX)
        except OSError as error:
            reason = error.strerror or str(error)
            raise NodeError(
                f"cannot serve metrics at {place.host}:{place.port}: {reason}; choose another --metrics HOST:PORT"
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
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
                    writer.write(await self._answer(request))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it sends nothing, too much, or has gone
        finally:
            self._clients -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "only GET is answered here\n")
        if path != b"/metrics":
            return _response("404 Not Found", "the metrics are at /metrics\n")
        return _response("200 OK", exposition(await self._status()), head=method == b"HEAD")


def _response(outcome: str, text: str, *, head: bool = False) -> bytes:
    body = text.encode()
    lines = f"HTTP/1.0 {outcome}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    return lines.encode() + (b"" if head else body)
