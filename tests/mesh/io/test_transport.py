"""The TCP transport: events in order, numbers never used twice, limits on dials, queues and connections, one line of fault."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest
import uvloop

from mycomesh.mesh.events import Address, ConnClosed, ConnDrained, ConnOpened, ConnReceived, DialFailed
from mycomesh.mesh.io import transport as module
from mycomesh.mesh.io.transport import Transport, TransportError

WAIT_S = 10  # only a broken transport takes this long


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a test's coroutine on each of the two loops."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def start(work):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(work, WAIT_S * 2))

    return start


class Node:
    """A transport that listens, what it told, and a way to wait for what it will tell."""

    def __init__(self, answer=None, *, loopback=False):
        self.events = []
        self.answer = answer
        self.told = asyncio.Event()
        self.transport = Transport(self.on_event, loopback=loopback)

    async def listening(self, port=0):
        await self.transport.start(port)
        return self

    async def __aenter__(self):
        return await self.listening()

    async def __aexit__(self, *_):
        await self.transport.close_all()

    def on_event(self, event):
        self.events.append(event)
        self.told.set()
        if self.answer is not None:
            self.answer(event)

    @property
    def local(self):
        return Address("127.0.0.1", self.transport.address.port)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def text(self, conn):
        return b"".join(event.data for event in self.of(ConnReceived) if event.conn == conn)

    async def until(self, check):
        async with asyncio.timeout(WAIT_S):
            while not check():
                self.told.clear()
                await self.told.wait()

    async def opened(self, number=1):
        await self.until(lambda: len(self.of(ConnOpened)) >= number)
        return self.of(ConnOpened)[number - 1].conn


def sink():
    """A listening socket that never accepts: a peer that does not read."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=1)
    return sock, Address("127.0.0.1", sock.getsockname()[1])


def test_bytes_go_both_ways_and_arrive_in_order(run):
    async def scene():
        async with Node() as alpha, Node() as bravo:
            alpha.transport.dial(bravo.local)
            there, here = await alpha.opened(), await bravo.opened()
            assert alpha.events[0] == ConnOpened(there, bravo.local, dialled=True)
            assert bravo.of(ConnOpened)[0].dialled is False
            assert bravo.of(ConnOpened)[0].address.host == "127.0.0.1"  # not ::ffff:127.0.0.1
            for number in range(100):
                alpha.transport.write(there, b"%03d" % number)
            bravo.transport.write(here, b"answer")
            wanted = b"".join(b"%03d" % number for number in range(100))
            await bravo.until(lambda: bravo.text(here) == wanted)
            await alpha.until(lambda: alpha.text(there) == b"answer")

    run(scene())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_one_port_answers_both_families(run, host):
    if host == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")

    async def scene():
        async with Node() as alpha, Node() as bravo:
            alpha.transport.dial(Address(host, bravo.local.port))
            await alpha.opened()
            await bravo.opened()
            assert bravo.of(ConnOpened)[0].address.host == host

    run(scene())


def listening_hosts(port):
    """The addresses on which this machine listens at a port, as the kernel lists them."""
    found = []
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(name).read_text().splitlines()[1:]:
            place, state = line.split()[1], line.split()[3]
            host, number = place.split(":")
            if state == "0A" and int(number, 16) == port:
                found.append(host)
    return found


def test_a_loopback_transport_listens_on_the_loopback_addresses_only(run):
    async def scene():
        async with Node(loopback=True) as alpha:
            hosts = listening_hosts(alpha.local.port)
            assert hosts[0] == "0100007F"
            assert hosts[1:] in ([], ["00000000000000000000000001000000"])
            async with Node() as bravo:
                assert all(set(host) == {"0"} for host in listening_hosts(bravo.local.port))

    run(scene())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_loopback_transport_answers_both_families(run, host):
    async def scene():
        async with Node(loopback=True) as alpha, Node(loopback=True) as bravo:
            alpha.transport.dial(Address(host, bravo.local.port))
            await bravo.opened()

    run(scene())


@pytest.mark.parametrize("host", ["10.0.0.1", "fe80::1%lo", "2001:db8::1"])
def test_a_loopback_transport_dials_no_network(run, host, monkeypatch):
    async def scene():
        async with Node(loopback=True) as alpha:
            monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("opened a socket"))
            alpha.transport.dial(Address(host, 7447))
            await alpha.until(lambda: alpha.events == [DialFailed(Address(host, 7447))])
            monkeypatch.undo()

    run(scene())


def test_a_free_port_is_free_on_both_loopback_addresses(run, monkeypatch):
    """The kernel proposes a port that another program has on ::1."""

    async def scene():
        proposed, bind = [], module._bound
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
            port = taken.getsockname()[1]

            def bound(sock, host, wanted):
                proposed.append((host, wanted))
                return bind(sock, host, port if len(proposed) == 1 else wanted)

            monkeypatch.setattr(module, "_bound", bound)
            async with Node(loopback=True) as alpha:
                assert alpha.local.port != port
                assert proposed[:2] == [("127.0.0.1", 0), ("::1", port)]

    run(scene())


def test_close_flushes_what_was_written_before_it(run):
    async def scene():
        async with Node() as alpha, Node() as bravo:
            alpha.transport.dial(bravo.local)
            there, here = await alpha.opened(), await bravo.opened()
            alpha.transport.write(there, b"x" * 1_000_000)
            alpha.transport.close(there)
            alpha.transport.write(there, b"too late")
            await bravo.until(lambda: ConnClosed(here) in bravo.events)
            assert bravo.text(here) == b"x" * 1_000_000
            await alpha.until(lambda: ConnClosed(there) in alpha.events)
            assert bravo.events[-1] == ConnClosed(here)

    run(scene())


def test_a_peer_that_does_not_read_frees_its_connection(run, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_S_MAX", 0.05)

    async def scene():
        sock, address = sink()
        with sock:
            async with Node() as alpha:
                alpha.transport.dial(address)
                conn = await alpha.opened()
                alpha.transport.write(conn, bytes(8 << 20))
                alpha.transport.close(conn)
                await alpha.until(lambda: ConnClosed(conn) in alpha.events)

    run(scene())


def test_numbers_are_never_used_again(run):
    async def scene():
        async with Node() as alpha, Node() as bravo:
            numbers = []
            for count in range(1, 6):
                alpha.transport.dial(bravo.local)
                conn = await alpha.opened(count)
                numbers.append(conn)
                alpha.transport.close(conn)
                await alpha.until(lambda conn=conn: ConnClosed(conn) in alpha.events)
            assert numbers == sorted(dict.fromkeys(numbers))
            assert len(numbers) == 5

    run(scene())


def test_core_may_close_connection_while_it_hears_of_it(run):
    """A crowded core answers `ConnOpened` with `Close` before the transport has returned from telling."""

    async def scene():
        bravo = Node(lambda event: bravo.transport.close(event.conn) if isinstance(event, ConnOpened) else None)
        async with Node() as alpha, bravo:
            alpha.transport.dial(bravo.local)
            conn = await alpha.opened()
            await alpha.until(lambda: ConnClosed(conn) in alpha.events)
            await bravo.until(lambda: bool(bravo.of(ConnClosed)))
            assert [type(event) for event in bravo.events] == [ConnOpened, ConnClosed]

    run(scene())


def test_a_dial_that_nobody_answers_fails_with_its_address(run):
    async def scene():
        with socket.create_server(("127.0.0.1", 0)) as gone:
            address = Address("127.0.0.1", gone.getsockname()[1])
        async with Node() as alpha:
            alpha.transport.dial(address)
            await alpha.until(lambda: alpha.events == [DialFailed(address)])

    run(scene())


@pytest.mark.parametrize("host", ["not an address", "fe80::1%nosuchlink0", "example.invalid", "", "1.2.3.4.5"])
def test_what_is_no_numeric_address_fails_like_any_other(run, host):
    async def scene():
        async with Node() as alpha:
            alpha.transport.dial(Address(host, 9))
            await alpha.until(lambda: alpha.events == [DialFailed(Address(host, 9))])

    run(scene())


def test_a_dial_into_silence_ends_at_its_limit(run, monkeypatch):
    monkeypatch.setattr(module, "DIAL_S_MAX", 0.05)

    async def scene():
        # A listening queue that is full drops further SYNs, as a host that is switched off does.
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address("127.0.0.1", full.getsockname()[1])
        waiting = []
        try:
            for _ in range(4):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(full.getsockname())
                waiting.append(one)
            async with Node() as alpha:
                alpha.transport.dial(address)
                await alpha.until(lambda: alpha.events == [DialFailed(address)])
        finally:
            for one in (full, *waiting):
                one.close()

    run(scene())


def test_an_address_is_dialled_once_at_a_time(run):
    async def scene():
        async with Node() as alpha, Node() as bravo:
            for _ in range(5):
                alpha.transport.dial(bravo.local)
            await alpha.opened()
            alpha.transport.dial(bravo.local)  # after an answer, it is a dial of its own
            await alpha.opened(2)
            await bravo.opened(2)
            assert len(alpha.of(ConnOpened)) == len(bravo.of(ConnOpened)) == 2

    run(scene())


def test_a_failed_dial_may_be_answered_by_dialling_again(run):
    async def scene():
        again = [3]

        def answer(event):
            if isinstance(event, DialFailed) and again[0]:
                again[0] -= 1
                alpha.transport.dial(event.address)

        with socket.create_server(("127.0.0.1", 0)) as gone:
            address = Address("127.0.0.1", gone.getsockname()[1])
        alpha = Node(answer)
        async with alpha:
            alpha.transport.dial(address)
            await alpha.until(lambda: alpha.events == [DialFailed(address)] * 4)

    run(scene())


def test_drained_is_told_when_long_queue_has_become_short(run):
    async def scene():
        async with Node() as alpha, Node() as bravo:
            alpha.transport.dial(bravo.local)
            conn, here = await alpha.opened(), await bravo.opened()
            alpha.transport.write(conn, b"little")
            await bravo.until(lambda: bravo.text(here) == b"little")
            assert alpha.of(ConnDrained) == []
            alpha.transport.write(conn, bytes(12 << 20))
            await alpha.until(lambda: bool(alpha.of(ConnDrained)))
            assert alpha.of(ConnDrained)[0] == ConnDrained(conn)

    run(scene())


def test_a_queue_beyond_its_limit_ends_the_connection(run, monkeypatch):
    monkeypatch.setattr(module, "WRITE_MAX", 1 << 20)

    async def scene():
        sock, address = sink()
        with sock:
            async with Node() as alpha:
                alpha.transport.dial(address)
                conn = await alpha.opened()
                for _ in range(32):
                    alpha.transport.write(conn, bytes(1 << 20))
                await alpha.until(lambda: ConnClosed(conn) in alpha.events)

    run(scene())


def test_connections_beyond_the_limit_are_not_taken(run, monkeypatch):
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 4)

    async def scene():
        async with Node() as bravo:
            socks = []
            try:
                for count in range(1, 5):
                    socks.append(socket.create_connection(("127.0.0.1", bravo.local.port)))
                    await bravo.opened(count)
                surplus = socket.create_connection(("127.0.0.1", bravo.local.port))
                socks.append(surplus)
                surplus.setblocking(False)
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(surplus, 1) == b""
                assert len(bravo.of(ConnOpened)) == 4
                socks[0].close()
                await bravo.until(lambda: len(bravo.of(ConnClosed)) == 1)
                socks.append(socket.create_connection(("127.0.0.1", bravo.local.port)))
                await bravo.opened(5)
            finally:
                for one in socks:
                    one.close()

    run(scene())


def test_connections_reset_before_accept_are_dropped_silently(run):
    """A traceback for each would fill the log and keep the members waiting."""

    async def scene():
        faults = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with Node() as node:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", node.local.port)) as gone:
                    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            async with Node() as other:
                other.transport.dial(node.local)
                await other.opened()
                # asyncio tells them first, because it knows who called; uvloop has to ask, too late.
                await node.until(lambda: len(node.of(ConnOpened)) - len(node.of(ConnClosed)) == 1)
        assert faults == []

    run(scene())


def test_a_deliberate_split_ends_connections_and_makes_none(run):
    async def scene():
        async with Node() as alpha, Node() as bravo:
            alpha.transport.dial(bravo.local)
            conn = await alpha.opened()
            await bravo.opened()
            alpha.transport.isolate(cut=True)
            await alpha.until(lambda: ConnClosed(conn) in alpha.events)
            alpha.transport.dial(bravo.local)
            await alpha.until(lambda: DialFailed(bravo.local) in alpha.events)
            bravo.transport.dial(alpha.local)
            await bravo.until(lambda: len(bravo.of(ConnClosed)) == 2)  # taken by the kernel, and ended at once
            assert len(alpha.of(ConnOpened)) == 1
            alpha.transport.isolate(cut=False)
            alpha.transport.dial(bravo.local)
            await alpha.opened(2)

    run(scene())


def test_what_is_asked_for_after_the_end_fails_quietly(run):
    async def scene():
        alpha = await Node().listening()
        async with Node() as bravo:
            alpha.transport.dial(bravo.local)
            conn = await alpha.opened()
            await alpha.transport.close_all()
            assert alpha.events[-1] == ConnClosed(conn)
            alpha.transport.write(conn, b"late")
            alpha.transport.close(conn)
            alpha.transport.dial(bravo.local)
            await alpha.until(lambda: alpha.events[-1] == DialFailed(bravo.local))
            await bravo.until(lambda: bool(bravo.of(ConnClosed)))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", alpha.local.port)

    run(scene())


def test_a_busy_port_is_one_clear_line(run):
    async def scene():
        async with Node() as alpha:
            with pytest.raises(TransportError, match=r"^port \d+ is in use by another program; .*--port.*$"):
                await Node().listening(alpha.local.port)

    run(scene())


def test_the_port_is_told_and_free_ones_differ(run):
    async def scene():
        async with Node() as alpha, Node() as bravo:
            ports = [one.transport.address.port for one in (alpha, bravo)]
            assert all(0 < port < 65_536 for port in ports)
            assert ports[0] != ports[1]
            assert Transport(print).address.port == 0

    run(scene())


def test_latency_is_not_held_back(run):
    """TCP_NODELAY and keep-alive are set at both ends: a lone heartbeat must leave at once, a dead peer must be noticed."""

    async def scene():
        seen = []

        class Spy(module._Connection):
            def connection_made(self, transport):
                super().connection_made(transport)
                sock = transport.get_extra_info("socket")
                nodelay = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                seen.append((nodelay, sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_Connection", Spy)
            async with Node() as alpha, Node() as bravo:
                alpha.transport.dial(bravo.local)
                await alpha.opened()
                await bravo.opened()
        assert [(bool(nodelay), bool(alive)) for nodelay, alive in seen] == [(True, True)] * 2

    run(scene())
