"""Benchmarks of running nodes: latency between stock clients over loopback, memory, idle CPU and start; and of handshakes.

The benchmark drives two real node processes through the command line. The nodes know each other by `--peer`, so that multicast
of other programs does not affect the figures.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nacl.bindings

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.session.noise import CipherState
from mycomesh.tools.bench import links
from mycomesh.tools.bench.client import CREATE, INSERT, rows
from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.processes import NodeProcess, ending

__all__ = ["connect", "cpu_s", "crypto", "equal", "memory_mb", "node"]

WAIT_S_MAX = 60.0  # on a machine that works, each wait takes a second or two
LOOK_S = 0.005
ROWS = 100_000
WRITES = 500
HANDSHAKES = 100
SEALED = 4_000
ROUNDS = 20
FRAME_BYTES = 16 << 10
WRITE_PAUSE_S = 0.01  # makes single writes of what would be a burst: each is drained by itself
READER_PAUSE_S = 0.0001  # the resolution of the latency; a reader that never sleeps would occupy a core of the nodes
IDLE_S = 30.0  # the kernel counts CPU time in hundredths of a second, which are 0.03 % of this
HEADER_BYTES = 66  # of one segment: Ethernet 14, IPv4 20, TCP 32 with timestamps
ISOLATED_S = 0.5
SETTLE_S = 12.0  # by then a node has written its state tables again and trimmed its memory (mesh.node.idle_trim)
_TICKS = os.sysconf("SC_CLK_TCK")


def crypto(quick: bool) -> dict[str, Figure]:
    """Return the CPU time of a handshake for one side, and rates relative to libsodium's own, measured in one run."""
    scale = 10 if quick else 1
    pair = links.members()
    data, cipher, key = bytes(FRAME_BYTES), CipherState(bytes(32)), bytes(32)
    seal = nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt
    ours = _cpu_s(lambda: cipher.encrypt(data), SEALED // scale)
    theirs = _cpu_s(lambda: seal(data, b"", bytes(12), key), SEALED // scale)
    return measured(
        handshake_ms=statistics.median(links.handshake_ms(*pair) for _ in range(HANDSHAKES // scale)),
        transport_ratio=theirs / ours,
        link_throughput_ratio=links.link_throughput_ratio(ROUNDS // scale),
    )


def node(quick: bool) -> dict[str, Figure]:
    """Return the figures of two nodes that are linked over loopback."""
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        here, there = NodeProcess.within(Path(directory), "here"), NodeProcess.within(Path(directory), "there")
        with ending((here, there)):
            return _node(here, there, ROWS // scale, WRITES // scale, IDLE_S / scale)


# ---- two nodes


def _node(here: NodeProcess, there: NodeProcess, count: int, writes: int, idle_s: float) -> dict[str, Figure]:
    here.run("init", "--name", "bench", "--node-name", "here")
    started = time.perf_counter()
    first = here.up("--no-multicast", "--port", "0")
    _until(lambda: here.serving, "the first node")
    start_s, start_cpu_s = time.perf_counter() - started, cpu_s(first)
    peer = f"127.0.0.1:{here.status()['port']}"
    with contextlib.closing(connect(here.file)) as db:
        db.execute("BEGIN")
        db.execute(CREATE)
        db.executemany(INSERT, rows(count))
        db.execute("COMMIT")
        _until(lambda: "drones" in here.hashes, "the drain")
        there.run("join", here.run("invite"), "--peer", peer, "--no-multicast", "--node-name", "there")
        second = there.up("--no-multicast", "--port", "0", "--peer", peer)
        _until(lambda: there.serving, "the second node")
        before_mb = [_resident_mb(pid) for pid in (first, second)]
        started = time.perf_counter()
        _until(lambda: _last(there) == count, "the catch-up")
        caught_s = time.perf_counter() - started
        grown_mb = max(memory_mb(pid, "VmHWM") - was for pid, was in zip((first, second), before_mb, strict=True))
        _until(lambda: equal(here, there), "equal nodes")
        delays = sorted(_latencies_ms(db, there, writes))
        _until(lambda: equal(here, there), "equal nodes")
    time.sleep(SETTLE_S)
    resident_mb = max(_resident_mb(first), _resident_mb(second))
    port = int(here.status()["port"])
    sent = _sent_bytes(port)
    percents = _idle_percents((first, second), idle_s)
    idle_bytes = (_sent_bytes(port) - sent) / idle_s
    return measured(
        start_ms=start_s * 1000,
        start_cpu_ms=start_cpu_s * 1000,
        idle_link_bytes_per_s=idle_bytes,
        rejoin_ms=statistics.median(_rejoin_ms(here, there) for _ in range(5)),
        catch_up_rows_per_s=count / caught_s,
        catch_up_rss_mb=grown_mb,
        latency_p50_ms=delays[len(delays) // 2],
        latency_p99_ms=delays[len(delays) * 99 // 100],
        idle_rss_mb=resident_mb,
        idle_cpu_percent=max(percents),
        status_ms=statistics.median(_status_ms(here) for _ in range(5)),
    )


def _latencies_ms(db: sqlite3.Connection, there: NodeProcess, count: int) -> list[float]:
    """Return milliseconds from each commit on one node until a stock client sees the row on the other."""
    delays = []
    with contextlib.closing(connect(there.file)) as reader:
        seen = _last_row(reader)
        for row in rows(count):
            db.execute(INSERT, row)
            started = time.perf_counter()
            while _last_row(reader) == seen:
                if time.perf_counter() - started > WAIT_S_MAX:
                    raise BenchError(f"a write did not arrive within {WAIT_S_MAX:.0f} s")
                time.sleep(READER_PAUSE_S)
            delays.append((time.perf_counter() - started) * 1000)
            seen = _last_row(reader)
            time.sleep(WRITE_PAUSE_S)
    return delays


def _sent_bytes(port: int) -> int:
    """Return the bytes that both ends of the connections to a port have sent, with the headers of Ethernet, IP and TCP."""
    command = ["ss", "-tinH", "state", "established", f"( sport = :{port} or dport = :{port} )"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own command
    counted = {name: sum(map(int, re.findall(rf"\b{name}:(\d+)", told))) for name in ("bytes_sent", "segs_out")}
    return counted["bytes_sent"] + HEADER_BYTES * counted["segs_out"]


def _rejoin_ms(here: NodeProcess, there: NodeProcess) -> float:
    """Return milliseconds from the request of `rejoin` until a row that was written meanwhile is on the other node."""
    there.run("isolate")
    with contextlib.closing(connect(here.file)) as db, contextlib.closing(connect(there.file)) as reader:
        time.sleep(ISOLATED_S)
        db.execute(INSERT, next(iter(rows(1))))
        time.sleep(ISOLATED_S)
        seen = _last_row(reader)
        started = time.perf_counter()
        ask(Home.locate(there.home, {}), "isolate", cut=False)
        _until_soon(lambda: _last_row(reader) != seen, "row after rejoin")
        return (time.perf_counter() - started) * 1000


def _until_soon(check: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(READER_PAUSE_S)


def _status_ms(one: NodeProcess) -> float:
    started = time.perf_counter()
    one.run("status", "--json")
    return (time.perf_counter() - started) * 1000


def equal(left: NodeProcess, right: NodeProcess) -> bool:
    """Return whether both nodes serve the same tables with the same hashes."""
    hashes = left.hashes
    return bool(hashes) and hashes == right.hashes


def _last(one: NodeProcess) -> int:
    """Return the greatest rowid of the table, or 0 before the table exists."""
    with contextlib.closing(connect(one.file)) as db:
        there = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'drones'").fetchone()
        return _last_row(db) if there else 0


def _last_row(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(rowid), 0) FROM drones").fetchone()[0])


def connect(file: Path) -> sqlite3.Connection:
    """Return a stock client's connection."""
    db = sqlite3.connect(file, isolation_level=None, timeout=WAIT_S_MAX)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _until(check: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(LOOK_S)


# ---- the kernel's figures of a process (proc(5))


def _resident_mb(pid: int) -> float:
    return memory_mb(pid, "VmRSS")


def memory_mb(pid: int, what: str) -> float:
    """Return a memory figure of a process in MiB: VmRSS is its resident memory, VmHWM its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def _idle_percents(pids: tuple[int, ...], seconds: float) -> list[float]:
    before = [_ticks(pid) for pid in pids]
    started = time.perf_counter()
    time.sleep(seconds)
    elapsed_s = time.perf_counter() - started
    return [(_ticks(pid) - then) / _TICKS / elapsed_s * 100 for pid, then in zip(pids, before, strict=True)]


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    return _ticks(pid) / _TICKS


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# ---- cryptography


def _cpu_s(work: Callable[[], object], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        work()
    return time.process_time() - started
