"""Benchmark of a first sync by a stick, beside one over a link: bytes, and the receiver's CPU time."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import connect, cpu_s, equal
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["mailbox"]

ROWS = 100_000
WAIT_S_MAX = 120.0
LOOK_S = 0.05
APART = ("--no-multicast", "--loopback")


def mailbox(quick: bool) -> dict[str, Figure]:
    """Return what a parcel costs against a catch-up over a link."""
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        here, there, linked = (NodeProcess.within(Path(directory), name) for name in ("here", "there", "linked"))
        with ending((here, there, linked)):
            return _mailbox(here, there, linked, Path(directory), ROWS // 10 if quick else ROWS)


def _mailbox(
    here: NodeProcess, there: NodeProcess, linked: NodeProcess, directory: Path, count: int
) -> dict[str, Figure]:
    here.run("init", "--name", "bench", "--node-name", "here")
    here.up(*APART)
    _until(lambda: here.serving, "the first node")
    peer = f"127.0.0.1:{here.status()['port']}"
    for each in (there, linked):
        each.run("join", here.run("invite"), "--peer", peer, *APART)
    here.run("isolate")  # the node that gets the parcel must not get the rows over a link
    with contextlib.closing(connect(here.file)) as writer:
        writer.execute(CREATE)
        writer.execute("BEGIN IMMEDIATE")
        writer.executemany(INSERT, rows(count))
        writer.execute("COMMIT")
    _until(lambda: here.status()["pending"] == 0, "the rows in the change log")
    stick = directory / "stick"
    stick.mkdir()
    size = int(json.loads(here.run("mailbox", "export", str(stick), "--json"))["bytes"])
    pid = there.up(*APART, "--port", "0")
    _until(lambda: there.serving, "the second node")
    before = cpu_s(pid)
    there.run("mailbox", "import", str(stick))
    spent = cpu_s(pid) - before
    if not equal(here, there):
        raise BenchError("the import did not bring all rows")
    there.run("down")
    here.run("rejoin")
    linked.up(*APART, "--port", "0", "--peer", peer)
    _until(lambda: linked.serving and equal(here, linked), "the rows over a link")
    direct = next(each["received_bytes"] for each in linked.status()["peers"] if each["state"] == "linked")
    return measured(mailbox_bytes=size / direct, mailbox_rows_per_s=count / max(spent, 0.01))


def _until(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)
