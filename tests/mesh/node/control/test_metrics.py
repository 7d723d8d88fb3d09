"""The metrics: an independent parser reads them, and the server answers what asks for them and nobody else."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mycomesh.mesh.node.config import PeerName
from mycomesh.mesh.node.control import metrics_server
from mycomesh.mesh.node.control.metrics import exposition
from mycomesh.mesh.node.control.metrics_server import MetricsServer
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.status import SCHEMA, PeerView, ScrubView, Status, TableView

PEER = PeerView("aa", 'bra"vo\\\n', ("member",), "linked", "192.0.2.1:1", 2.5, None, True, 10, 100, 200)
STATUS = Status(
    schema=SCHEMA,
    version="1",
    phase="serving",
    mesh="fleet",
    mesh_id="00",
    node="alpha",
    node_id="01",
    pid=1,
    uptime_ms=1_500,
    file="fleet.db",
    port=1,
    site="02",
    pending=3,
    hint="",
    clock_offset_ms=-250.0,
    peers=(PEER, replace(PEER, node_id="bb", name="charlie", state="down")),
    tables=(TableView("drones", 7, "00", 2, 1, ""),),
    not_after_s=1_900_000_000,
    scrub=ScrubView(2_500, 4, ("drones",)),
    lock_held_ms=12.5,
)


def read(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_another_program_reads_every_figure():
    found = read(exposition(STATUS))
    assert found["mycomesh_serving",] == 1
    assert found["mycomesh_uptime_seconds",] == 1.5
    assert found["mycomesh_pending_writes",] == 3
    assert found["mycomesh_clock_offset_seconds",] == -0.25
    assert found["mycomesh_certificate_expiry_timestamp_seconds",] == 1_900_000_000
    assert (found["mycomesh_scrub_found_rows",], found["mycomesh_scrub_age_seconds",]) == (4, 2.5)
    assert found["mycomesh_write_lock_held_seconds_max",] == 0.0125
    assert found["mycomesh_peers", ("state", "linked")] == 1
    assert found["mycomesh_peers", ("state", "down")] == 1
    assert found["mycomesh_table_rows", ("table", "drones")] == 7
    assert found["mycomesh_table_conflicts", ("table", "drones")] == 2
    labels = (("node_id", "aa"), ("peer", PEER.name))
    assert found["mycomesh_peer_rtt_seconds", *labels] == 0.0025
    assert found["mycomesh_peer_received_bytes_total", *labels] == 200
    assert not [key for key in found if ("node_id", "bb") in key]


def test_names_and_units_are_as_prometheus_wants_them():
    families = list(text_string_to_metric_families(exposition(STATUS)))
    assert families
    for family in families:
        assert re.fullmatch(r"mycomesh_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter")


def test_what_is_not_known_is_left_out():
    found = read(exposition(replace(STATUS, clock_offset_ms=None, not_after_s=0, peers=(), tables=())))
    assert not [name for name, *_ in found if "offset" in name or "expiry" in name or "table" in name]


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


def served(story):
    async def run():
        async def status():
            return STATUS

        server = MetricsServer(PeerName("127.0.0.1", 0), status)
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


def test_who_sends_too_much_or_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(metrics_server, "REQUEST_S_MAX", 0.1)

    async def story(server):
        assert await asked(server, b"GET /" + b"x" * 20_000) == b""
        assert await asked(server, b"GET /metrics HTTP/1.0\r\n") == b""
        assert b" 200 " in await asked(server, b"GET /metrics HTTP/1.0\r\n\r\n")

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


def test_an_address_that_is_taken_is_said_in_one_line():
    async def story(server):
        with pytest.raises(NodeError, match=r"cannot serve metrics at 127\.0\.0\.1:\d+: .*; choose another --metrics"):
            await MetricsServer(PeerName("127.0.0.1", server.port), lambda: None).start()

    served(story)
