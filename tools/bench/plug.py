"""Benchmark of plugging in a drone: the time from the connection of its cable until its empty file equals the others.

The nodes run in two network namespaces with a virtual cable between them, which are removed at the end; the machine's own
network is not touched. This needs root and `ip`; without them there is no figure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mycomesh.mesh.node.home import Home
from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["SPACES", "cable", "plug"]

ROWS = 1_000
TURNS = 5
APART_S = 3.0  # time without a cable: longer than the queries of discovery after a start
WAIT_S_MAX = 60.0
LOOK_S = 0.02
SPACES = tuple(f"mcbench{os.getpid()}{side}" for side in "ab")


def plug(quick: bool) -> dict[str, Figure]:
    """Return the median of several plug-ins; no figure without network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory, cable():
        here, there = (
            NodeProcess.within(Path(directory), name, prefix=("ip", "netns", "exec", space))
            for name, space in zip(("here", "there"), SPACES, strict=True)
        )
        with ending((here, there)):
            return measured(plug_in_s=statistics.median(_turns(here, there, 1 if quick else TURNS)))


def _turns(here: NodeProcess, there: NodeProcess, count: int) -> list[float]:
    here.run("init", "--name", "bench", "--node-name", "here")
    here.up()
    _until(lambda: here.serving, "the first node")
    with contextlib.closing(sqlite3.connect(here.file)) as db, db:
        db.execute(CREATE)
        db.executemany(INSERT, rows(ROWS))
    there.run("join", here.run("invite"), "--node-name", "there")
    return [_turn(here, there) for _ in range(count)]


def _turn(here: NodeProcess, there: NodeProcess) -> float:
    """Measure one plug-in: both nodes run and have never met, the drone's file is empty; then connect the cable."""
    with ending((here, there)):
        pass
    _plugged(up=False)
    for one in (here, there):
        (Home.locate(one.home, {}).state / "addresses").unlink(missing_ok=True)
    for leftover in there.file.parent.glob(f"{there.file.name}*"):
        leftover.unlink()
    for one in (here, there):
        one.up()
    _until(lambda: here.serving and there.serving, "two nodes")
    time.sleep(APART_S)
    _plugged(up=True)
    started = time.perf_counter()
    _until(lambda: there.hashes.get("drones") == here.hashes["drones"], "equal nodes")
    return time.perf_counter() - started


@contextlib.contextmanager
def cable() -> Iterator[None]:
    """Connect the two namespaces with a cable during the block: 10.98.0.1 and 10.98.0.2."""
    left, right = SPACES
    try:
        for number, space in enumerate(SPACES, 1):
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
            if number == 2:
                _ip("link", "add", "eth0", "netns", left, "type", "veth", "peer", "name", "eth0", "netns", right)
        for number, space in enumerate(SPACES, 1):
            _ip("-n", space, "addr", "add", f"10.98.0.{number}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "route", "add", "default", "dev", "eth0")
        yield
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)  # noqa: S603, S607


def _plugged(*, up: bool) -> None:
    """Set the first node's end of the cable up or down; the drone's interface gains or loses its carrier."""
    _ip("-n", SPACES[0], "link", "set", "eth0", "up" if up else "down")
    if up:
        subprocess.run(  # noqa: S603 -- the route was lost with the interface
            ["ip", "-n", SPACES[0], "route", "add", "default", "dev", "eth0"],  # noqa: S607
            capture_output=True,
            check=False,
        )


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        raise BenchError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _until(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)
