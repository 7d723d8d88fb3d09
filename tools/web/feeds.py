"""Shares what the node reports among the clients of the console: one reader a table and one poll of the status for all.

Nothing is read while nobody listens. Each subscriber has a queue with a limit: one that is too slow loses what is queued and
gets `reset`, so that it costs the others neither memory nor time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict
from functools import cached_property
from typing import Any
from urllib.parse import quote

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.status import from_json
from mycomesh.tools.node_link import NodeLink
from mycomesh.tools.top.model import Live, Picture
from mycomesh.tools.web.node_client import notices, pages
from mycomesh.tools.web.values import browser_safe

__all__ = [
    "QUEUE_BYTES_MAX",
    "RECENT_BYTES_MAX",
    "RECENT_MAX",
    "Changes",
    "Feeds",
    "Subscriber",
    "browser_safe_lines",
    "event",
    "events_of",
    "id_of",
    "picture_json",
]

QUEUE_BYTES_MAX = 4 << 20  # of events that a subscriber has not taken; a page of the feed has about 1 MiB
RECENT_MAX = 10_000  # changes of a table that a client can resume at by the id of its last event
RECENT_BYTES_MAX = 4 << 20
STATUS_S = 1.0
RETRY_S = 1.0
_UNSAFE = re.compile(r"Infinity|NaN|(?<=[ \[])-?\d{16,}")
_ID = re.compile(r'^\{"id": ("(?:[^"\\]|\\.)*")')


def event(name: str, data: str, identity: str = "") -> bytes:
    """Return one server-sent event; `data` is JSON, which has no line breaks."""
    head = f"id: {identity}\n" if identity else ""
    return f"{head}event: {name}\ndata: {data}\n\n".encode()


class Changes:
    """A page of changes of one table, as lines of JSON. The events with them are made once, and subscribers share these."""

    def __init__(self, table: str, lines: list[str]) -> None:
        self.table = table
        self.lines = lines

    @cached_property
    def events(self) -> bytes:
        """One event for each change."""
        return events_of(self.lines)

    @cached_property
    def event(self) -> bytes:
        """One event with all of them."""
        return event("changes", f'{{"table":{json.dumps(self.table)},"changes":[{",".join(self.lines)}]}}')


class Subscriber:
    """The queue of one client."""

    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Queue an event; if the client is too far behind, drop all and queue `reset`."""
        if self._bytes + len(data) > QUEUE_BYTES_MAX and self._queue:
            self._queue.clear()
            self._bytes = 0
            data = event("reset", '{"why": "this client was too slow; load again"}')
        self._queue.append(data)
        self._bytes += len(data)
        self._ready.set()

    async def events(self, quiet_s: float) -> AsyncIterator[bytes]:
        """Yield what is queued; a comment after each `quiet_s` seconds without an event, so that dead connections end."""
        while True:
            try:
                async with asyncio.timeout(quiet_s):
                    await self._ready.wait()
            except TimeoutError:
                yield b": quiet\n\n"
                continue
            self._ready.clear()
            while self._queue:
                data = self._queue.popleft()
                self._bytes -= len(data)
                yield data


class _Shared:
    """A source that runs while it has subscribers, and starts again after the node was away."""

    def __init__(self) -> None:
        self.subscribers: dict[Callable[[Any], None], None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, take: Callable[[Any], None]) -> None:
        self.subscribers[take] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._forever())

    def remove(self, take: Callable[[Any], None]) -> None:
        self.subscribers.pop(take, None)
        if not self.subscribers and self._task is not None:
            self._task.cancel()
            self._task = None

    def publish(self, value: Any) -> None:
        for take in list(self.subscribers):
            take(value)

    async def _forever(self) -> None:
        while True:
            try:
                await self.run()
                why = "the node stopped"
            except NodeError as error:
                why = str(error)
            self.on_break(why)
            await asyncio.sleep(RETRY_S)

    async def run(self) -> None:
        raise NotImplementedError

    def on_break(self, why: str) -> None:
        raise NotImplementedError


class _TableFeed(_Shared):
    """The changes of one table from now on. It publishes pages of them, or text: why there is a gap."""

    def __init__(self, home: Home, table: str) -> None:
        super().__init__()
        self._home = home
        self._table = table
        self._recent: deque[str] = deque()
        self._recent_bytes = 0
        self._broken = False
        self.running = asyncio.Event()

    def after(self, identity: str) -> list[str] | None:
        """Return the lines behind the change of that id, None if it is not among the recent ones."""
        found: list[str] = []
        for line in reversed(self._recent):
            if id_of(line) == identity:
                return found[::-1]
            found.append(line)
        return None

    async def run(self) -> None:
        async for lines in pages(self._home, self._table):
            if self._broken:  # between the two, changes may have been missed
                self._broken = False
                self.publish("the stream goes on; load the table again")
            self.running.set()
            if not lines:
                continue
            safe = browser_safe_lines(lines)
            self._recent.extend(safe)
            self._recent_bytes += sum(map(len, safe))
            while len(self._recent) > RECENT_MAX or self._recent_bytes > RECENT_BYTES_MAX:
                self._recent_bytes -= len(self._recent.popleft())
            self.publish(Changes(self._table, safe))

    def on_break(self, why: str) -> None:
        self.running.clear()
        self._recent.clear()
        self._recent_bytes = 0
        if not self._broken:  # once, however long the node is away or the table is gone
            self._broken = True
            self.publish(why)


class _StatusFeed(_Shared):
    """The node's status and the picture of the mesh, once a second and after each notice; and the notices."""

    def __init__(self, home: Home) -> None:
        super().__init__()
        self._home = home
        self._live = Live()
        self._woken = asyncio.Event()
        self.last: bytes = b""

    async def run(self) -> None:
        link = NodeLink(self._home)
        listening = asyncio.get_running_loop().create_task(self._listen())
        try:
            while True:
                self.last = event("status", self._text(await link.ask("status")))
                self.publish(self.last)
                self._woken.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STATUS_S):
                        await self._woken.wait()
                    await asyncio.sleep(STATUS_S / 10)  # notices come in groups
        finally:
            listening.cancel()
            link.close()

    def on_break(self, why: str) -> None:
        away = event("status", json.dumps({"running": False, "why": why}))
        if away != self.last:
            self.last = away
            self.publish(away)

    def _text(self, value: dict[str, Any]) -> str:
        picture = self._live.picture(from_json(value))
        return json.dumps({"running": True, "status": value, "mesh": picture_json(picture)})

    async def _listen(self) -> None:
        with contextlib.suppress(NodeError):
            async for notice in notices(self._home):
                self._live.record_notice(notice)
                self.publish(event("notice", json.dumps(notice)))
                self._woken.set()


class Feeds:
    """All sources of one console."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._tables: dict[str, _TableFeed] = {}
        self._status = _StatusFeed(home)

    @contextlib.contextmanager
    def status(self, subscriber: Subscriber) -> Any:
        """Give the status, from now on and at each change, to a subscriber within the block."""
        if not self._status.subscribers:
            self._status.last = b""
        elif self._status.last:
            subscriber.put(self._status.last)
        self._status.add(subscriber.put)
        try:
            yield
        finally:
            self._status.remove(subscriber.put)

    @contextlib.contextmanager
    def table(self, table: str, take: Callable[[Changes | str], None]) -> Any:
        """Call `take` with the changes of a table, or with the reason for a gap, within the block; yields the feed."""
        feed = self._tables.setdefault(table, _TableFeed(self._home, table))
        feed.add(take)
        try:
            yield feed
        finally:
            feed.remove(take)
            if not feed.subscribers:
                self._tables.pop(table, None)


def picture_json(picture: Picture) -> dict[str, Any]:
    """Return a picture of the mesh for the page: nodes, links and islands, without histories."""
    value = asdict(picture)
    for node in value["nodes"]:
        del node["traffic"], node["lags"]
    return {
        "title": value["title"],
        "note": value["note"],
        "nodes": value["nodes"],
        "edges": value["edges"],
        "islands": picture.parts,
        "events": value["events"],
    }


def browser_safe_lines(lines: list[str]) -> list[str]:
    """Return lines of JSON that every reader understands: no Infinity, no integer beyond what JavaScript holds."""
    if not _UNSAFE.search("\n".join(lines)):
        return lines
    return [
        json.dumps(browser_safe(json.loads(line)), ensure_ascii=False) if _UNSAFE.search(line) else line
        for line in lines
    ]


def id_of(line: str) -> str:
    """Return the id of a change in a line of JSON, in ASCII and without line breaks: a table may have any name."""
    found = _ID.match(line)
    return quote(json.loads(found[1]), safe="/") if found else ""


def events_of(lines: Iterable[str]) -> bytes:
    """Return one server-sent event for each change."""
    return b"".join(event("change", line, id_of(line)) for line in lines)
