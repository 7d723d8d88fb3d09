"""The TCP transport over loopback, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from mesh.events import Address, ConnClosed, ConnDrained, ConnOpened, ConnReceived, DialFailed
from mesh.io import transport as module
from mesh.io.transport import Transport, TransportError

WAIT_S = 20  # only a broken transport takes this long


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine to its end on one kind of loop."""

    def run(coroutine):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, WAIT_S))

    return run


class Side:
    """A transport and the events that it has given."""

    def __init__(self):
        self.events = []
        self.answer = lambda event: None
        self._news = asyncio.Event()
        self.transport = Transport(self._take)

    async def listen(self):
        await self.transport.start(0)
        return Address("127.0.0.1", self.transport.address.port)

    def _take(self, event):
        self.events.append(event)
        self.answer(event)
        self._news.set()

    async def until(self, check):
        """Wait until the events satisfy a check; return what it returned."""
        while not (found := check()):
            self._news.clear()
            await self._news.wait()
        return found

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    async def first(self, kind):
        return (await self.until(lambda: self.of(kind)))[0]

    def data(self, conn):
        return b"".join(event.data for event in self.of(ConnReceived) if event.conn == conn)


async def linked():
    """Two sides with one connection; returns (dialler, its conn, listener, its conn)."""
    near, far = Side(), Side()
    address = await far.listen()
    near.transport.dial(address)
    here = await near.first(ConnOpened)
    there = await far.first(ConnOpened)
    return near, here.conn, far, there.conn


async def stranger(side, **options):
    """A plain socket connected to a side, and its number there."""
    sock = socket.create_connection(("127.0.0.1", side.transport.address.port), **options)
    seen = len(side.of(ConnOpened))
    await side.until(lambda: len(side.of(ConnOpened)) > seen)
    return sock, side.of(ConnOpened)[-1].conn


def test_a_dial_opens_a_connection_on_both_sides(run):
    async def story():
        near, _, far, _ = await linked()
        here, there = await near.first(ConnOpened), await far.first(ConnOpened)
        assert here.dialled
        assert here.address == Address("127.0.0.1", far.transport.address.port)
        assert not there.dialled
        assert there.address.host == "127.0.0.1", "IPv4 is shown as IPv4 though the socket is an IPv6 one"
        await near.transport.close_all()
        await far.transport.close_all()

    run(story())


def test_ipv6_is_served_by_the_same_port(run):
    async def story():
        near, far = Side(), Side()
        port = (await far.listen()).port
        near.transport.dial(Address("::1", port))
        assert (await far.first(ConnOpened)).address.host == "::1"
        assert await near.first(ConnOpened) == ConnOpened(1, Address("::1", port), dialled=True)
        await near.transport.close_all()
        await far.transport.close_all()

    run(story())


def test_bytes_arrive_whole_and_in_order_both_ways(run):
    async def story():
        near, here, far, there = await linked()
        up, down = bytes(range(256)) * 8_192, bytes(reversed(range(256))) * 4_096
        for at in range(0, len(up), 50_000):
            near.transport.write(here, up[at : at + 50_000])
        far.transport.write(there, down)
        await far.until(lambda: len(far.data(there)) == len(up))
        await near.until(lambda: len(near.data(here)) == len(down))
        assert far.data(there) == up
        assert near.data(here) == down
        await near.transport.close_all()
        await far.transport.close_all()

    run(story())


def test_a_refused_dial_is_told(run):
    async def story():
        with socket.socket() as held:  # bound, not listening: nobody else gets the port
            held.bind(("127.0.0.1", 0))
            address = Address("127.0.0.1", held.getsockname()[1])
            side = Side()
            side.transport.dial(address)
            assert await side.first(DialFailed) == DialFailed(address)
        assert side.events == [DialFailed(address)]

    run(story())


@pytest.mark.parametrize("host", ["drone.example", "300.1.1.1", "fe80::1%nosuch0", "a\0b"])
def test_an_address_that_is_none_is_a_failed_dial(run, host):
    async def story():
        side = Side()
        side.transport.dial(Address(host, 7447))
        assert await side.first(DialFailed) == DialFailed(Address(host, 7447))

    run(story())


def test_a_dial_that_nobody_answers_is_given_up(run, monkeypatch):
    monkeypatch.setattr(module, "DIAL_S_MAX", 0.05)

    async def story():
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            address = Address("127.0.0.1", deaf.getsockname()[1])
            with socket.create_connection(deaf.getsockname()):  # fills the backlog: the next SYN is dropped
                side = Side()
                side.transport.dial(address)
                assert await side.first(DialFailed) == DialFailed(address)

    run(story())


def test_the_answer_to_a_failed_dial_may_be_to_dial_again(run):
    async def story():
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            address = Address("127.0.0.1", held.getsockname()[1])
            side = Side()
            side.answer = lambda _: side.transport.dial(address) if len(side.events) < 3 else None
            side.transport.dial(address)
            await side.until(lambda: len(side.of(DialFailed)) == 3)

    run(story())


def test_a_dial_under_way_is_not_doubled(run):
    async def story():
        near, far = Side(), Side()
        address = await far.listen()
        near.transport.dial(address)
        near.transport.dial(address)
        conn = (await near.first(ConnOpened)).conn
        near.transport.write(conn, b"x")
        await far.first(ConnReceived)
        assert len(far.of(ConnOpened)) == 1
        await near.transport.close_all()
        await far.transport.close_all()

    run(story())


def test_close_flushes_what_was_written(run):
    async def story():
        near, here, far, there = await linked()
        words = b"w" * 3_000_000
        near.transport.write(here, words)
        near.transport.close(here)
        await far.first(ConnClosed)
        assert far.data(there) == words
        assert await near.first(ConnClosed) == ConnClosed(here)
        near.transport.write(here, b"too late")  # nothing happens
        near.transport.close(here)
        await far.transport.close_all()

    run(story())


def test_a_peer_that_does_not_read_cannot_hold_a_closed_connection(run, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_S_MAX", 0.05)

    async def story():
        side = Side()
        await side.listen()
        sock, conn = await stranger(side)
        with sock:
            side.transport.write(conn, bytes(8 << 20))  # more than the kernel's buffers of both ends take
            side.transport.close(conn)
            assert await side.first(ConnClosed) == ConnClosed(conn)
        await side.transport.close_all()

    run(story())


def test_drained_is_told_once_the_peer_has_read(run):
    async def story():
        side = Side()
        await side.listen()
        sock, conn = await stranger(side)
        count = 8 << 20
        with sock:
            side.transport.write(conn, bytes(count))
            side.transport.write(conn, b"!")
            assert not side.of(ConnDrained)
            reader, writer = await asyncio.open_connection(sock=sock)
            await reader.readexactly(count + 1)
            await side.first(ConnDrained)
            writer.close()
            await side.first(ConnClosed)
        assert side.of(ConnDrained) == [ConnDrained(conn)]
        await side.transport.close_all()

    run(story())


def test_a_peer_that_stops_reading_is_given_up(run):
    async def story():
        side = Side()
        await side.listen()
        sock, conn = await stranger(side)
        with sock:
            for _ in range(3 * module.WRITE_MAX >> 20):
                side.transport.write(conn, bytes(1 << 20))
            assert await side.first(ConnClosed) == ConnClosed(conn)
        await side.transport.close_all()

    run(story())


def test_a_connection_that_the_peer_half_closes_ends(run):
    async def story():
        side = Side()
        await side.listen()
        sock, conn = await stranger(side)
        with sock:
            sock.sendall(b"last words")
            sock.shutdown(socket.SHUT_WR)
            assert await side.first(ConnClosed) == ConnClosed(conn)
        assert side.data(conn) == b"last words"
        assert side.events[-1] == ConnClosed(conn)
        await side.transport.close_all()

    run(story())


def test_a_number_is_never_used_again(run):
    async def story():
        side = Side()
        await side.listen()
        for number in (1, 2, 3):
            sock, conn = await stranger(side)
            assert conn == number
            sock.close()
            await side.until(lambda number=number: len(side.of(ConnClosed)) == number)
        assert side.of(ConnClosed) == [ConnClosed(1), ConnClosed(2), ConnClosed(3)]
        await side.transport.close_all()

    run(story())


def test_a_connection_may_be_refused_while_it_is_announced(run):
    async def story():
        side = Side()
        side.answer = lambda event: side.transport.close(event.conn) if isinstance(event, ConnOpened) else None
        await side.listen()
        sock, conn = await stranger(side)
        with sock:
            assert await side.first(ConnClosed) == ConnClosed(conn)
            assert await _ended(sock)
        await side.transport.close_all()

    run(story())


def test_connections_are_bounded(run, monkeypatch):
    monkeypatch.setattr(module, "TAKEN_MAX", 2)

    async def story():
        side = Side()
        await side.listen()
        first, _ = await stranger(side)
        second, _ = await stranger(side)
        third = socket.create_connection(("127.0.0.1", side.transport.address.port))
        with first, second, third:
            assert await _ended(third)
            first.close()
            await side.first(ConnClosed)
            fourth, conn = await stranger(side)
            fourth.close()
        assert conn == 3
        await side.transport.close_all()

    run(story())


def test_a_node_cut_off_on_purpose_has_no_connections_until_that_ends(run):
    async def story():
        near, here, far, there = await linked()
        address = Address("127.0.0.1", far.transport.address.port)
        near.transport.isolate(cut=True)
        assert await near.first(ConnClosed) == ConnClosed(here)
        assert await far.first(ConnClosed) == ConnClosed(there)
        near.transport.dial(address)
        await near.first(DialFailed)
        near.transport.isolate(cut=False)
        near.transport.dial(address)
        await near.until(lambda: len(near.of(ConnOpened)) == 2)
        await far.until(lambda: len(far.of(ConnOpened)) == 2)
        far.transport.isolate(cut=True)
        near.transport.dial(address)  # taken by the kernel, then ended without an event on the far side
        await near.until(lambda: len(near.of(ConnClosed)) == 3)
        assert len(far.of(ConnOpened)) == 2
        await near.transport.close_all()
        await far.transport.close_all()

    run(story())


def test_close_all_ends_connections_dials_and_listening(run):
    async def story():
        near, here, far, _ = await linked()
        near.transport.write(here, b"bye" * 100_000)
        await near.transport.close_all()
        await far.first(ConnClosed)
        assert len(b"".join(event.data for event in far.of(ConnReceived))) == 300_000
        port = far.transport.address.port
        await far.transport.close_all()
        near.transport.dial(Address("127.0.0.1", port))
        assert await near.first(DialFailed) == DialFailed(Address("127.0.0.1", port))

    run(story())


def test_a_busy_port_is_one_line_with_what_to_do(run):
    async def story():
        with socket.socket(socket.AF_INET6) as other:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            other.bind(("::", 0))
            other.listen()
            port = other.getsockname()[1]
            with pytest.raises(TransportError) as caught:
                await Side().transport.start(port)
        assert str(caught.value) == (
            f"port {port} is in use by another program; give another with --port, or leave it out for any free one"
        )

    run(story())


async def _ended(sock):
    """Whether the other side ends this connection without a word."""
    try:
        return await asyncio.to_thread(sock.recv, 1) == b""
    except ConnectionResetError:
        return True
