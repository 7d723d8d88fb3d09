"""Asks the node by its control socket without blocking: one connection for each reader, in the protocol of `control.client`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

from mycomesh.mesh.node.control.client import RESPONSE_BYTES_MAX, decode_line, encode_line, in_directory
from mycomesh.mesh.node.errors import NodeError, NoNodeError, RefusedError
from mycomesh.mesh.node.home import Home

__all__ = ["NodeConnection", "ask", "notices", "pages"]

ANSWER_S = 20  # as `control.client`; a request that itself waits has its own time beside it
PAGE_WAIT_MS = 10_000
PAGE_ROWS = 1_024
END_S = 1.0
PAST = 50  # notices from before, to begin with


class NodeConnection:
    """One connection to the control socket; requests are answered in order."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Return the result of a request.

        Raises:
            NoNodeError: no node runs for this home, or it ended.
            RefusedError: the node refused the request.
            NodeError: the node did not answer in time.
        """
        reader, writer = await self._open()
        try:
            async with asyncio.timeout(ANSWER_S + arguments.get("wait_ms", 0) / 1000):
                writer.write(encode_line({"do": what, **arguments}))
                line = await reader.readline()
        except TimeoutError as error:
            self.close()
            raise NodeError("the node did not answer in time; it may be busy with a long transaction") from error
        except (OSError, ValueError) as error:
            self.close()
            raise NoNodeError("the node stopped before it answered") from error
        if not line.endswith(b"\n"):
            self.close()
            raise NoNodeError("the node stopped before it answered")
        answer = decode_line(line)
        if answer.get("ok") is True and isinstance(answer.get("result"), dict):
            result: dict[str, Any] = answer["result"]
            return result
        raise RefusedError(
            str(answer.get("error", "the node refused without a reason")), str(answer.get("code", NodeError.code))
        )

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the objects that the node sends without being asked, until it ends."""
        reader, _ = await self._open()
        with contextlib.suppress(OSError, ValueError):
            while (line := await reader.readline()).endswith(b"\n"):
                yield decode_line(line)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            for path in self._home.sockets:
                with contextlib.suppress(OSError), in_directory(path) as short:
                    self._streams = await asyncio.open_unix_connection(short, limit=RESPONSE_BYTES_MAX)
                    break
            else:
                raise NoNodeError(
                    f"no node runs for this home ({self._home.state}); start one with: mycomesh up FILE.db"
                )
        return self._streams


async def ask(home: Home, what: str, **arguments: Any) -> dict[str, Any]:
    """Send one request to the running node; raises as `NodeConnection.ask`."""
    connection = NodeConnection(home)
    try:
        return await connection.ask(what, **arguments)
    finally:
        connection.close()


async def notices(home: Home) -> AsyncIterator[dict[str, Any]]:
    """Yield the notices of the node, until it ends; raises as `NodeConnection.ask`."""
    connection = NodeConnection(home)
    try:
        await connection.ask("watch", past=PAST)
        async for line in connection.lines():
            yield line
    finally:
        connection.close()


async def pages(
    home: Home, table: str, *, cursor: str | None = None, from_now: bool = True, once: bool = False
) -> AsyncIterator[list[str]]:
    """Yield the changes of a table as pages of JSON lines; an empty page means that the reader has caught up.

    A page is acknowledged when the next one is asked for, so a cursor moves once the consumer has taken the page.

    Raises:
        NodeError: as `NodeConnection.ask`.
    """
    connection, done, wait_ms = NodeConnection(home), 0, 0
    request: dict[str, Any] = {
        "token": secrets.token_hex(12),
        "pid": os.getpid(),
        "table": table,
        "rows": PAGE_ROWS,
        "from_now": from_now,
    }
    if cursor is not None:
        request["cursor"] = cursor
    try:
        while True:
            answer = await connection.ask("changes", **request, done=done, wait_ms=wait_ms)
            lines: list[str] = answer["changes"]
            done = len(lines)
            caught_up = not lines and wait_ms == 0
            if lines or caught_up:
                yield lines
            if once and not lines:
                return
            wait_ms = PAGE_WAIT_MS if caught_up or wait_ms else 0
    finally:
        connection.close()  # its last request may still wait for changes
        with contextlib.suppress(NodeError, TimeoutError):
            async with asyncio.timeout(END_S):
                await ask(home, "changes", **request, done=0, close=True)
