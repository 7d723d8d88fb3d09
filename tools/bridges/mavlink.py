"""The scheme `mavlink://`: vehicles that speak MAVLink, on a UDP port, a TCP server or a serial line, as rows.

Topics: `vehicles` (the latest state of each), `track` (each position), `texts` (what they say). A source of rows is named by the
node and the sender's address, since several nodes may each hear a vehicle of the default system 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.bridges.addresses import Feed, Source, open_feed, parse_address
from mycomesh.tools.bridges.row_scheme import RowScheme, now_ms, schema_of
from mycomesh.tools.bridges.scheme import Finding, Options, SchemeError
from mycomesh.tools.vehicles.mavlink import Fleet
from mycomesh.tools.vehicles.mavlink_frames import FrameReader, dialect

__all__ = ["MavlinkScheme"]

_PLACES = ("udpin", "udpout", "tcp", "serial")
_PORT = 14_550


class MavlinkScheme(RowScheme):
    """Vehicles of one port or line."""

    kinds: ClassVar[Mapping[str, str]] = {"vehicles": "vehicles", "track": "track", "texts": "texts"}
    schema = schema_of(kinds)
    extra = "mavlink"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        try:
            dialect()
        except NodeError as error:
            raise SchemeError(str(error)) from error
        self._address = parse_address(options.url, _PLACES, _PORT)
        self._fleet = Fleet(self._notify_shared)
        self._reader = FrameReader()
        self._source: Source | None = None
        self._seen = (0, 0)  # damaged bytes and dropped messages so far

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL that is no address, and unknown topics."""
        super().check(options)
        parse_address(options.url, _PLACES, _PORT)

    def _notify_shared(self, text: str) -> None:
        self.options.notify("bridge.shared_id", text)

    async def connect(self) -> None:
        """Open the port or the line."""
        self._collector.reset()
        self._reader = FrameReader()
        self._seen = (0, self._fleet.dropped)
        self._source = await open_feed(self._address, Feed(self._on_data, self._collector.fail, self.count_drops))

    async def close(self) -> None:
        """Close it."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _on_data(self, data: bytes, host: str, port: int) -> None:
        at = now_ms()
        datagram = self._address.kind.startswith("udp")
        name = f"{self.options.node} {host}"
        for message in self._reader.feed(data, whole=datagram):
            self.put(self._fleet.take(name, message, at, port))
        damaged, dropped = self._reader.damaged, self._fleet.dropped
        if (damaged, dropped) != self._seen:
            self.options.count("damaged", damaged - self._seen[0])
            self.count_drops(dropped - self._seen[1])
            self._seen = (damaged, dropped)

    async def probe(self) -> list[Finding]:
        """Say that the address is open; nothing is sent to vehicles."""
        return [Finding("open", good=True, text=f"{self._address} is open; 'bridge status' counts what is received")]
