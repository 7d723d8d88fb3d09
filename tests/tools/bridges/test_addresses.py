"""Sockets and serial lines of vehicles: drained, counted, and named in errors."""

from __future__ import annotations

import asyncio
import os
import pty
import socket

import pytest

from mycomesh.tools.bridges import addresses
from mycomesh.tools.bridges.addresses import Address, Feed, open_feed, parse_address
from mycomesh.tools.bridges.receivers import LINE_BYTES_MAX, AisScheme, GpsdScheme, SbsScheme
from mycomesh.tools.bridges.scheme import LinkError, Options, SchemeError
from tests.free_ports import free_port
from tests.tools.vehicles.test_receivers import POSITION, message, sentences, tpv


class Ear:
    """Keeps the data of a feed."""

    def __init__(self):
        self.data, self.ended, self.dropped = [], [], 0
        self.feed = Feed(lambda data, host, port: self.data.append((data, host, port)), self.ended.append, self.drop)

    def drop(self, count):
        self.dropped += count


async def until(check):
    for _ in range(500):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 5 s")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("m://udpin:0.0.0.0:14550", Address("udpin", "0.0.0.0", 14550)),
        ("m://udpin:14550", Address("udpin", "0.0.0.0", 14550)),
        ("m://10.0.0.5", Address("udpin", "10.0.0.5", 7)),
        ("m://tcp:host:5760", Address("tcp", "host", 5760)),
        ("m://udpout:[::1]:5", Address("udpout", "::1", 5)),
        ("m:///dev/ttyUSB0?baud=115200", Address("serial", place="/dev/ttyUSB0", baud=115_200)),
    ],
)  # fmt: skip
def test_addresses_are_read_from_urls(url, found):
    assert parse_address(url, ("udpin", "udpout", "tcp", "serial"), 7) == found


@pytest.mark.parametrize("url", ["m://", "m://a:b", "m://h:0", "m://h:5/x", "m://tcp:h:1", "m:///dev/x"])
def test_other_urls_are_refused(url):
    with pytest.raises(SchemeError):
        parse_address(url, ("udpin",), 0)


def test_datagrams_are_drained_and_drops_counted(monkeypatch):
    monkeypatch.setattr(addresses, "RECEIVE_BUFFER_BYTES", 4_096)
    port = free_port()

    async def run():
        ear = Ear()
        source = await open_feed(Address("udpin", "127.0.0.1", port), ear.feed)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(300):
                sender.sendto(b"%d" % number, ("127.0.0.1", port))
            await until(lambda: ear.data)
            await asyncio.sleep(0.05)
            sender.sendto(b"last", ("127.0.0.1", port))  # says how many were dropped before it
            await until(lambda: ear.data[-1][0] == b"last")
            port_of_sender = sender.getsockname()[1]
        source.close()
        assert ear.data[0] == (b"0", "127.0.0.1", port_of_sender)
        return len(ear.data), ear.dropped

    came, dropped = asyncio.run(run())
    assert dropped > 0
    assert came + dropped == 301


def test_datagram_as_long_as_the_limit_is_read():
    port = free_port()

    async def run():
        ear = Ear()
        source = await open_feed(Address("udpin", "127.0.0.1", port), ear.feed)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x" * 65_507, ("127.0.0.1", port))  # the longest of IPv4, below DATAGRAM_BYTES_MAX
        await until(lambda: ear.data)
        source.close()
        return len(ear.data[0][0])

    assert asyncio.run(run()) == 65_507 < addresses.DATAGRAM_BYTES_MAX


def test_wake_up_reads_no_more_than_its_share(monkeypatch):
    monkeypatch.setattr(addresses, "DRAIN_MAX", 3)
    port = free_port()

    async def run():
        ear = Ear()
        source = await open_feed(Address("udpin", "127.0.0.1", port), ear.feed)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(8):
                sender.sendto(b"x", ("127.0.0.1", port))
        source._drain()
        first = len(ear.data)
        await until(lambda: len(ear.data) == 8)
        source.close()
        return first

    assert asyncio.run(run()) == 3


def test_serial_line_is_read_until_unplugged():
    pytest.importorskip("serial")

    async def run():
        ear = Ear()
        ours, theirs = pty.openpty()
        source = await open_feed(Address("serial", place=os.ttyname(theirs), baud=57_600), ear.feed)
        os.write(ours, b"\xfe\x01")
        await until(lambda: b"".join(data for data, _, _ in ear.data) == b"\xfe\x01")
        os.close(theirs)
        os.close(ours)
        await until(lambda: ear.ended)
        source.close()
        return ear.ended[0]

    assert "is it still plugged in?" in asyncio.run(run())


def test_missing_places_are_named():
    with pytest.raises(LinkError, match="cannot be opened"):
        asyncio.run(open_feed(Address("tcp", "127.0.0.1", free_port()), Ear().feed))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = Address("udpin", "127.0.0.1", other.getsockname()[1])
        with pytest.raises(LinkError, match="cannot be opened"):
            asyncio.run(open_feed(taken, Ear().feed))


def test_a_missing_serial_line_is_named():
    pytest.importorskip("serial", reason="needs pyserial")
    with pytest.raises(LinkError, match="cannot be opened"):
        asyncio.run(open_feed(Address("serial", place="/dev/ttyNONE", baud=57_600), Ear().feed))


LINES = {
    SbsScheme: (message(3, "a3c6bd", lat=47.0, lon=8.0), "aircraft", b""),
    AisScheme: (sentences(**POSITION)[0] + b"\r\n", "ships", b""),
    GpsdScheme: (tpv(), "position", b"?WATCH"),
}


@pytest.mark.parametrize("scheme", LINES, ids=lambda scheme: scheme.__name__)
def test_lines_of_a_receiver_become_rows(scheme):
    line, topic, greeting = LINES[scheme]
    counted = []

    async def run():
        greeted = asyncio.Event()

        async def serve(reader, writer):
            if greeting:
                assert (await reader.readline()).startswith(greeting)
            greeted.set()
            writer.write(b"x" * (LINE_BYTES_MAX + 1))  # no end of line
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(b"\n" + line[:20])
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.write(line[20:])
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        options = Options(
            f"{topic}://127.0.0.1:{port}", "r", "pi7", incoming=(topic,), count=lambda *pair: counted.append(pair)
        )
        receiver = scheme(options)
        await receiver.connect()
        await greeted.wait()
        (arrival,) = await receiver.receive()
        with pytest.raises(LinkError, match="has ended the connection"):
            await receiver.receive()
        await receiver.close()
        server.close()
        return arrival

    arrival = asyncio.run(run())
    assert (arrival.topic, arrival.values["lat"] > 0) == (topic, True)
    assert sum(more for name, more in counted if name == "damaged") >= 1


def test_ships_come_by_datagram_too():
    port = free_port()

    async def run():
        receiver = AisScheme(Options(f"ais://udpin:127.0.0.1:{port}", "r", incoming=("ships",)))
        await receiver.connect()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(sentences(**POSITION)[0], ("127.0.0.1", port))  # without an end of line
        (arrival,) = await receiver.receive()
        await receiver.close()
        return arrival.values["mmsi"]

    assert asyncio.run(run()) == POSITION["mmsi"]
