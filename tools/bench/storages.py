"""Benchmarks of mailboxes at servers: an envelope's way to another base, and what an idle client adds to a node."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from mycomesh.mesh.mailbox.storages import open_mailbox
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import memory_mb
from mycomesh.tools.bench.servers import hub_and_leaves

__all__ = ["KEYS", "client_mb", "far_ms"]

ENVELOPES = 200
WAIT_S_MAX = 60
SETTLE_S = 0.5
KEYS = 'access_key_id = "bench"\nsecret_access_key = "bench"\n'
# A process with the modules of a node uses a mailbox, as a gateway does, and then has nothing to do.
_CLIENT = """
import os, sys, time
from pathlib import Path
import mycomesh.mesh.node.daemon, mycomesh.mesh.node.serving, mycomesh.mesh.io.discovery, uvloop
from mycomesh.mesh.mailbox.storages import open_mailbox
from mycomesh.mesh.node.credentials import mailbox_credentials

print("bare", flush=True)
sys.stdin.readline()
mailbox = open_mailbox(sys.argv[1], mailbox_credentials(Path(sys.argv[2])))
mesh, stream = os.urandom(16), os.urandom(8)
mailbox.append(mesh, stream, 1, bytes(1_000))
assert mailbox.streams(mesh) == [stream] and len(mailbox.list_after(mesh, stream, 0)) == 1
if hasattr(mailbox, "watch"):
    mailbox.watch(mesh, lambda: None)
print("idle", flush=True)
sys.stdin.readline()
"""


def far_ms() -> float:
    """Return the median time from an append at one leaf until the watch at another leaf has it listed, in milliseconds."""
    mesh, stream, arrived = os.urandom(16), os.urandom(8), threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as folder,
        hub_and_leaves(Path(folder), ("a", "b")) as urls,
    ):
        here, there = (open_mailbox(url) for url in urls)
        here.append(mesh, stream, 1, bytes(1_000))
        end = time.monotonic() + WAIT_S_MAX
        while not there.list_after(mesh, stream, 0):  # the first one waits until the streams are connected
            if time.monotonic() > end:
                raise BenchError("nothing came to the other leaf")
            time.sleep(0.01)
        there.watch(mesh, arrived.set)  # type: ignore[attr-defined]
        found: list[float] = []
        for position in range(2, ENVELOPES):
            arrived.clear()
            begun = time.perf_counter()
            here.append(mesh, stream, position, os.urandom(1_000))
            if not arrived.wait(WAIT_S_MAX) or not there.list_after(mesh, stream, position - 1):
                raise BenchError("an envelope did not come to the other leaf")
            found.append((time.perf_counter() - begun) * 1_000)
        for each in (here, there):
            each.close()
    return statistics.median(found)


def client_mb(url: str, keys: Path) -> float:
    """Return the resident memory that an idle client of a mailbox adds to a process with a node's modules, in MB."""
    command = [sys.executable, "-c", _CLIENT, url, str(keys)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdin is not None
        assert process.stdout is not None
        seen: list[float] = []
        for _ in range(2):
            if not process.stdout.readline():
                raise BenchError(f"the client of {url} ended")
            time.sleep(SETTLE_S)
            seen.append(memory_mb(process.pid, "VmRSS"))
            process.stdin.write("\n")
            process.stdin.flush()
    return seen[1] - seen[0]
