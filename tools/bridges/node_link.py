"""A bridge's connections to its node: pages of the change feed over the control socket, and their acknowledgement."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import RESPONSE_BYTES_MAX, decode_line, encode_line, in_directory
from mycomesh.mesh.node.errors import NoNodeError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.node.home import Home

__all__ = ["FeedSession", "NodeLink"]

WAIT_MS = 10_000  # of one request for changes, which the node answers sooner if there are any
ROWS_MAX = 1_024


class NodeLink:
    """One connection to the control socket; one request at a time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Send a request; return its result.

        Raises:
            NoNodeError: no node runs, or it has stopped.
            RefusedError: the node refused the request.
        """
        try:
            reader, writer = self._streams or await self._connect()
            writer.write(encode_line({"do": what, **arguments}))
            await writer.drain()
            line = await reader.readline()
        except (OSError, ValueError) as error:
            self.close()
            raise NoNodeError(f"the node cannot be reached: {error}") from error
        except asyncio.CancelledError:
            self.close()  # the answer that is still to come would be taken for that of the next request
            raise
        if not line.endswith(b"\n"):
            self.close()
            raise NoNodeError("the node stopped before it answered")
        answer = decode_line(line)
        if answer.get("ok") is True:
            result: dict[str, Any] = answer["result"]
            return result
        raise RefusedError(str(answer.get("error", "the node refused")), str(answer.get("code", "node.refused")))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for path in self._home.sockets:
            with contextlib.suppress(OSError), in_directory(path) as short:
                self._streams = await asyncio.open_unix_connection(short, limit=RESPONSE_BYTES_MAX)
                return self._streams
        raise NoNodeError(f"no node runs for this home ({self._home.state}); start one with: mycomesh up FILE.db")

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class FeedSession:
    """One reader of a table's changes. Several pages may wait for their acknowledgement."""

    def __init__(self, home: Home, table: str, cursor: str | None, *, from_now: bool, rows_max: int) -> None:
        self._link = NodeLink(home)
        self._request: dict[str, Any] = {
            "token": os.urandom(12).hex(),
            "pid": os.getpid(),
            "table": table,
            "rows": min(rows_max, ROWS_MAX),
            "from_now": from_now,
        }
        if cursor is not None:
            self._request["cursor"] = cursor

    async def page(
        self, *, done: int = 0, failed: Sequence[tuple[int, str]] = (), wait_ms: int = WAIT_MS
    ) -> list[dict[str, Any]]:
        """Acknowledge the first `done` changes that wait for it, and return the next ones; none if there are none in time.

        `failed` are (number, why) of those among them that become dead letters.
        """
        more = {"failed": list(failed)} if failed else {}
        answer = await self._link.ask("changes", **self._request, done=done, wait_ms=wait_ms, **more)
        return [json.loads(line) for line in answer["changes"]]

    async def close(self, *, done: int = 0, failed: Sequence[tuple[int, str]] = ()) -> None:
        """Acknowledge the last changes, and let another reader use the cursor."""
        with contextlib.suppress(NoNodeError, RefusedError):
            await self._link.ask("changes", **self._request, done=done, failed=list(failed), close=True)
        self._link.close()
