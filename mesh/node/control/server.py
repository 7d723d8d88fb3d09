"""The control socket's server: a private Unix socket (0600 in a 0700 directory), one JSON line each way.

Invariant: a client that is slow or silent, or sends invalid lines, affects its own connection only.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.node.control.client import PAST_MAX, REQUEST_BYTES_MAX, decode_line, encode_line, in_directory
from mycomesh.mesh.node.errors import HomeError, NodeError
from mycomesh.sync.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

__all__ = ["ControlServer"]

CLIENTS_MAX = 64  # people and scripts on this machine; more means a script that loops by mistake
WATCH_QUEUE_BYTES_MAX = 1 << 20  # about 5,000 notices; the server drops a watcher that is further behind
LAST_ANSWER_S = 1  # `down` gets its answer when the node has stopped; a client that hangs must not delay the end
FILE_MODE = 0o600


class ControlServer:
    """Answers requests on one Unix socket; `answer` takes a request and returns its result as plain values."""

    def __init__(self, path: Path, answer: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._bound: os.stat_result | None = None  # the socket file that this server made
        self._answers: dict[asyncio.Future[None], None] = {}  # in progress; `close` waits for them
        self._writers: dict[asyncio.StreamWriter, bool] = {}  # True: a watcher
        self._past: deque[dict[str, Any]] = deque(maxlen=PAST_MAX)

    async def start(self) -> None:
        """Start listening. The caller has locked the home, so an existing socket file is a leftover."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setblocking(False)
        try:
            self._path.unlink(missing_ok=True)
            with in_directory(self._path) as short:
                mask = os.umask(0o177)  # private from bind on: before a chmod another user could connect
                try:
                    listener.bind(short)
                finally:
                    os.umask(mask)
            self._path.chmod(FILE_MODE)
            self._bound = self._path.stat()
        except OSError as error:
            listener.close()
            raise HomeError(
                f"cannot open the control socket {self._path}: {error.strerror}; check the directory, or choose another --home"
            ) from error
        self._server = await asyncio.start_unix_server(self._on_client, sock=listener, limit=REQUEST_BYTES_MAX)

    def is_reachable(self) -> bool:
        """Return whether the path still leads to this server."""
        try:
            return self._bound is not None and os.path.samestat(self._path.stat(), self._bound)
        except OSError:
            return False

    async def reopen(self) -> None:
        """Listen on the path again, after its socket file was removed. Open connections stay; raises `HomeError` as `start`."""
        ending = self._server
        await self.start()
        if ending is not None:
            ending.close()

    def publish(self, line: dict[str, Any], *, keep: bool = True) -> None:
        """Send one line to all watchers, dropping those that stopped reading; with `keep`, also to later watchers."""
        if keep:
            self._past.append(line)
        # uvloop raises for a write to a connection that is closing.
        watchers = [writer for writer, watching in self._writers.items() if watching and not writer.is_closing()]
        data = encode_line(line) if watchers else b""
        for writer in watchers:
            if writer.transport.get_write_buffer_size() > WATCH_QUEUE_BYTES_MAX:
                writer.transport.abort()
            else:
                writer.write(data)

    async def close(self) -> None:
        """Stop listening, close all connections and remove the socket file."""
        if self._server is None:
            return
        self._server.close()
        if self._answers:
            await asyncio.wait(list(self._answers), timeout=LAST_ANSWER_S)
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()
        self._server = None
        if self.is_reachable():  # else it is gone already, or another node's
            self._path.unlink(missing_ok=True)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._writers) >= CLIENTS_MAX:
            writer.close()
            return
        self._writers[writer] = False
        try:
            while line := await reader.readline():
                await self._respond(line, writer)
        except (OSError, ValueError):
            return  # the client left, or sent a line longer than the limit
        finally:
            del self._writers[writer]
            writer.close()

    async def _respond(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        in_progress: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers[in_progress] = None
        try:
            request, answer = await self._answer_line(line)
            watching = request.get("do") == "watch"
            if writer.is_closing():
                return  # the client has left meanwhile
            writer.write(encode_line(answer))
            if watching:
                writer.writelines(map(encode_line, self._recent(request.get("past"))))
                self._writers[writer] = True  # before the drain: notices during it follow the past ones
            await writer.drain()
            self._writers[writer] = watching
        finally:
            del self._answers[in_progress]
            in_progress.set_result(None)

    def _recent(self, wanted: object) -> list[dict[str, Any]]:
        count = wanted if isinstance(wanted, int) else 0
        return list(self._past)[-count:] if count > 0 else []

    async def _answer_line(self, line: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        request: dict[str, Any] = {}
        try:
            request = decode_line(line)
            result = {} if request.get("do") == "watch" else await self._answer(request)
        except (NodeError, MeshError, SyncError) as error:
            return request, {"ok": False, "error": str(error), "code": error.code}
        return request, {"ok": True, "result": result}
