"""The scheme `tak://`: a TAK server on each node, which ATAK and WinTAK connect to; or a client of another TAK server.

Rows of the tables in `out` are events on the screens; a topic of `out` is the type of its events, such as `a-f-A-M-H-Q` or
`{type}`. Topics of `in`: `positions` of the people and vehicles that connect, `markers` that they set, `chat`, `alerts`. Like
every TAK server, it hands events of one client to the others, so that screens of one node do not wait for the database.

An event that is not later than the known one of its uid changes nothing. So two nodes on one multicast group end.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mycomesh.tools.bridges.addresses import Address, Feed, Source, open_feed, parse_address
from mycomesh.tools.bridges.row_scheme import RowScheme, now_ms, schema_of
from mycomesh.tools.bridges.scheme import Finding, Limits, LinkError, Message, Options, SchemeError
from mycomesh.tools.bridges.tak_clients import SHARE_MAX, Client, Clients, Listener, tls_context
from mycomesh.tools.bridges.tak_picture import Item, Picture
from mycomesh.tools.vehicles.cot import EVENT_BYTES_MAX, CotError, Event, write_event
from mycomesh.tools.vehicles.rows import Row
from mycomesh.tools.vehicles.tak_rows import (
    delete_event,
    deleted_uid,
    event_of_row,
    row_of_event,
    topic_of,
    uid_of_row,
)

__all__ = ["TakScheme"]

PORT = 8_087
OWN = "mycomesh."  # begins the uid of an event that is made of a row
AHEAD_MS = 300_000
PRUNE_MS = 1_000  # between two looks at the items of a client that has brought its share
STALE_S_MAX = 366 * 86_400
PING, PONG = "t-x-c-t", "t-x-c-t-r"
SETTINGS: Mapping[str, Any] = {
    "every_ms": 200,
    "connect": False,
    "tls": False,
    "cert": "",
    "key": "",
    "stale_s": 300,
    "multicast": "",
    "interface": "",
}


class TakScheme(RowScheme):
    """A TAK server, or with `connect = true` a client of one."""

    kinds: ClassVar[Mapping[str, str]] = {"positions": "items", "markers": "items", "chat": "chat", "alerts": "alerts"}
    schema = schema_of(kinds)
    settings = SETTINGS
    limits = Limits(payload_max=EVENT_BYTES_MAX, retained=True)
    deletes_by_key = True
    extra = "tak"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._more = {**SETTINGS, **options.more}
        serves = not self._more["connect"]
        self.everywhere = serves  # each node serves its own clients; of a foreign server one node is the client
        self.returns_rows = serves
        self._address = parse_address(options.url, ("tcp",), PORT)
        self._picture = Picture()
        self._clients = Clients(Listener(self._on_client, self._on_event, self._on_damage, self._collector.fail))
        self._group: Source | None = None

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL that is no address, unknown topics, and TLS without its files."""
        super().check(options)
        parse_address(options.url, ("tcp",), PORT)
        more = {**SETTINGS, **options.more}
        if not 1 <= more["stale_s"] <= STALE_S_MAX:
            raise SchemeError(f"stale_s must be 1..{STALE_S_MAX:,}")
        if more["tls"] and not more["connect"] and not more["cert"]:
            raise SchemeError("tls = true needs cert = FILE and key = FILE, the server's certificate in PEM")
        if (more["cert"] or more["key"] or options.ca) and not more["tls"]:
            raise SchemeError("cert, key and ca are for TLS; set tls = true")
        for name in ("cert", "key"):
            if more[name] and not Path(more[name]).is_file():
                raise SchemeError(f"there is no file {more[name]} for {name!r}")
        _group_of(more)

    async def connect(self) -> None:
        """Begin to listen, or connect to the other server; join the multicast group if there is one."""
        self._collector.reset()
        more = self._more
        tls = None
        if more["tls"]:
            tls = tls_context(serve=not more["connect"], cert=more["cert"], key=more["key"], ca=self.options.ca)
        if more["connect"]:
            await self._clients.connect(self._address, tls)
        else:
            await self._clients.serve(self._address, tls)
        group = _group_of(more)
        if group is not None:
            feed = Feed(self._on_datagram, lambda _why: None, self.count_drops)
            self._group = await open_feed(group, feed)

    async def close(self) -> None:
        """End all connections."""
        await self._clients.close()
        if self._group is not None:
            self._group.close()
            self._group = None

    # ---- events that come

    def _on_client(self, client: Client) -> None:
        if self._more["connect"]:  # while it was out of reach, the server has kept what ended
            for uid, data in self._picture.ended(now_ms()):
                client.send(f"delete {uid}", data)
        for uid, data in self._picture.current(now_ms()):
            client.send(uid, data)

    def _on_damage(self, count: int) -> None:
        self.options.count("damaged", count)

    def _on_datagram(self, data: bytes, host: str, port: int) -> None:
        del host, port
        try:
            event = importlib.import_module("mycomesh.tools.vehicles.tak_mesh").unpack(data)
        except CotError:
            self._on_damage(1)
            return
        self._on_event(None, event, b"")

    def _on_event(self, client: Client | None, event: Event, data: bytes) -> None:
        if event.type == PING and client is not None:
            now = now_ms()
            client.send("takPong", write_event(Event("takPong", PONG, "m-g", now, now, now + 20_000)))
            return
        topic = topic_of(event)
        if topic == "deletes":
            self._on_delete(client, event, data)
            return
        if not topic or event.uid.startswith(OWN):
            return
        known = self._picture.get(event.uid)
        if known is not None and event.time <= known.time:
            return
        if client is not None and not self._admit(client, event, topic):
            return
        row = row_of_event(event)
        data = data or write_event(event)
        said = min(event.time, now_ms() + AHEAD_MS)  # a clock that is far ahead does not silence later events
        self._picture.put(event.uid, Item(data, event.stale, said, topic, row.values))
        self._spread(client, event.uid, data, _destinations(event))
        if client is not None and self._group is not None:
            self._send_to_group(event)
        if topic in self._wanted:
            self._collector.put(topic, row)
        self.count_drops()

    def _admit(self, client: Client, event: Event, topic: str) -> bool:
        """Return False if a client brings more items than its share."""
        if topic == "positions" and not client.callsign:
            client.callsign = event.attribute("contact", "callsign")
        if event.uid in client.brought:
            return True
        if len(client.brought) >= SHARE_MAX and now_ms() - client.pruned_ms >= PRUNE_MS:
            client.pruned_ms = now_ms()
            self._picture.prune(client.pruned_ms)  # its old messages of chat, for example
            client.brought = {uid for uid in client.brought if self._picture.get(uid) is not None}
        if len(client.brought) >= SHARE_MAX:
            self.count_drops(1)
            return False
        client.brought.add(event.uid)
        return True

    def _on_delete(self, client: Client | None, event: Event, data: bytes) -> None:
        uid = deleted_uid(event)
        if not uid or uid.startswith(OWN):
            return
        known = self._picture.remove(uid)
        if client is not None:
            client.brought.discard(uid)
        self._spread(client, f"delete {uid}", data or write_event(event), frozenset())
        topics = (known.topic,) if known is not None and known.topic else ("positions", "markers", "alerts")
        for topic in topics:
            if topic in self._wanted and topic != "chat":
                self._collector.put(topic, Row(self.kinds[topic], {"uid": uid}, delete=True))

    def _spread(self, sender: Client | None, uid: str, data: bytes, destinations: frozenset[str]) -> None:
        for client in self._clients:
            if client is not sender and (not destinations or client.callsign in destinations):
                client.send(uid, data)

    # ---- rows that go

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:
        """Let rows wait for every client; a row without a place is no event.

        Raises:
            LinkError: the other server is out of reach.
        """
        if self._more["connect"] and not len(self._clients):
            raise LinkError(f"the connection to {self._address} was lost")
        for message in messages:
            self._publish(message, now_ms())
        return [""] * len(messages)

    def _publish(self, message: Message, now: int) -> None:
        table, key, values = message.table, message.key, message.values
        if message.op == "delete":
            uid = self._picture.forget_row(table, key) or uid_of_row(table, key, values)
            gone = delete_event(uid, now)
            data = write_event(gone)
            self._picture.remove(uid)
            if self._more["connect"]:
                self._picture.end(uid, data, gone.stale, now)
            self._send(f"delete {uid}", data)
            return
        event = event_of_row(table, key, values, message.topic, now, self._more["stale_s"] * 1000)
        if event is None:
            return
        self._picture.name_row(table, key, event.uid)
        known = self._picture.get(event.uid)
        if known is not None and known.row is not None and _is_same(known.row, values):
            return  # it came from a client here, and all others have it
        if event.stale <= now:
            return
        data = write_event(event)
        if known is not None and known.data == data:
            return
        if known is not None and event.time <= known.time and known.time < now:
            event.stale += now - event.time  # an UPDATE that left the row's time as it was
            event.time = event.start = now
            data = write_event(event)
        if len(data) > EVENT_BYTES_MAX:
            return
        topic = "" if known is None else known.topic
        self._picture.put(event.uid, Item(data, event.stale, event.time, topic))
        self._send(event.uid, data)

    def _send(self, uid: str, data: bytes) -> None:
        for client in self._clients:
            client.send(uid, data)
        if self._group is not None:
            self._group.send(importlib.import_module("mycomesh.tools.vehicles.tak_mesh").pack(data))

    def _send_to_group(self, event: Event) -> None:
        assert self._group is not None
        self._group.send(importlib.import_module("mycomesh.tools.vehicles.tak_mesh").pack(write_event(event)))

    async def probe(self) -> list[Finding]:
        """Say that the server listens, or that the other server is reached."""
        what = "reached" if self._more["connect"] else "ready for clients"
        return [Finding("connect", good=True, text=f"{self._address} is {what}")]


def _is_same(row: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return whether a row still has what it came in with; other columns of the table do not count."""
    return all(values.get(name) == value for name, value in row.items() if name in values)


def _destinations(event: Event) -> frozenset[str]:
    """Return the callsigns that an event is meant for; empty for everyone."""
    marti = event.find("marti")
    if marti is None:
        return frozenset()
    return frozenset(dest.get("callsign", "") for dest in marti.findall("dest")) - {"", "All Streaming"}


def _group_of(more: Mapping[str, Any]) -> Address | None:
    """Return the multicast group of a section."""
    text = more["multicast"]
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    first = host.partition(".")[0]
    if not colon or not port.isdigit() or not first.isdigit() or not 224 <= int(first) <= 239:
        raise SchemeError(f'multicast must be like "239.2.3.1:6969", not {text!r}')
    with contextlib.suppress(ImportError):
        importlib.import_module("takproto")
        return Address("group", host, int(port), more["interface"])
    raise SchemeError("multicast needs takproto, which is not installed; run: pip install 'mycomesh[tak]'")
