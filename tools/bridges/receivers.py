"""The schemes `sbs://`, `ais://` and `gpsd://`: receivers of aircraft, of ships, and of this machine's own position, as rows.

Each speaks lines, over TCP or, for AIS, in datagrams.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from mycomesh.tools.bridges.addresses import Feed, Source, open_feed, parse_address
from mycomesh.tools.bridges.row_scheme import RowScheme, now_ms, schema_of
from mycomesh.tools.bridges.scheme import Finding, Options
from mycomesh.tools.vehicles.gpsd import WATCH, GpsdReader
from mycomesh.tools.vehicles.rows import Row
from mycomesh.tools.vehicles.sbs import SbsReader

__all__ = ["AisScheme", "GpsdScheme", "SbsScheme"]

LINE_BYTES_MAX = 65_536  # a stream without an end of line is thrown away beyond it


class LineReader(Protocol):
    """A codec of lines."""

    damaged: int

    def feed(self, line: bytes, at: int) -> Row | None:
        """Take one line; return a row that it says."""


class LineScheme(RowScheme):
    """Lines of one receiver; a subclass names the codec and the port."""

    places: ClassVar[tuple[str, ...]] = ("tcp",)
    port: ClassVar[int]
    greeting: ClassVar[bytes] = b""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._address = parse_address(options.url, self.places, self.port)
        self._reader = self.reader(options)
        self._rest = b""
        self._source: Source | None = None
        self._damaged = 0

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL that is no address, and unknown topics."""
        super().check(options)
        parse_address(options.url, cls.places, cls.port)

    @staticmethod
    def reader(options: Options) -> LineReader:
        """Return the codec."""
        raise NotImplementedError

    async def connect(self) -> None:
        """Connect to the receiver, or open the port."""
        self._collector.reset()
        self._rest = b""
        self._source = await open_feed(self._address, Feed(self._on_data, self._collector.fail, self.count_drops))
        if self.greeting:
            self._source.send(self.greeting)

    async def close(self) -> None:
        """Disconnect."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _on_data(self, data: bytes, host: str, port: int) -> None:
        del host, port
        lines = (self._rest + data).split(b"\n")
        self._rest = b"" if self._address.kind == "udpin" else lines.pop()
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest = b""
            self._reader.damaged += 1
        at = now_ms()
        self.put(row for line in lines if (row := self._reader.feed(line, at)) is not None)
        if self._reader.damaged != self._damaged:
            self.options.count("damaged", self._reader.damaged - self._damaged)
            self._damaged = self._reader.damaged

    async def probe(self) -> list[Finding]:
        """Say that the receiver is reached."""
        return [Finding("connect", good=True, text=f"{self._address} is open; 'bridge status' counts what is received")]


class SbsScheme(LineScheme):
    """Aircraft of dump1090, readsb or another BaseStation server."""

    kinds: ClassVar[Mapping[str, str]] = {"aircraft": "aircraft"}
    schema = schema_of(kinds)
    port = 30_003

    @staticmethod
    def reader(options: Options) -> LineReader:
        """Return the codec."""
        del options
        return SbsReader()


class AisScheme(LineScheme):
    """Ships of an AIS receiver, by TCP or UDP."""

    kinds: ClassVar[Mapping[str, str]] = {"ships": "ships"}
    schema = schema_of(kinds)
    places = ("tcp", "udpin")
    port = 10_110
    extra = "ais"

    @staticmethod
    def reader(options: Options) -> LineReader:
        """Return the codec; pyais is loaded here, so that the other schemes of this module do without it."""
        del options
        from mycomesh.tools.vehicles.ais import AisReader  # noqa: PLC0415

        return AisReader()


class GpsdScheme(LineScheme):
    """The position of this machine."""

    kinds: ClassVar[Mapping[str, str]] = {"position": "position"}
    schema = schema_of(kinds)
    port = 2_947
    greeting = WATCH

    @staticmethod
    def reader(options: Options) -> LineReader:
        """Return the codec."""
        return GpsdReader(options.node)
