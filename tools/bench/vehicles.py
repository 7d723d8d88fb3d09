"""Benchmarks of vehicles: MAVLink over UDP into a node, rows for each second of CPU, datagrams that were dropped, and memory.

They need the extra `mavlink`; without it they are left out. The sender is paced, since a radio is: what a bridge cannot read in
time is dropped by the kernel, and counted.
"""

from __future__ import annotations

import importlib
import importlib.util
import socket
import sqlite3
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

__all__ = ["vehicles"]

VEHICLES = 50
POSITIONS = 400  # of each vehicle
PACE = 2_000  # messages a second: 50 vehicles with 40 each, as a telemetry link of each gives them
WAIT_S_MAX = 60
_SECTION = """[bridge.fc]
url = "mavlink://udpin:127.0.0.1:{port}"
create = true
in = {{ vehicles = "drones", track = "track" }}
"""
_BARE = """
import socket, sys
from pymavlink.dialects.v20 import ardupilotmega

radio = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
radio.bind(("127.0.0.1", 0))
decoder = ardupilotmega.MAVLink(None)
print(radio.getsockname()[1], flush=True)
for number in range(int(sys.argv[1])):
    decoder.decode(bytearray(radio.recv(65536)))
print("ready", flush=True)
sys.stdin.read()
"""


def vehicles(quick: bool) -> dict[str, Figure]:
    """Return the figures of vehicles."""
    if importlib.util.find_spec("pymavlink") is None:
        print("bench: the figures of vehicles need pymavlink", file=sys.stderr)
        return {}
    frames = _frames(POSITIONS // (10 if quick else 1))
    bare_mb = _bare_mb(frames[:5_000])
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        return _measure(Path(directory), frames, bare_mb)


def _frames(positions: int) -> list[bytes]:
    """Return the messages of all vehicles in turn: for each position a fix, a speed and a battery too."""
    mav: Any = importlib.import_module("pymavlink.dialects.v20.ardupilotmega")
    found: list[bytes] = []
    senders = [mav.MAVLink(None, srcSystem=1 + number) for number in range(VEHICLES)]
    for step in range(positions):
        for number, sender in enumerate(senders):
            lat, lon = -350_000_000 + 100 * step, 1_490_000_000 + 1_000 * number
            for message in (
                mav.MAVLink_gps_raw_int_message(0, 3, 0, 0, 0, 65535, 65535, 0, 0, 9),
                mav.MAVLink_vfr_hud_message(0, 10.0, 0, 0, 0.0, 1.0),
                mav.MAVLink_sys_status_message(0, 0, 0, 0, 12_000, 0, 80, 0, 0, 0, 0, 0, 0),
                mav.MAVLink_global_position_int_message(1_000 + 100 * step, lat, lon, 600_000, 10_000, 0, 0, 0, 9_000),
            ):
                found.append(bytes(message.pack(sender)))
                sender.seq = (sender.seq + 1) % 256
    return found


def _send(port: int, frames: list[bytes]) -> None:
    """Send frames at PACE, a hundred at once at most."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
        started, done = time.monotonic(), 0
        while done < len(frames):
            due = min(len(frames), done + 100, int((time.monotonic() - started) * PACE))
            for frame in frames[done:due]:
                radio.sendto(frame, ("127.0.0.1", port))
            done = max(done, due)
            time.sleep(0.005)


def _measure(folder: Path, frames: list[bytes], bare_mb: float) -> dict[str, Figure]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with node_with(folder, _SECTION.format(port=port)) as (node, home, app):
        pid = running_child(home)["pid"]
        idle_mb = memory_mb(pid, "VmRSS")
        before = cpu_s(pid), cpu_s(node)
        _send(port, frames)
        rows = _settled(app)
        spent_s = [late - early for early, late in zip(before, (cpu_s(pid), cpu_s(node)), strict=True)]
        end = time.monotonic() + WAIT_S_MAX
        while (figures := running_child(home)["figures"])["received"] < rows and time.monotonic() < end:
            time.sleep(0.1)
        dropped = figures["dropped"]
        own_mb = memory_mb(pid, "VmRSS")
    return measured(
        vehicle_rows_per_s=rows / max(spent_s),
        vehicle_messages_per_s=len(frames) / spent_s[0],
        vehicle_dropped=dropped,
        vehicle_start_mb=idle_mb,
        vehicle_rss_mb=own_mb - bare_mb,
    )


def _settled(app: sqlite3.Connection) -> int:
    """Return the number of rows of the track once it does not grow."""
    known, end = -1, time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end:
        (count,) = app.execute("SELECT count(*) FROM track").fetchone()
        if count == known:
            return int(count)
        known = count
        time.sleep(1)
    raise BenchError(f"the track still grows after {WAIT_S_MAX} s")


def _bare_mb(frames: list[bytes]) -> float:
    """Return the memory of a program that has the dialect alone, and has decoded messages."""
    command = [sys.executable, "-c", _BARE, str(len(frames) // 2)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own program
        assert process.stdout is not None
        _send(int(process.stdout.readline()), frames)
        process.stdout.readline()
        used = memory_mb(process.pid, "VmRSS")
        process.kill()
    return used
