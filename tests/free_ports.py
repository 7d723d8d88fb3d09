"""Ports for servers that tests start, each process's apart from those that the system gives to connections.

A port that the system has just given out and taken back may go to any connection of another test before the server binds it.
"""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import ExitStack, suppress

FIRST, PORTS = 16_000, 16_000  # the system numbers connections from 32,768 on
STRIDE = 211  # of one process after the other: workers of a run have consecutive ids
_NUMBERS = itertools.count(os.getpid() * STRIDE)


def free_port() -> int:
    """Return a port that nobody has, of TCP or of UDP; no two calls of a process return the same one soon."""
    for number in itertools.islice(_NUMBERS, PORTS):
        port = FIRST + number % PORTS
        with suppress(OSError), ExitStack() as probes:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                probes.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")
