"""Connections over a real NATS server: what strangers may do there is bounded, and losses end a stream."""

import asyncio
import itertools
import json
import os
from pathlib import Path

import nats
import pytest

from mycomesh.mesh.address import nats_address
from mycomesh.mesh.events import AddressFound, ConnClosed, ConnDrained, ConnOpened, ConnReceived, DialFailed
from mycomesh.mesh.io import nats_links as module
from mycomesh.mesh.io.nats_client import NatsServer
from mycomesh.mesh.io.nats_links import NatsLinks, tag_of
from mycomesh.mesh.io.subject_stream import WINDOW_BYTES_MAX, Frame, Kind
from mycomesh.mesh.io.transport import WRITE_MAX
from tests.mesh.mailbox.servers import UNCLOSED, Nats

MESH = bytes(range(16))
WAIT_S = 20
STRANGER = b"stranger"

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


class Node:
    """One end, and what it told."""

    def __init__(self, server, name="alone"):
        self.events, self.notices = [], []
        self.told = asyncio.Event()
        at = NatsServer("127.0.0.1", server.ports[name])
        self.links = NatsLinks(at, MESH, self.on_event, self.notices.append, itertools.count(1), os.urandom)

    def on_event(self, event):
        self.events.append(event)
        self.told.set()

    async def __aenter__(self):
        self.links.start(lambda: 1)
        await self.until(lambda: self.notices)
        return self

    async def __aexit__(self, *_):
        await self.links.close_all()

    async def until(self, check):
        async with asyncio.timeout(WAIT_S):
            while not check():
                self.told.clear()
                await asyncio.wait([asyncio.ensure_future(self.told.wait())], timeout=0.05)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    async def one(self, kind):
        await self.until(lambda: self.of(kind))
        return self.of(kind)[0]


@pytest.fixture
def run(tmp_path):
    """Run a test with a server."""

    def start(work):
        with Nats(tmp_path) as server:
            asyncio.run(asyncio.wait_for(work(server), WAIT_S * 2))

    return start


async def linked(one, other):
    """Open a stream; return the numbers at both ends."""
    await other.one(AddressFound)
    one.links.dial(nats_address(other.links._instance))
    return (await one.one(ConnOpened)).conn, (await other.one(ConnOpened)).conn


def test_two_nodes_hear_of_each_other_and_talk(run):
    async def work(server):
        async with Node(server) as one, Node(server) as other:
            assert (await one.one(AddressFound)).address == nats_address(other.links._instance)
            here, there = await linked(one, other)
            assert one.of(ConnOpened)[0].dialled
            assert not other.of(ConnOpened)[0].dialled
            data = os.urandom(5 * WINDOW_BYTES_MAX)
            one.links.write(here, data)
            other.links.write(there, b"back")
            await one.one(ConnReceived)
            await other.until(lambda: sum(len(each.data) for each in other.of(ConnReceived)) == len(data))
            assert b"".join(each.data for each in other.of(ConnReceived)) == data
            await one.one(ConnDrained)
            one.links.close(here)
            assert (await other.one(ConnClosed)).conn == there
            assert not one.links.owns(here)

    run(work)


def test_nodes_at_two_leaves_talk_through_the_hub(tmp_path):
    async def work(servers):
        async with Node(servers, "alps") as one, Node(servers, "bay") as other:
            for _ in range(100):  # the leaves may have come to the hub after both had said that they listen
                one.links._line.announce.set()
                await asyncio.sleep(0.05)
                if other.of(AddressFound):
                    break
            here, _ = await linked(one, other)
            one.links.write(here, b"from the alps")
            assert (await other.one(ConnReceived)).data == b"from the alps"

    with Nats(tmp_path, ("hub", "alps", "bay")) as servers:
        asyncio.run(asyncio.wait_for(work(servers), WAIT_S * 2))


def test_meshes_at_one_server_do_not_hear_each_other():
    vectors = json.loads((Path(__file__).parents[2] / "vectors" / "nats_links.json").read_text())
    assert tag_of(bytes.fromhex(vectors["mesh_id"])) == vectors["tag"]
    assert tag_of(MESH) != tag_of(bytes(16))


def test_an_instance_that_is_gone_fails_the_dial(run, monkeypatch):
    monkeypatch.setattr(module, "DIAL_S_MAX", 0.1)

    async def work(server):
        async with Node(server) as one:
            one.links.dial(nats_address(STRANGER))
            assert (await one.one(DialFailed)).address == nats_address(STRANGER)
            assert one.of(ConnClosed) == []

    run(work)


def test_a_server_that_dies_ends_all_streams(run):
    async def work(server):
        async with Node(server) as one, Node(server) as other:
            here, there = await linked(one, other)
            server.kill()
            assert (await one.one(ConnClosed)).conn == here
            assert (await other.one(ConnClosed)).conn == there
            one.links.dial(nats_address(other.links._instance))
            await one.one(DialFailed)

    run(work)


def test_a_cut_node_is_silent_and_returns(run):
    async def work(server):
        async with Node(server) as one, Node(server) as other:
            here, _ = await linked(one, other)
            one.links.isolate(cut=True)
            assert (await one.one(ConnClosed)).conn == here
            other.events.clear()
            other.links.dial(nats_address(one.links._instance))
            other.links._line.announce.set()
            await asyncio.sleep(0.1)
            assert other.of(ConnOpened) == []
            one.links.isolate(cut=False)
            await other.one(AddressFound)

    run(work)


class Stranger:
    """A client with a login at the server, and none to the mesh."""

    def __init__(self, client, node):
        self.client = client
        self.node = node
        self.answers = []

    @classmethod
    async def at(cls, server, node):
        found = cls(await nats.connect(server.url(), allow_reconnect=False), node)

        async def on_message(message):
            found.answers.append(Frame.decode(message.data).kind)

        await found.client.subscribe(f"mycomesh-link.{tag_of(MESH)}.to.{STRANGER.hex()}", cb=on_message)
        return found

    async def send(self, *frames, subject=None):
        for frame in frames:
            raw = frame if isinstance(frame, bytes) else frame.encode()
            to = subject or f"to.{self.node.links._instance.hex()}"
            await self.client.publish(f"mycomesh-link.{tag_of(MESH)}.{to}", raw)
        await self.client.flush()

    async def answered(self, count):
        async with asyncio.timeout(WAIT_S):
            while len(self.answers) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def opens(count):
    return [Frame(Kind.OPEN, STRANGER, number.to_bytes(8, "big")) for number in range(1, count + 1)]


def test_streams_of_strangers_are_bounded(run, monkeypatch):
    monkeypatch.setattr(module, "STREAMS_MAX", 5)

    async def work(server):
        async with Node(server) as one:
            stranger = await Stranger.at(server, one)
            await stranger.send(*opens(7))
            await stranger.answered(7)
            assert stranger.answers == [Kind.ACCEPT] * 5 + [Kind.CLOSE] * 2
            assert len(one.of(ConnOpened)) == 5
            await stranger.send(Frame(Kind.CLOSE, STRANGER, (1).to_bytes(8, "big")), opens(8)[-1])
            await stranger.answered(8)
            assert stranger.answers[-1] == Kind.ACCEPT
            await stranger.client.close()

    run(work)


def test_the_rate_of_opening_is_bounded(run):
    async def work(server):
        async with Node(server) as one:
            stranger = await Stranger.at(server, one)
            await stranger.send(*opens(module.OPENS_AT_ONCE + 50))
            await stranger.answered(module.OPENS_AT_ONCE)
            await asyncio.sleep(0.1)
            assert module.OPENS_AT_ONCE <= len(one.of(ConnOpened)) <= module.OPENS_AT_ONCE + 20
            await stranger.client.close()

    run(work)


def test_the_rate_of_announcements_is_bounded(run):
    async def work(server):
        async with Node(server) as one:
            stranger = await Stranger.at(server, one)
            heres = (Frame(Kind.HERE, number.to_bytes(8, "big")) for number in range(1, 2 * module.INSTANCES_MAX))
            await stranger.send(*heres, subject="here")
            await one.until(lambda: len(one.of(AddressFound)) >= module.INSTANCES_MAX)
            await asyncio.sleep(0.1)
            assert len(one.of(AddressFound)) < 1.5 * module.INSTANCES_MAX
            await stranger.client.close()

    run(work)


def test_instances_that_are_remembered_are_bounded(run, monkeypatch):
    monkeypatch.setattr(module, "INSTANCES_MAX", 4)

    async def work(server):
        async with Node(server) as one:
            stranger = await Stranger.at(server, one)
            await stranger.send(*(Frame(Kind.HERE, bytes([number]) * 8) for number in range(1, 9)), subject="here")
            await one.until(lambda: len(one.of(AddressFound)) == 8)
            assert len(one.links._known) == 4
            await stranger.client.close()

    run(work)


def test_junk_and_broken_rules_end_only_that_stream(run):
    async def work(server):
        async with Node(server) as one, Node(server) as other:
            here, there = await linked(one, other)
            stranger = await Stranger.at(server, one)
            await stranger.send(b"", b"junk", bytes(26), *opens(1), Frame(Kind.ACCEPT, STRANGER, b"no such "))
            await one.until(lambda: len(one.of(ConnOpened)) == 2)
            await stranger.send(Frame(Kind.DATA, STRANGER, (1).to_bytes(8, "big"), 5, b"after a loss"))
            await one.one(ConnClosed)
            await stranger.send(Frame(Kind.DATA, STRANGER, b"unknown!", 0, b"data"))
            await stranger.answered(3)
            assert stranger.answers == [Kind.ACCEPT, Kind.CLOSE, Kind.CLOSE]
            assert [each.conn for each in one.of(ConnClosed)] != [here]
            other.links.write(there, b"still there")
            await one.one(ConnReceived)
            await stranger.client.close()

    run(work)


def test_a_peer_that_reads_nothing_is_ended(run):
    async def work(server):
        async with Node(server) as one:
            stranger = await Stranger.at(server, one)
            await stranger.send(*opens(1))
            conn = (await one.one(ConnOpened)).conn
            for _ in range((WINDOW_BYTES_MAX + WRITE_MAX) >> 20):
                one.links.write(conn, bytes(1 << 20))
            assert one.of(ConnClosed) == []
            one.links.write(conn, b"x")
            assert one.of(ConnClosed) != []
            await stranger.client.close()

    run(work)
