"""A connection to the node's control socket for programs with an event loop, in the protocol of `control.client`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import decode_line, encode_line, in_directory
from mycomesh.mesh.node.errors import NodeError, NoNodeError, RefusedError

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["NodeLink", "serving_status"]

# A page has at least one change, whose text is escaped twice. A line is read as it comes, so that a short one takes little.
ANSWER_BYTES_MAX = 512 << 20
SERVING_PAUSE_S = 0.2  # before a node that does not serve yet is asked again
ANSWER_S = 30  # a node in a long transaction answers after it; what a request itself waits comes on top


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
            NodeError: the node did not answer in time.
        """
        try:
            async with asyncio.timeout(ANSWER_S + arguments.get("wait_ms", 0) / 1000):
                reader, writer = self._streams or await self._connect()
                writer.write(encode_line({"do": what, **arguments}))
                await writer.drain()
                line = await reader.readline()
        except TimeoutError as error:
            self.close()
            raise NodeError("the node did not answer in time; it may be busy with a long transaction") from error
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

    async def notices(self, past: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the last `past` notices of the node and all that follow, until it ends; raises as `ask`.

        The connection takes no other request then.
        """
        await self.ask("watch", past=past)
        assert self._streams is not None, "connected by the request"
        with contextlib.suppress(OSError, ValueError):
            while (line := await self._streams[0].readline()).endswith(b"\n"):
                yield decode_line(line)

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for path in self._home.sockets:
            with contextlib.suppress(OSError), in_directory(path) as short:
                self._streams = await asyncio.open_unix_connection(short, limit=ANSWER_BYTES_MAX)
                return self._streams
        raise NoNodeError(f"no node runs for this home ({self._home.state}); start one with: mycomesh up FILE.db")


async def serving_status(home: Home, report_wait: Callable[[str], None]) -> dict[str, Any]:
    """Return the node's status once it serves; report meanwhile what it is waited for.

    Raises:
        RefusedError: the node refused the request.
        NodeError: the node did not answer in time.
    """
    link = NodeLink(home)
    try:
        while True:
            try:
                status = await link.ask("status")
            except NoNodeError as error:
                report_wait(str(error))
            else:
                if status["phase"] == "serving":
                    return status
                report_wait("the node does not serve yet")
            await asyncio.sleep(SERVING_PAUSE_S)
    finally:
        link.close()
