"""A real node with one section of config.toml, for the benchmarks of what runs beside a node: bridges and flows."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.bench.servers import running

__all__ = ["node_with", "running_child"]

_START_S = 120  # for a child to start


@contextlib.contextmanager
def node_with(folder: Path, section: str, create: str = "") -> Iterator[tuple[int, Home, sqlite3.Connection]]:
    """Run a node with the section and a file made by the SQL; yield its process id, its home, and a stock client of the file."""
    home, path = Home.locate(folder / "home", {}), folder / "fleet.db"
    run = [sys.executable, "-m", "mycomesh.tools", "--home", str(home.config)]
    subprocess.run([*run, "init"], check=True, capture_output=True)  # noqa: S603 -- our own command
    home.config_file.write_text(section)
    home.config_file.chmod(0o600)
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as app:
        app.executescript(create)
        with running([*run, "up", str(path), "--port", "0", "--no-multicast"]) as pid:
            yield pid, home, app


def running_child(home: Home) -> dict[str, Any]:
    """Return the first child of the node that runs, as `status` has it.

    Raises:
        BenchError: none has started.
    """
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        with contextlib.suppress(NodeError):
            for child in ask(home, "status")["children"]:
                if child["state"] == "running" and child["pid"]:
                    found: dict[str, Any] = child
                    return found
        time.sleep(0.02)
    raise BenchError("the child of the node did not start")
