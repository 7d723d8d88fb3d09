"""Measurements of running nodes: latency by stock clients over loopback, memory, idle CPU, start, and the cryptography."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nacl.bindings

from mesh.identity import create_mesh
from mesh.node.ask import ask
from mesh.node.errors import NodeError
from mesh.node.home import Home
from mesh.noise import Handshake
from tools.bench.client import CREATE, INSERT, rows
from tools.bench.figure import Figure

__all__ = ["crypto", "node"]

WAIT_S_MAX = 60.0
_PAYLOAD = 16 << 10
_TICKS = os.sysconf("SC_CLK_TCK")


def crypto(quick: bool) -> dict[str, Figure]:
    """Handshake CPU a side, and the transport's rate relative to libsodium's own in the same run."""
    identity, _ = create_mesh(
        "bench", "bench", entropy=os.urandom, wall_ms=time.time_ns() // 1_000_000, lifetime_s=3600
    )
    times = []
    for _ in range(20 if quick else 200):
        started = time.process_time()
        first, second = _handshake(identity.static_private, identity.secret)
        times.append((time.process_time() - started) / 2)
    transport, _ = first.split(), second.split()
    data, key = bytes(_PAYLOAD), bytes(32)
    count = 500 if quick else 4_000
    ours = _rate(lambda: transport.send.encrypt(data), count)
    raw = nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt
    libsodium = _rate(lambda: raw(data, b"", bytes(12), key), count)
    return {
        "handshake_ms": Figure(statistics.median(times) * 1000, "ms a side", goal="<= 5"),
        "transport_ratio": Figure(ours / libsodium, "ratio", "libsodium ChaCha20-Poly1305, 16 KiB", ">= 0.5"),
    }


def node(quick: bool) -> dict[str, Figure]:
    """Two nodes over loopback: start, latency of single writes, catch-up of an empty peer, memory and idle CPU."""
    count = 10_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as place:
        here, there = _Bench(Path(place), "here"), _Bench(Path(place), "there")
        here.run("init", "--name", "bench", "--node-name", "here")
        started = time.perf_counter()
        with here.up() as first:
            port = _until(lambda: here.status().get("port", 0), "the first node")
            start_s = time.perf_counter() - started
            db = _connect(here.file)
            db.execute(CREATE)
            with db:
                db.executemany(INSERT, rows(count))
            _until(lambda: here.status()["tables"] and not here.status()["pending"], "the drain")
            there.run(
                "join", here.run("invite"), "--peer", f"127.0.0.1:{port}", "--no-multicast", "--node-name", "there"
            )
            with there.up("--peer", f"127.0.0.1:{port}"):
                started = time.perf_counter()
                _until(lambda: _rows(there) == count, "the catch-up")
                caught_s = time.perf_counter() - started
                _until(lambda: _equal(here, there), "equal nodes")
                delays = _latency(db, there, 100 if quick else 500)
                _until(lambda: _equal(here, there), "equal nodes")
                resident = max(_resident_mb(first.pid), _resident_mb(there.process.pid))
                idle = _idle_percent(first.pid, 3 if quick else 10)
                status_s = min(_timed_status(here) for _ in range(5))
            db.close()
    delays.sort()
    return {
        "start_ms": Figure(start_s * 1000, "ms", goal="<= 500"),
        "catch_up_rows_per_s": Figure(count / caught_s, "rows/s", goal=">= 80,000"),
        "latency_p50_ms": Figure(delays[len(delays) // 2], "ms", goal="<= 5"),
        "latency_p99_ms": Figure(delays[len(delays) * 99 // 100], "ms", goal="<= 30"),
        "idle_rss_mb": Figure(resident, "MB", goal="<= 60"),
        "idle_cpu_percent": Figure(idle, "%", goal="<= 0.5"),
        "status_ms": Figure(status_s * 1000, "ms", goal="<= 150"),
    }


class _Bench:
    """One node of a measurement."""

    def __init__(self, place: Path, name: str) -> None:
        self.home = place / name
        self.file = place / f"{name}.db"
        self.process: Any = None

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tools", "--home", str(self.home), *words]

    def run(self, *words: str) -> str:
        return subprocess.run(self.command(*words), check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603

    @contextlib.contextmanager
    def up(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        command = self.command("up", str(self.file), "--no-multicast", "--port", "0", *words)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        try:
            yield self.process
        finally:
            self.process.terminate()
            self.process.wait()

    def status(self) -> dict[str, Any]:
        try:
            return ask(Home.locate(self.home, {}), "status")
        except NodeError:
            return {}


def _handshake(static: bytes, psk: bytes) -> tuple[Handshake, Handshake]:
    options: dict[str, Any] = {"prologue": b"bench", "psk": psk, "static": static, "entropy": os.urandom}
    first, second = Handshake(initiator=True, **options), Handshake(initiator=False, **options)
    second.read_message(first.write_message())
    first.read_message(second.write_message())
    second.read_message(first.write_message())
    return first, second


def _rate(work: Callable[[], object], count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        work()
    return count / (time.process_time() - started)


def _connect(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, isolation_level=None, timeout=30)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _rows(node: _Bench) -> int:
    try:
        with contextlib.closing(_connect(node.file)) as db:
            return int(db.execute("SELECT count(*) FROM drones").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def _equal(left: _Bench, right: _Bench) -> bool:
    tables = [node.status().get("tables") for node in (left, right)]
    return bool(tables[0]) and tables[0] == tables[1]


def _latency(db: sqlite3.Connection, there: _Bench, count: int) -> list[float]:
    """Milliseconds from a commit on one node until a stock client sees the row on the other."""
    delays = []
    with contextlib.closing(_connect(there.file)) as reader:
        last = reader.execute("SELECT max(rowid) FROM drones").fetchone()[0]
        for row in rows(count):
            db.execute(INSERT, row)
            started = time.perf_counter()
            while reader.execute("SELECT max(rowid) FROM drones").fetchone()[0] == last:
                time.sleep(0.0001)
            delays.append((time.perf_counter() - started) * 1000)
            last += 1
            time.sleep(0.01)
    return delays


def _resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _idle_percent(pid: int, seconds: float) -> float:
    before = _ticks(pid)
    time.sleep(seconds)
    return (_ticks(pid) - before) / _TICKS / seconds * 100


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _timed_status(node: _Bench) -> float:
    started = time.perf_counter()
    node.run("status", "--json")
    return time.perf_counter() - started


def _until(check: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + WAIT_S_MAX
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise SystemExit(f"bench: no {what} within {WAIT_S_MAX:.0f} s")
        time.sleep(0.01)
