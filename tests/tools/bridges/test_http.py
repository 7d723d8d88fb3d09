"""HTTP both ways: limits of the listener and of answers, and events with the same id."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mycomesh.tools.bridges import http_server
from mycomesh.tools.bridges.http import ANSWER_BYTES_MAX, HttpScheme
from mycomesh.tools.bridges.http_server import BODY_BYTES_MAX, CLIENTS_MAX, Listener
from mycomesh.tools.bridges.scheme import LinkError, Message, Options, SchemeError
from tests.tools.bridges.brokers import run


@contextlib.asynccontextmanager
async def listening(answer=None):
    async def accept(_path, _headers, _body):
        return 202

    listener = Listener("secret", answer or accept)
    try:
        yield await listener.start("127.0.0.1", 0)
    finally:
        await listener.close()


async def ask(port, data):
    """Send bytes; return what comes back until the end or a first answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        with contextlib.suppress(OSError):
            return (await reader.readuntil(b"\r\n")).decode().strip()
    except asyncio.IncompleteReadError as error:
        return error.partial.decode()
    finally:
        writer.close()


def request(size, token="secret", method="POST"):
    head = f"{method} /orders/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {size}\r\n\r\n"
    return head.encode() + b"x" * size


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_body_beyond_the_limit_is_refused(over):
    async def story():
        async with listening() as port:
            return await ask(port, request(BODY_BYTES_MAX + over))

    assert run(story()).split()[1] == ("413" if over > 0 else "202")


def test_clients_beyond_the_limit_are_turned_away(monkeypatch):
    assert CLIENTS_MAX >= 16
    monkeypatch.setattr(http_server, "CLIENTS_MAX", 2)

    async def story():
        async with listening() as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            await asyncio.sleep(0.05)
            answers = [await ask(port, request(1))]
            held[0][1].close()
            await asyncio.sleep(0.05)
            answers.append(await ask(port, request(1)))
            held[1][1].close()
            return answers

    assert [bool(answer) for answer in run(story())] == [False, True]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(1, token="wrong"), "401"),
        (request(1, method="GET"), "405"),
        (b"nonsense\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\ncontent-length: x\r\n\r\n", "400"),
    ],
)
def test_what_is_no_message_gets_its_status(data, status):
    async def story():
        async with listening() as port:
            return await ask(port, data)

    assert run(story()).split()[1] == status


@contextlib.asynccontextmanager
async def server(answer, heads=None, query=""):
    """Run a server that sends some bytes for each request; yield a scheme that is connected to it."""

    async def on_client(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if heads is not None:
                    heads.append(head)
                size = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
                await reader.readexactly(size)
                writer.write(answer)
                await writer.drain()
        writer.close()

    listener = await asyncio.start_server(on_client, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    scheme = HttpScheme(Options(f"http://127.0.0.1:{port}/hook{query}", "ground", outgoing=("a",)))
    await scheme.connect()
    try:
        yield scheme
    finally:
        await scheme.close()
        listener.close()


def answer(status, size=0):
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, size) + b"x" * size


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_long_answer_ends_the_connection(over):
    async def story():
        async with server(answer(200, ANSWER_BYTES_MAX + over)) as scheme:
            messages = [Message("a", b"{}", f"t/00/{number}", "1", {}) for number in range(3)]
            taken = list(await scheme.publish(messages))
            return taken, sum(slot._streams is not None for slot in scheme._slots)

    taken, left = run(story())
    assert taken == ["", "", ""]
    assert left >= (0 if over > 0 else 1)


def test_the_query_of_an_address_stays():
    heads = []

    async def story():
        async with server(answer(204), heads, "?key=of%20the%20hook") as scheme:
            return list(await scheme.publish([Message("a/b", b"{}", "t/00/1", "1", {})]))

    assert run(story()) == [""]
    assert heads[-1].splitlines()[0] == b"POST /hook/a/b?key=of%20the%20hook HTTP/1.1"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(204, ""), (409, "duplicate"), (422, "status 422"), (401, SchemeError), (503, LinkError), (429, LinkError)],
)  # fmt: skip
def test_each_status_has_its_meaning(status, outcome):
    async def story():
        async with server(answer(status)) as scheme:
            return list(await scheme.publish([Message("a", b"{}", "t/00/1", "1", {})]))

    if isinstance(outcome, str):
        (taken,) = run(story())
        assert outcome in taken
        assert bool(taken) == bool(outcome)
    else:
        with pytest.raises(outcome, match=str(status)):
            run(story())


def test_a_listener_needs_a_token_and_address():
    options = Options("http://h/x", "ground", incoming=("a",), more={"listen": "127.0.0.1:0"})
    with pytest.raises(SchemeError, match="needs a token"):
        run(HttpScheme(options).connect())
    with pytest.raises(SchemeError, match="needs an address"):
        HttpScheme.check(Options("http://h/x", "ground", incoming=("a",), more={"listen": "8090"}))
