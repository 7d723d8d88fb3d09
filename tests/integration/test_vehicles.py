"""Vehicles as rows of real nodes: a recorded flight over UDP, two vehicles of one id, floods and mistakes."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.free_ports import free_port
from tests.integration.machines import SQLITE, Machine, eventually
from tests.tools.vehicles.recorded import Vehicle, frames

SCALE = float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))
pytest.importorskip("pymavlink")
pytestmark = [
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
    pytest.mark.slow,
]


def section(port, more=""):
    return (
        f'[bridge.fc]\nurl = "mavlink://udpin:127.0.0.1:{port}"\ncreate = true\nevery_ms = 50\n'
        f'in = {{ vehicles = "drones", track = "track", texts = "texts" }}\n{more}'
    )


@pytest.fixture
def alpha(tmp_path):
    machine = Machine(tmp_path, "alpha")
    machine.done("init", "--node-name", "alpha")
    machine.port = free_port()
    machine.home.config_file.write_text(section(machine.port))
    machine.home.config_file.chmod(0o600)
    yield machine.up("--port", "0")
    if machine.process is not None and machine.process.poll() is None:
        machine.terminate()


def child(machine, name="fc"):
    (found,) = [each for each in machine.status().get("children", ()) if each["name"] == name] or [{}]
    return found


def running(machine, name="fc"):
    eventually(lambda: child(machine, name).get("state") == "running", "the bridge runs")


@pytest.fixture
def radio():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        yield opened


def test_recorded_flight_over_udp_becomes_rows(alpha, radio):
    running(alpha)
    for _, frame in frames():
        radio.sendto(frame, ("127.0.0.1", alpha.port))
        time.sleep(0.0005)
    alpha.shows("SELECT count(*), count(DISTINCT boot), min(fix) FROM track", "115|1|3\n")
    alpha.shows("SELECT source, sysid, compid, armed, type FROM drones", "alpha 127.0.0.1|1|1|1|2\n")
    alpha.shows("SELECT count(*) > 0 FROM texts WHERE text <> ''", "1\n")
    [(lat, lon)] = [alpha.sql("SELECT round(lat, 3), round(lon, 3) FROM drones").strip().split("|")]
    assert (lat, lon) == ("-35.208", "149.044")
    figures = child(alpha)["figures"]
    assert (figures["dropped"], figures["refused"], figures.get("damaged", 0)) == (0, 0, 0)


def test_a_bridge_without_tls_has_no_openssl_in_memory(alpha):
    running(alpha)
    mapped = Path(f"/proc/{child(alpha)['pid']}/maps").read_text()
    assert "apsw" in mapped
    assert not [line for line in mapped.splitlines() if "libssl" in line or "libcrypto" in line or "libsqlite3" in line]


def test_two_vehicles_of_one_id_are_noticed(alpha, radio):
    running(alpha)
    first, second = Vehicle(), Vehicle()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.2", 0))
        for boot in range(1_000, 4_000, 500):
            for sender, vehicle, lat in ((radio, first, 1.0), (other, second, 2.0)):
                for message in (vehicle.fix(), vehicle.position(boot, lat=lat)):
                    sender.sendto(vehicle.pack(message), ("127.0.0.1", alpha.port))
    alpha.shows("SELECT source, lat FROM drones ORDER BY source", "alpha 127.0.0.1|1.0\nalpha 127.0.0.2|2.0\n")
    eventually(lambda: "two vehicles share an id" in alpha.output(), "the notice")
    assert "bridge.shared_id" in alpha.output()


def test_noise_and_floods_leave_the_bridge_running(alpha, radio):
    running(alpha)
    radio.sendto(b"\xfd" * 700, ("127.0.0.1", alpha.port))
    for number in range(3_000):
        sender = Vehicle(1 + number % 250, 1 + number // 250)
        radio.sendto(sender.pack(sender.heartbeat()), ("127.0.0.1", alpha.port))
    eventually(lambda: child(alpha).get("figures", {}).get("dropped", 0) > 0, "drops are counted")
    assert child(alpha)["figures"]["damaged"] > 0
    assert int(alpha.sql("SELECT count(*) FROM drones")) <= 1_000
    assert child(alpha)["state"] == "running"


@pytest.mark.timeout(3_000)
def test_kills_keep_every_position_that_was_committed(alpha, radio):
    """A radio does not repeat what it sent while nobody listened; the vehicle's latest row follows with its next position."""
    rng, vehicle, start_s = random.Random(7), Vehicle(), time.monotonic() - 1
    for number in range(1, round(2 * SCALE) + 1):
        running(alpha)
        for _ in range(10):
            boot_ms = round(1_000 * (time.monotonic() - start_s))
            for message in (vehicle.fix(), vehicle.position(boot_ms, lat=number)):
                radio.sendto(vehicle.pack(message), ("127.0.0.1", alpha.port))
            time.sleep(0.002)
        alpha.shows("SELECT lat FROM drones", f"{float(number)}\n")
        alpha.shows("SELECT count(*) FROM track", f"{10 * number}\n")
        time.sleep(rng.random() * 0.2)
        if rng.random() < 0.5:
            os.kill(child(alpha)["pid"], signal.SIGKILL)
            eventually(lambda: child(alpha).get("state") != "running", "its end is noticed")
        else:
            alpha.kill()
            alpha.up("--port", "0")
        assert alpha.sql("SELECT count(*) FROM track") == f"{10 * number}\n"
    assert int(alpha.sql("SELECT max(boot) - min(boot) FROM track")) < 60_000  # each process of the bridge estimates it


def test_mistakes_are_one_line_and_node_goes_on(alpha):
    alpha.home.config_file.write_text(section(alpha.port).replace("track =", "tracks ="))
    alpha.done("bridge", "pause", "fc")
    alpha.done("bridge", "resume", "fc")
    eventually(lambda: child(alpha).get("state") == "refused", "it is refused")
    assert "mavlink:// has no topic 'tracks'; its topics are vehicles, track, texts" in child(alpha)["text"]
    alpha.home.config_file.write_text(section(alpha.port))
    alpha.done("bridge", "resume", "fc")
    running(alpha)
    assert json.loads(alpha.done("bridge", "list", "--json"))[0]["in"] == {
        "vehicles": "drones", "track": "track", "texts": "texts"}  # fmt: skip
