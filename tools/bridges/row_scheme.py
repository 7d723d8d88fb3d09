"""A scheme whose outside system says rows rather than messages: vehicles, receivers, TAK clients.

Rows wait here between the socket and the file. Of a kind that has one row for each thing, only the latest row waits, so that a
file that is locked for a minute costs no memory; rows of which each counts wait up to `WAITING_MAX`, and then the newest are
dropped and counted. Every `every_ms` the rows that wait are committed together.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from mycomesh.tools.bridges.scheme import Arrival, LinkError, Options, Scheme, SchemeError
from mycomesh.tools.vehicles.rows import KEYS, Row, definition

__all__ = ["WAITING_MAX", "Collector", "RowScheme", "schema_of"]

WAITING_MAX = 20_000
EVERY_MS_MAX = 60_000
LATEST = frozenset({"vehicles", "aircraft", "ships", "position", "positions", "markers", "alerts"})


def schema_of(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the CREATE TABLE statements for topics, each of which has rows of a kind."""
    return {topic: definition(kind, "{table}").replace('"{table}"', "{table}") for topic, kind in kinds.items()}


class Collector:
    """Rows that wait for the next commit, in the order in which they came."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, ...], Arrival] = {}
        self._each: deque[Arrival] = deque()
        self._event = asyncio.Event()
        self._failed = asyncio.Event()
        self._error = ""
        self.dropped = 0

    def put(self, topic: str, row: Row) -> None:
        """Let a row wait, in place of an earlier one of the same thing."""
        arrival = Arrival(topic, b"", values=row.values, delete=row.delete)
        if topic in LATEST:
            key = (topic, *(str(row.values.get(name)) for name in KEYS[row.kind]))
            known = key in self._latest
            if not known and len(self._latest) >= WAITING_MAX:
                self.dropped += 1
                return
            self._latest[key] = arrival
        elif len(self._each) >= WAITING_MAX:
            self.dropped += 1
            return
        else:
            self._each.append(arrival)
        self._event.set()

    def fail(self, why: str) -> None:
        """Let the next `take` raise `LinkError`."""
        self._error = why
        self._failed.set()
        self._event.set()

    def reset(self) -> None:
        """Forget an error; rows go on waiting."""
        self._error = ""
        self._failed.clear()

    async def watch(self) -> None:
        """Raise `LinkError` once the source has failed."""
        await self._failed.wait()
        raise LinkError(self._error)

    async def take(self, most: int) -> list[Arrival]:
        """Wait for rows; return some.

        Raises:
            LinkError: the source has failed, and no row waits.
        """
        while not self._latest and not self._each:
            if self._error:
                raise LinkError(self._error)
            self._event.clear()
            await self._event.wait()
        found = [self._latest.pop(key) for key in list(islice(self._latest, most))]
        while self._each and len(found) < most:
            found.append(self._each.popleft())
        return found


class RowScheme(Scheme):
    """Receives rows of `kinds` (topic -> kind of row); a subclass connects and calls `put`."""

    kinds: ClassVar[Mapping[str, str]] = {}
    own_address = True
    everywhere = True
    separator = "/"
    settings: Mapping[str, Any] = {"every_ms": 200}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._collector = Collector()
        self._wanted = frozenset(options.incoming)
        self._taken = 0.0
        self._counted = 0

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse topics that the scheme does not have."""
        name = options.url.partition(":")[0]
        for topic in options.incoming:
            if topic not in cls.kinds:
                raise SchemeError(f"{name}:// has no topic {topic!r}; its topics are {', '.join(cls.kinds)}")
        if not 0 <= options.more.get("every_ms", 0) <= EVERY_MS_MAX:
            raise SchemeError(f"every_ms must be 0..{EVERY_MS_MAX:,}")

    def put(self, rows: Iterable[Row]) -> None:
        """Let rows of wanted topics wait for the next commit."""
        for row in rows:
            if row.kind in self._wanted:
                self._collector.put(row.kind, row)
        self.count_drops()

    def count_drops(self, more: int = 0) -> None:
        """Count rows that were dropped since the last call, and `more`."""
        dropped = self._collector.dropped - self._counted + more
        if dropped:
            self._counted = self._collector.dropped
            self.options.count("dropped", dropped)

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Begin; `connect` has begun to read."""

    async def watch(self) -> None:
        """Raise `LinkError` once the source has failed; where rows come in, `receive` does, when all of them are written."""
        if self._wanted:
            await super().watch()
        await self._collector.watch()

    async def receive(self) -> list[Arrival]:
        """Return the rows of the last `every_ms`, at most `max_in_flight`."""
        pause_s = self.options.more.get("every_ms", 0) / 1000 - (time.monotonic() - self._taken)
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        found = await self._collector.take(self.options.in_flight_max)
        if len(found) < self.options.in_flight_max:  # else the rest follows at once
            self._taken = time.monotonic()
        return found

    async def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Do nothing: what a radio has sent does not come again."""


def now_ms() -> int:
    """Return the wall clock in unix ms."""
    return time.time_ns() // 1_000_000
