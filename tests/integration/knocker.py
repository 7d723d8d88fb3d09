"""A host that knocks at a node's port: an honest member that links again and again, or a stranger who floods it.

Run as `python -m tests.integration.knocker link STATE HOST PORT TIMES`: says on stdout, in one JSON line, how many ms each link
took from the first packet to the node's first word. Or as `... flood HOST PORT HALF_OPEN SOURCE...`: opens so many connections
that say nothing, then junk handshakes without end, from these addresses of its own in turn; says "flooding" when the first are
open, and at each further thousand.
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
    """Shows its papers and believes everything."""

    def __init__(self, identity):
        self._papers = MemberHello(identity.certificate, os.urandom(BOOT_BYTES), 0, Versions(1, 1)).encode()

    def admit(self, introduction):
        return self._papers

    def answer(self, psk):
        return self._papers


def linked(host, port, identity):
    """Link with the node; the socket and its session, when the node has said something on the link."""
    keys = Keys(identity.mesh_id, (identity.secret,), identity.static_private)
    session = Session(keys, Gate(identity), initiator=True, entropy=os.urandom)
    sock = socket.create_connection((host, port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(session.start())
    heard = False
    while not heard:
        data = sock.recv(65_536)
        if not data:
            raise ConnectionError("the node hung up")
        for step in session.receive(data, 0):
            heard = heard or isinstance(step, Received)
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
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no port waits
                sock.close()
        if number % 1_000 == int(half_open) % 1_000 and number >= int(half_open):
            print("flooding", number, round(time.monotonic(), 2), flush=True)


if __name__ == "__main__":
    {"link": link, "flood": flood}[sys.argv[1]](*sys.argv[2:])
