"""A real node under floods from the loopback: its memory stays bounded, it logs little, and its members notice nothing.

tests/mesh/io/test_discovery.py floods mDNS, and each limit has its test beside its module. The loopback is exempt from the
limits by host, so these floods are harder than those of one other host.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from mycomesh.mesh.messages import CertificatesHave, Epochs, IHave, LinkStates, LinkStatesHave, Ping, Prune, encode
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.session.session import Keys, Phase, Reply, Session
from tests.integration.knocker import Gate
from tests.integration.machines import ROOT, SQLITE, WAIT_S, Machine, eventually
from tests.integration.netns import Lab, needs_namespaces

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

GROWTH_MB_MAX = 20
SCALE = float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))
CREATE = "CREATE TABLE drones(drone_id, latitude, longitude, altitude, timestamp);"
INSERT = "INSERT INTO drones VALUES (1, 40.7128, -74.0060, 500, '2023-09-11 12:34:56');"


def resident_mb(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Return a node, a member linked to it, and a third member whose home the attacker has captured."""
    folder = tmp_path_factory.mktemp("floods")
    node, member, captured = (Machine(folder, name) for name in ("node", "member", "captured"))
    node.done("init", "--name", "fleet", "--node-name", "node")
    node.up()
    code = node.done("invite", "--uses", "2").strip()
    for one in (member, captured):
        one.done("join", code, "--node-name", one.name, "--peer", node.address, "--no-multicast")
    member.up("--port", "0", "--peer", node.address)
    node.sql(CREATE + INSERT)
    member.shows("SELECT count(*) FROM drones;", "1\n")
    yield node, member, captured
    for one in (node, member):
        if one.process is not None:
            one.kill()


class Watched:
    """The memory of a node while it is flooded."""

    def __init__(self, node):
        self._pid = node.process.pid
        self._before = resident_mb(self._pid)
        self.growth = 0.0

    def look(self):
        self.growth = max(self.growth, resident_mb(self._pid) - self._before)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def pour(sock, data):
    """Send the data; return False if the other side has closed the connection."""
    try:
        sock.sendall(data)
    except OSError:
        return False
    return True


# ---- floods by unauthenticated peers


def half_open(port, watched, stack):
    for index in range(round(1_000 * SCALE)):
        sock = stack.enter_context(connect(port))
        if index % 3 == 1:
            pour(sock, b"\x00")  # half a length
        elif index % 3 == 2:
            pour(sock, b"\x00\x40" + bytes(10))  # a message that never ends
        if index % 100 == 0:
            watched.look()


def junk(port, watched, stack):
    rng = random.Random(1)
    for index in range(round(1_000 * SCALE)):
        with connect(port) as sock:
            pour(sock, struct.pack(">H", 48) + rng.randbytes(48))
        if index % 200 == 0:
            watched.look()


def oversized(port, watched, stack):
    for index in range(round(200 * SCALE)):
        with connect(port) as sock:
            pour(sock, b"\xff\xff" + bytes(60_000))
        if index % 50 == 0:
            watched.look()


def reset(port, watched, stack):
    """Reset connections before the node accepts them."""
    for index in range(round(2_000 * SCALE)):
        sock = connect(port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        if index % 500 == 0:
            watched.look()


# ---- floods by a captured member


def member_link(port, identity, stack):
    """Link as the captured member; return the socket and its session."""
    keys = Keys(identity.mesh_id, (identity.secret,), identity.static_private)
    session = Session(keys, Gate(identity), initiator=True, entropy=os.urandom)
    sock = stack.enter_context(connect(port))
    sock.sendall(session.start())
    while session.phase is not Phase.OPEN:
        for step in session.receive(sock.recv(65_536), 0):
            if isinstance(step, Reply):
                sock.sendall(step.data)
    session.send(encode(Ping(1)), 0)
    sock.sendall(session.flush())
    return sock, session


def member_flood(message_of, times):
    """Return a flood of a member's messages; it never reads the replies."""

    def flood(port, watched, stack, identity):
        sock, session = member_link(port, identity, stack)
        sock.settimeout(5)
        for number in range(round(times * SCALE)):
            session.send(message_of(number), 0)
            session.outbox.unacknowledged = 0  # it ignores flow control
            if not pour(sock, session.flush()):
                break
            if number % 500 == 0:
                watched.look()

    return flood


NESTED = b"\x81" * 60_000  # CBOR: lists in lists
HUGE = b"\x9b" + b"\xff" * 8  # a list of 2^64 - 1

OUTSIDERS = {
    "half-open connections": half_open,
    "junk handshakes": junk,
    "oversized frames": oversized,
    "connections reset at once": reset,
}
MEMBERS = {
    "pings": member_flood(lambda number: encode(Ping(number)), 30_000),
    "questions": member_flood(
        lambda number: encode(LinkStatesHave(()) if number % 2 else CertificatesHave(())), 10_000
    ),
    "epochs": member_flood(lambda number: encode(Epochs(())), 30_000),
    "announcements": member_flood(
        lambda number: encode(IHave(bytes(16), tuple(os.urandom(16) for _ in range(1_000)))), 300
    ),
    "trees": member_flood(lambda number: encode(Prune(os.urandom(16))), 20_000),
    "nested lists": member_flood(lambda number: encode(LinkStates(()))[:2] + NESTED, 20),
    "huge lists": member_flood(lambda number: encode(LinkStates(()))[:2] + HUGE, 20),
    "records of nobody": member_flood(lambda number: encode(LinkStates((os.urandom(4_000),))), 2_000),
}


@pytest.mark.parametrize("name", [*OUTSIDERS, *MEMBERS])
def test_a_flood_costs_bounded_memory_and_stops_nobody(fleet, name, record_property):
    node, member, captured = fleet
    port = node.status()["port"]
    watched = Watched(node)
    with ExitStack() as stack:
        if name in OUTSIDERS:
            OUTSIDERS[name](port, watched, stack)
        else:
            MEMBERS[name](port, watched, stack, Keystore(captured.home).identity())
        watched.look()
        count = int(node.sql("SELECT count(*) FROM drones;"))
        node.sql(INSERT)  # while the flood's connections are open
        member.shows("SELECT count(*) FROM drones;", f"{count + 1}\n")
    watched.look()
    record_property("growth_mb", round(watched.growth, 1))
    print(f"{name}: +{watched.growth:.1f} MB")
    assert watched.growth <= GROWTH_MB_MAX
    assert len(node.output().splitlines()) < 200, "it filled no log"
    if name in MEMBERS:
        eventually(lambda: "link with captured" in node.output(), "it was really linked")


# ---- an honest member during a flood


@needs_namespaces
@pytest.mark.parametrize("hosts", [1, 50], ids=["one host", "fifty hosts"])
def test_a_member_links_at_once_during_a_flood(tmp_path, hosts, record_property):
    """On a LAN, where the limits by host apply: 5,000 half-open connections, and junk handshakes as fast as possible."""
    with Lab() as lab, ExitStack() as stack:
        node = Machine(tmp_path, "node", lab.host("node"), net=())
        honest = Machine(tmp_path, "honest", lab.host("honest"), net=())
        lab.host("outsider")
        sources = lab.addresses("outsider", hosts)
        node.done("init", "--node-name", "node")
        node.up()
        stack.callback(node.kill)
        port = str(node.status()["port"])
        where = ("--peer", f"{lab.address('node')}:{port}", "--no-multicast")
        honest.done("join", node.done("invite").strip(), "--node-name", "honest", *where)

        def links(times):
            words = (sys.executable, "-m", "tests.integration.knocker", "link", str(honest.home.state))
            done = lab.run("honest", *words, lab.address("node"), port, str(times), cwd=ROOT, timeout=WAIT_S * 2)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        assert links(1)["refused"] == 0, "the node knows the member's host from now on"
        watched = Watched(node)
        words = (sys.executable, "-m", "tests.integration.knocker", "flood", lab.address("node"), port, "5000")
        flood = lab.popen("outsider", *words, *sources, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        stack.enter_context(flood.stdout)
        assert flood.stdout.readline().startswith("flooding")
        found = links(round(16 * SCALE))
        watched.look()
        assert flood.poll() is None, "the flood lasts to the end"
        flood.kill()
        lines = [line.split() for line in flood.stdout]
        rate = (
            (int(lines[-1][1]) - int(lines[0][1])) / (float(lines[-1][2]) - float(lines[0][2])) if len(lines) > 1 else 0
        )
        assert found["refused"] == 0
        took_ms = sorted(found["took_ms"])
        p50, p99 = took_ms[len(took_ms) // 2], took_ms[len(took_ms) * 99 // 100]
        record_property("link_ms_p50", p50)
        record_property("link_ms_p99", p99)
        print(f"{hosts} hosts, {rate:.0f} a second: a link in {p50} ms (p50), {p99} ms (p99); +{watched.growth:.1f} MB")
        assert watched.growth <= GROWTH_MB_MAX
        assert len([line for line in node.output().splitlines() if "honest" not in line]) < 20
