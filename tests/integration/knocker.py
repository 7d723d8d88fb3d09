"""A client of a node's port: an honest member that links many times, or an unauthenticated peer that floods it.

`python -m tests.integration.knocker link STATE HOST PORT TIMES` prints one JSON line: how many ms each link took from the first
packet to the node's first message. `... flood HOST PORT HALF_OPEN SOURCE...` opens HALF_OPEN connections that stay silent, then
sends junk handshakes without end, from each of the SOURCE addresses in turn. It prints "flooding" when the silent connections
are open, and after each further thousand.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

from mycomesh.mesh.links.authentication import BOOT_BYTES, MemberHello
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.messages import Ping, encode
from mycomesh.mesh.session.session import Keys, Phase, Received, Reply, Session
from mycomesh.mesh.versions import Versions

PAUSE_S = 0.06  # a host may begin 20 handshakes a second
DESCRIPTORS = 8_192


class Gate:
    """Presents a member's hello, and accepts any peer."""

    def __init__(self, identity):
        self._hello = MemberHello(identity.certificate, os.urandom(BOOT_BYTES), 0, Versions(1, 1)).encode()

    def admit(self, introduction):
        return self._hello

    def answer(self, psk):
        return self._hello


def linked(host, port, identity):
    """Link with the node; return the socket and its session after the node's first message on the link."""
    keys = Keys(identity.mesh_id, (identity.secret,), identity.static_private)
    session = Session(keys, Gate(identity), initiator=True, entropy=os.urandom)
    sock = socket.create_connection((host, port), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(session.start())
    received = False
    while not received:
        data = sock.recv(65_536)
        if not data:
            raise ConnectionError("the node closed the connection")
        for step in session.receive(data, 0):
            received = received or isinstance(step, Received)
            if isinstance(step, Reply):
                sock.sendall(step.data)
                session.send(encode(Ping(1)), 0)
                sock.sendall(session.flush())
    assert session.phase is Phase.OPEN
    return sock, session


def link(state, host, port, times):
    identity = Identity.decode(Path(state, "identity").read_bytes())
    took_ms, refused = [], 0
    for _ in range(int(times)):
        started = time.perf_counter()
        try:
            sock, session = linked(host, int(port), identity)
        except OSError:
            refused += 1
        else:
            took_ms.append(round((time.perf_counter() - started) * 1_000, 2))
            sock.sendall(session.end("done"))
            sock.close()
        time.sleep(PAUSE_S)
    print(json.dumps({"took_ms": took_ms, "refused": refused}), flush=True)


def flood(host, port, half_open, *sources):
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    rng = random.Random(1)
    held = []
    for number, source in enumerate(itertools.cycle(sources)):
        with suppress(OSError):
            sock = socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0))
            if number < int(half_open):
                sock.sendall(b"\x00")  # half a length
                held.append(sock)
            else:
                sock.sendall(struct.pack(">H", 48) + rng.randbytes(48))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves no TIME_WAIT
                sock.close()
        if number % 1_000 == int(half_open) % 1_000 and number >= int(half_open):
            print("flooding", number, round(time.monotonic(), 2), flush=True)


if __name__ == "__main__":
    {"link": link, "flood": flood}[sys.argv[1]](*sys.argv[2:])
