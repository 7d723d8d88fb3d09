"""Outside systems that answer slowly, hang up, or send no protocol: each scheme gives one line and holds no memory."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from mycomesh.mesh.io import nats_client
from mycomesh.tools.bridges import amqp, http, kafka, mqtt
from mycomesh.tools.bridges.scheme import LINE_CHARS_MAX, LinkError, Message, Options, SchemeError
from mycomesh.tools.bridges.schemes import scheme_named
from tests.tools.bridges.brokers import run

SCHEMES = ("nats", "mqtt", "amqp", "kafka", "http")
PIECES = 16
# The beginning of an answer that promises two gigabytes, or of one that never ends.
PROMISES = {
    "nats": b'INFO {"max_payload":1048576,"headers":true,"proto":1}\r\nMSG x 1 2147483647\r\n',
    "mqtt": b"\x20\xff\xff\xff\x7f",
    "amqp": b"\x01\x00\x00\x7f\xff\xff\xff",
    "kafka": b"\x7f\xff\xff\xff",
    "http": b"HTTP/1.1 200 OK\r\ncontent-length: 2147483647\r\n\r\n",
}


async def silent(name, reader, writer):
    await reader.read(1 << 20)
    await asyncio.sleep(30)


async def half_closed(name, reader, writer):
    await reader.read(4096)
    writer.write_eof()
    await asyncio.sleep(30)


async def noise(name, reader, writer):
    rng = random.Random(5)
    for _ in range(PIECES):
        writer.write(rng.randbytes(65_536))
        await writer.drain()


async def letters(name, reader, writer):
    for _ in range(PIECES):
        writer.write(b"A" * 65_536)
        await writer.drain()


async def promise(name, reader, writer):
    await reader.read(4096)
    writer.write(PROMISES[name])
    await letters(name, reader, writer)


async def slow(name, reader, writer):
    await reader.read(4096)
    for byte in PROMISES[name]:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def publish_one(scheme):
    await scheme.connect()
    await scheme.publish([Message("x", b"{}", "t/0/1", "k", {"mesh-id": "t/0/1", "mesh-hlc": "1"}, "t")])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    for module in (nats_client, mqtt, amqp, http):
        monkeypatch.setattr(module, "CONNECT_S", 0.3)
    monkeypatch.setattr(kafka, "CONNECT_S", 1)  # librdkafka takes no less
    monkeypatch.setattr(http, "ANSWER_S", 0.3)


@pytest.mark.parametrize("behaviour", [silent, half_closed, noise, letters, promise, slow])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_server_of_another_kind_is_one_line(name, behaviour):
    if (name, behaviour) == ("http", promise):
        return  # a status of 200 takes the message; the rest of the answer is not read

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            await behaviour(name, reader, writer)
        writer.close()

    async def story():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        kind = scheme_named(name)
        url = f"{name}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        scheme = kind(Options(url, "b", "n", create=True, outgoing=("x",), more=dict(kind.settings)))
        try:
            with pytest.raises((LinkError, SchemeError)) as caught:
                await publish_one(scheme)
        finally:
            await scheme.close()
            server.close()
        assert "refuses a setting" not in str(caught.value)
        assert str(caught.value).isprintable()
        assert str(caught.value).rstrip()[-1] != ":"
        if behaviour is half_closed and name in ("mqtt", "amqp", "http"):
            assert "it may want TLS" in str(caught.value)

    run(story())


def test_words_of_the_other_side_are_one_line():
    assert str(LinkError("a\r\n  b\x00c")) == "a b\ufffdc"
    assert str(SchemeError("x" * LINE_CHARS_MAX)) == "x" * LINE_CHARS_MAX
    assert len(str(SchemeError("x" * (LINE_CHARS_MAX + 1)))) == LINE_CHARS_MAX


@pytest.mark.parametrize(
    "url",
    ["nats://127.0.0.1:1", "mqtts://127.0.0.1:1", "amqps://127.0.0.1:1", "https://127.0.0.1:1", "kafka://127.0.0.1:1"],
)
def test_a_file_without_certificates_is_named(url, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("no certificate")
    kind = scheme_named(url.partition(":")[0])
    scheme = kind(Options(url, "b", outgoing=("x",), ca=str(ca), more=dict(kind.settings)))

    async def story():
        with pytest.raises(SchemeError, match=r"\bca\b"):
            await scheme.connect()
        await scheme.close()

    run(story())


@pytest.mark.parametrize("config", [{"nope": 1}, {"batch.size": "x"}, {"error_cb": "x"}, {"sasl.mechanism": "none"}])
def test_a_wrong_setting_of_librdkafka_is_refused(config):
    more = {**kafka.KafkaScheme.settings, "config": {"security.protocol": "SASL_PLAINTEXT", **config}}
    scheme = kafka.KafkaScheme(Options("kafka://127.0.0.1:1", "b", more=more))

    async def story():
        with pytest.raises(SchemeError, match="librdkafka refuses a setting"):
            await scheme.connect()
        await scheme.close()

    run(story())
