"""The HTTP server over real sockets: what a client gets, and what a bad one cannot do to the others."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from mycomesh.tools.web import http
from mycomesh.tools.web.errors import UnknownError
from mycomesh.tools.web.http import (
    BODY_BYTES_MAX,
    CONNECTIONS_MAX,
    FIELDS_MAX,
    HEAD_BYTES_MAX,
    UNSENT_BYTES_MAX,
    HttpServer,
    Response,
)


async def echo(request):
    if request.path == "/missing":
        raise UnknownError("nothing here")
    if request.path == "/json":
        return Response(json.dumps(request.json()).encode())
    value = {"method": request.method, "path": request.path, "query": request.query, "size": len(request.body)}
    return Response(json.dumps(value).encode())


def served(work, handle=echo):
    """Run `work(port)` beside a server."""

    async def both():
        server = HttpServer(handle)
        await server.start("127.0.0.1", 0)
        try:
            return await asyncio.wait_for(work(server.port), 30)
        finally:
            await server.close()

    return asyncio.run(both())


@contextlib.asynccontextmanager
async def client(port, data=b""):
    """Connect and send bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def talk(port, data, *, end=True):
    """Send bytes, and return everything that the server sends until it closes the connection."""
    async with client(port, data) as (reader, writer):
        if end:
            writer.write_eof()
        return await reader.read()


def request(target="/", *, method="GET", headers=(), body=b""):
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


def body_of(answer):
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def test_query_arrives_as_text_and_path_as_sent():
    answer = served(lambda port: talk(port, request("/a%20b/%C3%A4?x=1&x=%2B2&y=")))
    assert status_of(answer) == 200
    assert body_of(answer) == {
        "method": "GET",
        "path": "/a%20b/%C3%A4",
        "query": {"x": ["1", "+2"], "y": [""]},
        "size": 0,
    }


def test_no_answer_lets_another_site_in():
    head = served(lambda port: talk(port, request())).partition(b"\r\n\r\n")[0].decode().lower()
    assert "content-security-policy: default-src 'self'" in head
    assert "unsafe-inline" not in head
    for line in (
        "x-content-type-options: nosniff",
        "cross-origin-resource-policy: same-origin",
        "cache-control: no-store",
    ):
        assert line in head


def test_one_connection_serves_several_requests():
    answer = served(lambda port: talk(port, request("/a") + request("/missing") + request("/b")))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


def test_head_has_no_body():
    answer = served(lambda port: talk(port, request(method="HEAD")))
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (request("/%ff"), 400),
        (request("/json", method="POST", headers=["Content-Type: text/plain"], body=b"{}"), 415),
        (request("/json", method="POST", headers=["Content-Type: application/json"], body=b"[]"), 400),
        (request("/json", method="POST", headers=["Content-Type: application/json"], body=b"[" * 100_000), 400),
        (request("/json", method="POST", headers=["Content-Type: application/json"], body=b'{"a": "\\ud800"}'), 400),
    ],
    ids=["nonsense", "no host", "two hosts", "no utf-8", "a form", "no object", "deep", "half a pair"],
)
def test_malformed_request_gets_one_line(data, status):
    answer = served(lambda port: talk(port, data))
    assert status_of(answer) == status
    assert set(body_of(answer)) == {"error", "code"}


@pytest.mark.parametrize(
    ("size", "status"), [(BODY_BYTES_MAX - 1, 200), (BODY_BYTES_MAX, 200), (BODY_BYTES_MAX + 1, 413)]
)
def test_body_is_taken_up_to_its_limit(size, status):
    answer = served(lambda port: talk(port, request(method="POST", body=bytes(size))))
    assert status_of(answer) == status


def test_head_of_request_has_a_limit():
    fits = request(headers=["X: " + "x" * (HEAD_BYTES_MAX - 200)])
    assert status_of(served(lambda port: talk(port, fits))) == 200
    endless = request().removesuffix(b"\r\n") + b"X: " + b"x" * HEAD_BYTES_MAX
    assert status_of(served(lambda port: talk(port, endless, end=False))) == 431


def test_fields_of_query_have_a_limit():
    def fields(count):
        return request("/?" + "&".join(["a=1"] * count))

    assert status_of(served(lambda port: talk(port, fields(FIELDS_MAX)))) == 200
    assert status_of(served(lambda port: talk(port, fields(FIELDS_MAX + 1)))) == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET http://[x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
    ],
)
def test_request_that_two_servers_may_read_differently_is_refused(data, status):
    answer = served(lambda port: talk(port, data, end=False))
    assert status_of(answer) == status
    assert answer.count(b"Content-Type:") == 1  # what follows it is no request


def test_idle_connection_makes_room_for_another(monkeypatch):
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 3)
    assert CONNECTIONS_MAX >= 100

    async def work(port):
        async with client(port) as (reader, _), client(port), client(port):
            await asyncio.sleep(0.05)
            answer = await talk(port, request("/a"))
            assert await reader.read() == b""
            return answer

    assert status_of(served(work)) == 200


def test_connection_beyond_busy_ones_is_refused(monkeypatch):
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)
    release = asyncio.Event()

    async def slow(_request):
        await release.wait()
        return Response()

    async def work(port):
        async with client(port, request()), client(port, request()):
            await asyncio.sleep(0.05)
            answer = await talk(port, request())
            release.set()
            return answer

    assert status_of(served(work, slow)) == 503


def test_silent_client_loses_its_connection(monkeypatch):
    monkeypatch.setattr(http, "IDLE_S_MAX", 0.05)
    monkeypatch.setattr(http, "REQUEST_S_MAX", 0.05)
    assert served(lambda port: talk(port, b"", end=False)) == b""
    assert served(lambda port: talk(port, request(method="POST", headers=["Content-Length: 9"]), end=False)) == b""


def test_stream_ends_when_its_client_leaves():
    ended = asyncio.Event()

    async def pieces():
        while True:
            yield b"data: x\n\n"
            await asyncio.sleep(0.01)

    async def handle(_request):
        return Response(content_type="text/event-stream", pieces=pieces(), on_end=ended.set)

    async def work(port):
        async with client(port, request()) as (reader, _):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"data: x")
        await ended.wait()
        return True

    assert served(work, handle)


def flooded(clients, pieces_of):
    """Open streams that nobody reads; return the number that ended."""
    ended = []

    async def handle(_request):
        number = len(opened)
        opened.append(number)
        return Response(pieces=pieces_of(), on_end=lambda: ended.append(number))

    opened = []

    async def work(port):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(clients):
                await stack.enter_async_context(client(port, request()))
            await asyncio.sleep(0.5)
            return len(ended)

    return served(work, handle)


async def endless():
    while True:
        yield bytes(50_000)
        await asyncio.sleep(0)


def test_stream_that_nobody_reads_is_cut(monkeypatch, caplog):
    monkeypatch.setattr(http, "STREAM_BYTES_MAX", 100_000)
    assert flooded(1, endless) == 0  # it waits for its client
    monkeypatch.setattr(http, "SEND_S_MAX", 0.05)
    assert flooded(1, endless) == 1
    assert not caplog.records  # it ends without a traceback


def test_streams_that_nobody_reads_are_limited_together(monkeypatch):
    monkeypatch.setattr(http, "STREAM_BYTES_MAX", 100_000)
    assert UNSENT_BYTES_MAX <= 1 << 27
    monkeypatch.setattr(http, "UNSENT_BYTES_MAX", 320_000)
    assert 1 <= flooded(4, endless) <= 3


def test_piece_of_any_size_reaches_a_client_that_reads(monkeypatch):
    monkeypatch.setattr(http, "STREAM_BYTES_MAX", 100_000)

    async def pieces():
        for _ in range(3):
            yield bytes(3_000_000)

    async def handle(_request):
        return Response(pieces=pieces())

    assert served(lambda port: talk(port, request(), end=False), handle).count(b"\0") == 9_000_000


def test_answer_beyond_what_others_leave_unread_is_refused(monkeypatch):
    async def handle(_request):
        return Response(bytes(8_000_000))

    async def work(port):
        async with client(port, request()):  # it reads nothing
            await asyncio.sleep(0.1)
            return status_of(await talk(port, request())), status_of(await talk(port, request(method="HEAD")))

    assert served(work, handle) == (200, 200)
    monkeypatch.setattr(http, "UNSENT_BYTES_MAX", 12_000_000)
    assert served(work, handle)[0] == 503
