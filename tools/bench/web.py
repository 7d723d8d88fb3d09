"""Benchmarks of the web console: its memory, its CPU while 10,000 points move, and a real browser.

The browser is chromium without a window, drawing in software; where it or playwright is missing, its two figures are too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.nodes import connect, cpu_s, memory_mb
from mycomesh.tools.processes import NodeProcess, ending
from mycomesh.tools.web import STATIC
from mycomesh.tools.web.files import Page

__all__ = ["has_browser", "web"]

POINTS = 10_000
CLIENTS = 100
MOVES = 15
WRITES = 60
WAIT_S_MAX = 60
SETTLE_S = 3.0
WRITE_PAUSE_S = 0.15
MEGABYTE = 1 << 20
_CREATE = "CREATE TABLE points(id INTEGER PRIMARY KEY, lat REAL, lon REAL, at INTEGER)"
_FILL = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
    " INSERT INTO points SELECT i, 30 + (i % 100) * 0.2, -110 + (i / 100) * 0.3, 0 FROM n"
)
_MOVE = "UPDATE points SET lat = lat + 0.01, lon = lon + 0.01, at = at + 1"
# Returns the moment, by the clock of the machine, at which the first point has its new value on the screen.
_SEEN = """number => new Promise((found) => {
  const { points, layers } = mycomesh.views.map, { draw } = Object.getPrototypeOf(points);
  points.draw = function () {
    draw.call(this);
    if (layers[0].things.get('1').track.at(-1).values.at === number) found(performance.timeOrigin + performance.now());
  };
})"""
# Drags the map to and fro as a mouse does: the points are drawn at each step, the land when it ends.
_DRAG = """() => {
  const { map } = mycomesh.views.map;
  let step = 0;
  const drag = () => {
    map._rawPanBy([step++ % 80 < 40 ? 3 : -3, 0]);
    map.fire('move');
    mycomesh.dragging = requestAnimationFrame(drag);
  };
  drag();
}"""


def has_browser() -> bool:
    """Return whether this machine can measure the figures of the page."""
    return bool(shutil.which("chromium") and importlib.util.find_spec("playwright") and Page().is_built)


def web(quick: bool) -> dict[str, Figure]:
    """Return the figures of a console beside a node."""
    scale = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as directory:
        here, there = (NodeProcess.within(Path(directory), name) for name in ("here", "there"))
        with ending((here, there)):
            here.run("init")
            here.up("--no-multicast", "--port", "0")
            _until(lambda: here.serving, "the node")
            with contextlib.closing(connect(here.file)) as db, _console(here) as (pid, port):
                db.execute(_CREATE)
                db.execute(_FILL.format(POINTS // scale))
                _until(lambda: here.status()["tables"] and here.status()["tables"][0]["rows"] > 0, "the rows")
                found = _without_browser(db, pid, port, MOVES // scale or 2)
                found |= _in_browser(db, port, POINTS // scale, MOVES // scale or 2, WRITES // scale)
                found |= _from_peer(here, there, port, WRITES // scale)
    if Page().is_built:
        found["web_page_kb"] = _page_bytes() / 1000
    return measured(**found)


@contextlib.contextmanager
def _console(node: NodeProcess) -> Iterator[tuple[int, int]]:
    """Run a console beside a node; yield its process and its port."""
    command = [sys.executable, "-m", "mycomesh.tools", "--home", str(node.home), "web", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own command
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r":(\d+)/", line)
            if found is None:
                raise BenchError("the console did not start")
            yield process.pid, int(found[1])
        finally:
            process.terminate()


def _without_browser(db: sqlite3.Connection, pid: int, port: int, moves: int) -> dict[str, float]:
    """Return the memory of an idle console and what 100 streams add, and its CPU while one stream gets every move."""
    time.sleep(SETTLE_S)
    idle_mb = memory_mb(pid, "VmRSS")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(_stream(port)) for _ in range(CLIENTS)]
        drained = _Drain(clients)
        stack.enter_context(drained)
        for number in range(5):
            db.execute("UPDATE points SET at = ? WHERE id = 1", (-number,))
            time.sleep(SETTLE_S / 5)
        grown_mb = max(0.0, memory_mb(pid, "VmRSS") - idle_mb)
    with _stream(port) as client, _Drain([client]):
        _move(db, 1)
        before, started = cpu_s(pid), time.monotonic()
        _move(db, moves)
        share = (cpu_s(pid) - before) / (time.monotonic() - started)
    return {"web_idle_rss_mb": idle_mb, "web_100_clients_mb": grown_mb, "web_moving_cpu_percent": 100 * share}


def _move(db: sqlite3.Connection, times: int) -> None:
    """Move every point once a second."""
    start = time.monotonic()
    for number in range(1, times + 1):
        db.execute(_MOVE)
        time.sleep(max(0.0, start + number - time.monotonic()))


@contextlib.contextmanager
def _stream(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), WAIT_S_MAX) as client:
        client.sendall(b"GET /api/live?table=points HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not client.recv(65_536).startswith(b"HTTP/1.1 200"):
            raise BenchError("the console refused a stream")
        yield client


class _Drain:
    """Reads streams in a thread, as browsers would."""

    def __init__(self, clients: list[socket.socket]) -> None:
        self._clients = clients
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> None:
        for client in self._clients:
            client.setblocking(False)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.wait(0.01):
            for client in self._clients:
                with contextlib.suppress(BlockingIOError):
                    while client.recv(MEGABYTE):
                        pass


def _in_browser(db: sqlite3.Connection, port: int, points: int, moves: int, writes: int) -> dict[str, float]:
    """Return frames a second while all points move, and milliseconds from a commit to the screen; {} without a browser."""
    if not has_browser():
        print("bench: no chromium, playwright or bundled page, so no figures of a browser", file=sys.stderr)
        return {}
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- an extra of developers

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/")
        _until(lambda: page.evaluate("mycomesh.views?.map?.points?.drawn ?? 0") >= points, "the points")
        per_s = _frames_per_s(db, page, moves)
        delays = _delays_ms(db, page, writes)
        browser.close()
    return {"web_frames_per_s": per_s, "web_pixel_p50_ms": statistics.median(delays)}


def _from_peer(here: NodeProcess, there: NodeProcess, port: int, writes: int) -> dict[str, float]:
    """Return milliseconds from a commit on another node to the screen beside this one; {} without a browser."""
    if not has_browser():
        return {}
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- an extra of developers

    peer = f"127.0.0.1:{here.status()['port']}"
    there.run("join", here.run("invite"), "--peer", peer, "--no-multicast", "--node-name", "there")
    there.up("--no-multicast", "--port", "0", "--peer", peer)
    _until(lambda: there.serving, "the second node")
    with contextlib.closing(connect(there.file)) as db, sync_playwright() as playwright:
        _until(lambda: _rows(there) == _rows(here) > 0, "the rows on the second node")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/")
        _until(lambda: page.evaluate("mycomesh.views?.map?.points?.drawn ?? 0") >= _rows(here), "the points")
        delays = _delays_ms(db, page, writes)
        browser.close()
    return {"web_peer_pixel_p50_ms": statistics.median(delays)}


def _rows(node: NodeProcess) -> int:
    tables = node.status()["tables"]
    return int(tables[0]["rows"]) if tables else 0


def _frames_per_s(db: sqlite3.Connection, page: Any, moves: int) -> float:
    """Return the frames that are drawn a second while the points move and the map is dragged to and fro."""
    page.evaluate(_DRAG)
    _move(db, 1)
    frames, started = page.evaluate("mycomesh.views.map.points.frames"), time.monotonic()
    _move(db, moves)
    per_s = (page.evaluate("mycomesh.views.map.points.frames") - frames) / (time.monotonic() - started)
    page.evaluate("cancelAnimationFrame(mycomesh.dragging)")
    return float(per_s)


def _delays_ms(db: sqlite3.Connection, page: Any, writes: int) -> list[float]:
    """Return milliseconds from just before each commit to the screen."""
    (path,) = db.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
    committed: list[float] = []

    def write(value: int) -> None:
        time.sleep(WRITE_PAUSE_S)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=WAIT_S_MAX)) as own:
            committed.append(time.time_ns() / 1e6)
            own.execute("UPDATE points SET at = ?, lat = lat + 0.001 WHERE id = 1", (value,))

    seen = []
    for number in range(1_000_000, 1_000_000 + writes):
        writer = threading.Thread(target=write, args=(number,))
        writer.start()
        seen.append(page.evaluate(_SEEN, number))
        writer.join()
    return [there - here for there, here in zip(seen, committed, strict=True)]


def _page_bytes() -> int:
    """Return the compressed bytes that a browser loads: the page, what its script imports, the style and the land."""
    script = (STATIC / "main.js").read_text()
    parts = set(re.findall(r'(?:from|import)\s*"\./(part-[\w-]+\.js)"', script))
    names = {"index.html", "main.js", "main.css", "land.json", "icon.svg"} | parts
    return sum((STATIC / f"{name}.gz").stat().st_size for name in names)


def _until(check: Any, what: str) -> None:
    end = time.monotonic() + WAIT_S_MAX
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"not within {WAIT_S_MAX} s: {what}")
        time.sleep(0.05)
