"""The metrics server answers at one path, to a bounded number of bounded requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mycomesh.mesh.node.config import PeerName
from mycomesh.mesh.node.control import metrics_server
from mycomesh.mesh.node.control.metrics_server import MetricsServer
from mycomesh.mesh.node.errors import NodeError
from tests.mesh.node.control.readings import STATUS, read


async def asked(server, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    await writer.drain()
    try:
        return await reader.read()
    except ConnectionResetError:  # let go before the request was read
        return b""
    finally:
        writer.close()


def served(story, status=None):
    async def serving():
        return STATUS

    async def run():
        server = MetricsServer(PeerName("127.0.0.1", 0), status or serving)
        await server.start()
        try:
            await story(server)
        finally:
            await server.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_the_server_answers_at_metrics_and_nowhere_else():
    async def story(server):
        head, _, body = (await asked(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 OK")
        assert f"Content-Length: {len(body)}".encode() in head
        assert read(body.decode())["mycomesh_serving",] == 1
        assert b" 404 " in await asked(server, b"GET / HTTP/1.0\r\n\r\n")
        assert b" 405 " in await asked(server, b"POST /metrics HTTP/1.0\r\n\r\n")
        assert (await asked(server, b"HEAD /metrics HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\n")

    served(story)


def test_health_is_a_status_code_and_one_line(monkeypatch):
    async def ill():
        return replace(STATUS, not_after_s=4_000_000_000, revoked=True)

    async def hung():
        await asyncio.sleep(30)

    async def refused():
        raise NodeError("the node has closed its file")

    async def well():
        return replace(STATUS, not_after_s=4_000_000_000)

    monkeypatch.setattr(metrics_server, "HEALTH_S_MAX", 0.1)
    for status, outcome, line in (
        (well, b"200 OK", b"ok"),
        (ill, b"503 Service Unavailable", b"this node was revoked [identity.revoked]"),
        (hung, b"503 Service Unavailable", b"the database thread did not answer in time"),
        (refused, b"503 Service Unavailable", b"the node has closed its file [node.refused]"),
    ):

        async def story(server, outcome=outcome, line=line):
            head, _, body = (await asked(server, b"GET /healthz HTTP/1.1\r\n\r\n")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.0 " + outcome)
            assert body == line + b"\n"

        served(story, status)


def test_who_sends_too_much_or_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(metrics_server, "REQUEST_S_MAX", 0.1)

    async def story(server):
        assert await asked(server, b"GET /" + b"x" * 20_000) == b""
        assert await asked(server, b"GET /metrics HTTP/1.0\r\n") == b""
        assert b" 200 " in await asked(server, b"GET /metrics HTTP/1.0\r\n\r\n")

    served(story)


def test_a_request_may_have_so_many_bytes():
    async def story(server):
        for size, answered in (
            (metrics_server.REQUEST_BYTES_MAX - 1, True),
            (metrics_server.REQUEST_BYTES_MAX, True),
            (metrics_server.REQUEST_BYTES_MAX + 5, False),
        ):
            request = b"GET /metrics HTTP/1.0\r\nX: "
            request += b"x" * (size - len(request))
            assert (b" 200 " in await asked(server, request + b"\r\n\r\n")) is answered

    served(story)


def test_so_many_are_served_at_once():
    async def story(server):
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(metrics_server.CLIENTS_MAX)]
        await asyncio.sleep(0.05)
        assert await asked(server, b"GET /metrics HTTP/1.0\r\n\r\n") == b""
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.05)
        assert b" 200 " in await asked(server, b"GET /metrics HTTP/1.0\r\n\r\n")

    served(story)


def test_address_that_is_taken_is_said_in_one_line():
    async def story(server):
        with pytest.raises(NodeError, match=r"cannot serve metrics at 127\.0\.0\.1:\d+: .*; choose another --metrics"):
            await MetricsServer(PeerName("127.0.0.1", server.port), lambda: None).start()

    served(story)
