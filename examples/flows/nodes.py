"""Nodes on this machine for the examples, and a slow link between two of them."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MYCOMESH = [sys.executable, "-m", "mycomesh.tools"]
WAIT_S = 90


class Node:
    """One machine: a home, a file, and its node."""

    def __init__(self, place: Path, name: str, config: str = "") -> None:
        self.name = name
        self.folder = place / name
        self.folder.mkdir()
        self.file = self.folder / "app.db"
        self.home = self.folder / "home"
        self.home.mkdir(mode=0o700)
        (self.home / "config.toml").write_text(config)
        (self.home / "config.toml").chmod(0o600)
        self.db = sqlite3.connect(self.file, isolation_level=None, timeout=30)
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str) -> str:
        """Run one command of this machine; return what it prints."""
        command = [*MYCOMESH, "--home", str(self.home), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name}: mycomesh {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def up(self, *words: str) -> None:
        """Start the node and wait until it serves the file."""
        command = [*MYCOMESH, "--home", str(self.home), "up", str(self.file), "--port", "0", "--no-multicast", *words]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self.port, f"{self.name} serves")

    def status(self) -> dict[str, Any]:
        """Return what `mycomesh status --json` prints, {} without a node."""
        command = [*MYCOMESH, "--home", str(self.home), "status", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found

    def port(self) -> int:
        """Return the port on which peers reach it, 0 before it serves."""
        status = self.status()
        return int(status.get("port") or 0) if status.get("phase") == "serving" else 0

    def join(self, first: Node, port: int) -> None:
        """Become a member of the mesh of another node, which is reached at a port of this machine."""
        self.run(
            "join",
            first.run("invite").strip(),
            "--no-multicast",
            "--peer",
            f"127.0.0.1:{port}",
            "--node-name",
            self.name,
        )

    def one(self, sql: str) -> object:
        """Return the first value that a SELECT finds, None while its table is not there."""
        try:
            row = self.db.execute(sql).fetchone()
        except sqlite3.OperationalError:
            return None
        return row[0] if row else None

    def close(self) -> None:
        """End the node."""
        self.db.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


def until(check: Callable[[], object], what: str) -> object:
    """Wait until a check is true; return its result."""
    end = time.monotonic() + WAIT_S
    while not (found := check()):
        if time.monotonic() > end:
            raise SystemExit(f"not within {WAIT_S} s: {what}")
        time.sleep(0.02)
    return found


class SlowLink:
    """A port that forwards to another one, so many bytes a second each way."""

    def __init__(self, target: int, bytes_per_s: int) -> None:
        self._target = target
        self._rate = bytes_per_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, sink in ((near, far), (far, near)):
                for end in (source, sink):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(4_096):
                sink.sendall(piece)
                time.sleep(len(piece) / self._rate)
        except OSError:
            pass
        sink.close()
