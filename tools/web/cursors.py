"""Durable cursors for HTTP clients: a cursor moves when its client acknowledges, so that nothing is lost with a client that dies.

The ids of changes that wait for an acknowledgement stay in memory, also for a minute after the client has left.
A client that comes back within it may acknowledge by `Last-Event-ID`; a later one gets the same changes again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.node_link import NodeLink
from mycomesh.tools.web.errors import HttpError
from mycomesh.tools.web.feeds import id_of
from mycomesh.tools.web.node_client import PAGE_ROWS, PAGE_WAIT_MS, ask

__all__ = ["HELD_MAX", "HOLD_S", "PAGES_MAX", "Cursors"]

PAGES_MAX = 4  # that wait for an acknowledgement; the node keeps no more
HELD_MAX = 16  # readers whose client has left with changes that it may still acknowledge
HOLD_S = 60.0
PING_S = 5.0  # the node closes a reader that asks for nothing for 15 s
UNDONE_WAIT_MS = 500  # an acknowledgement waits behind a request for changes


class _Reading:
    """One client's reader in the node."""

    def __init__(self, home: Home, table: str, name: str, *, from_now: bool) -> None:
        self._home = home
        self._link = NodeLink(home)
        self._lock = asyncio.Lock()
        self._request: dict[str, Any] = {
            "token": secrets.token_hex(12),
            "pid": os.getpid(),
            "table": table,
            "cursor": name,
            "from_now": from_now,
        }
        self._flight: asyncio.Task[dict[str, Any]] | None = None
        self._pages: list[list[str]] = []  # ids that are not acknowledged
        self._last = ""
        self.moved = asyncio.Event()

    @property
    def undone(self) -> list[str]:
        """The ids that were sent and not acknowledged."""
        return [identity for page in self._pages for identity in page]

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be sent before an acknowledgement."""
        return len(self._pages) >= PAGES_MAX

    async def page(self, wait_ms: int) -> list[str]:
        """Return the next changes as lines of JSON; none if there are none in time. Raises as `NodeLink.ask`."""
        limit = min(wait_ms, UNDONE_WAIT_MS) if self._pages else wait_ms
        # The request goes on if the client leaves: the connection is needed for the acknowledgement that may follow.
        self._flight = asyncio.create_task(self._ask(done=0, rows=PAGE_ROWS, wait_ms=limit))
        self._flight.add_done_callback(lambda done: done.cancelled() or done.exception())
        lines: list[str] = (await asyncio.shield(self._flight))["changes"]
        if lines:
            self._pages.append([id_of(line) for line in lines])
        return lines

    async def acknowledge(self, identity: str) -> int | None:
        """Move the cursor behind a change; return how many that were, None if it was not sent. Raises as `NodeLink.ask`."""
        if identity == self._last:
            return 0  # once more, as after an answer that was lost
        if identity not in self.undone:
            return None
        async with self._lock:
            undone = self.undone
            if identity not in undone:
                return None
            count = undone.index(identity) + 1
            await self._link.ask("changes", **self._request, done=count, rows=0)
            self._last, left = identity, count
            while left:
                taken = min(left, len(self._pages[0]))
                del self._pages[0][:taken]
                left -= taken
                if not self._pages[0]:
                    self._pages.pop(0)
        self.moved.set()
        return count

    async def hold(self) -> None:
        """Keep the reader open in the node for one moment more."""
        await self._ask(done=0, rows=0)

    async def close(self) -> None:
        """Let another reader use the cursor."""
        if self._flight is not None:
            self._flight.cancel()
        self._link.close()
        with contextlib.suppress(NodeError, TimeoutError):
            async with asyncio.timeout(1):
                await ask(self._home, "changes", **self._request, done=0, close=True)

    async def _ask(self, **more: Any) -> dict[str, Any]:
        async with self._lock:
            return await self._link.ask("changes", **self._request, **more)


class Cursors:
    """The readers of one console that have a cursor, by its name and table."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._open: dict[tuple[str, str], list[_Reading]] = {}
        self._held: dict[_Reading, asyncio.Task[None]] = {}

    async def pages(
        self, table: str, name: str, *, from_now: bool, last: str = "", once: bool = False
    ) -> AsyncIterator[list[str] | None]:
        """Yield pages of changes as lines of JSON; once an empty one, when all are sent; None where there is nothing for a while.

        `last` acknowledges for a client that comes back. `once` ends when all are sent, or nothing more may be.

        Raises:
            NodeError: as `NodeLink.ask`.
        """
        await self._take_over(table, name, last)
        reading = _Reading(self._home, table, name, from_now=from_now)
        self._open.setdefault((name, table), []).append(reading)
        caught_up = False
        try:
            while not (once and (caught_up or reading.is_full)):
                if reading.is_full:
                    reading.moved.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PING_S):
                            await reading.moved.wait()
                    await reading.hold()
                    yield None
                    continue
                lines = await reading.page(PAGE_WAIT_MS if caught_up else 0)
                if lines or not caught_up:
                    caught_up = caught_up or not lines
                    yield lines
                elif not reading.undone:
                    yield None
        finally:
            await self._release(reading, table, name)

    async def acknowledge(self, name: str, identity: str) -> int:
        """Move a cursor behind a change that was sent to its client; return how many changes that were.

        Raises:
            HttpError: the change is not among those that were sent and not acknowledged.
            NodeError: as `NodeLink.ask`.
        """
        for (cursor, table), readings in list(self._open.items()):
            for reading in list(readings) if cursor == name else ():
                for form in (identity, quote(identity, safe="/")):  # as the id of an event, and as in its JSON
                    count = await reading.acknowledge(form)
                    if count is not None:
                        if reading in self._held and not reading.undone:
                            await self._end(reading, table, name)
                        return count
        raise HttpError(f"cursor {name!r} has sent no change {identity!r} that waits for this; read from it again", 409)

    async def _take_over(self, table: str, name: str, last: str) -> None:
        for reading in [each for each in self._open.get((name, table), ()) if each in self._held]:
            if last:
                await reading.acknowledge(last)
            await self._end(reading, table, name)

    async def _release(self, reading: _Reading, table: str, name: str) -> None:
        if not reading.undone:
            await self._end(reading, table, name)
            return
        while len(self._held) >= HELD_MAX:
            oldest = next(iter(self._held))
            place = next(key for key, readings in self._open.items() if oldest in readings)
            await self._end(oldest, place[1], place[0])
        self._held[reading] = asyncio.create_task(self._hold(reading, table, name))

    async def _hold(self, reading: _Reading, table: str, name: str) -> None:
        with contextlib.suppress(NodeError):
            for _ in range(round(HOLD_S / PING_S)):
                await reading.hold()
                await asyncio.sleep(PING_S)
        self._held.pop(reading, None)
        await self._end(reading, table, name)

    async def _end(self, reading: _Reading, table: str, name: str) -> None:
        held = self._held.pop(reading, None)
        if held is not None:
            held.cancel()
        readings = self._open.get((name, table), [])
        if reading in readings:
            readings.remove(reading)
        if not readings:
            self._open.pop((name, table), None)
        await reading.close()
