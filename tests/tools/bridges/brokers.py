"""Real brokers for the contract of bridges, each on its own port and in its own folder, and clients that look from outside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nats
from nats.js.api import StreamConfig

WAIT_S = 30
USER, PASSWORD = "ground", "s3cret"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, process=None):
    end = time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process is None or process.poll() is None, "the broker ended"
        assert time.monotonic() < end, "the broker does not listen"
        time.sleep(0.02)


def certificate(folder):
    """Make a certificate for localhost that signs itself; return the files of it and of its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    if not cert.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", str(key), "-out", str(cert)],
            check=True, capture_output=True,
        )  # fmt: skip
        key.chmod(0o644)
    return cert, key


class Broker:
    """One broker as a process."""

    scheme = ""
    separator = "."
    outgoing = "fleet.{id}.at"  # the template of the rows that go out
    read_pattern = "fleet.>"
    incoming = "orders.>"
    send_topic = "orders.a"
    dedupes = False
    durable = True  # what it has acknowledged survives kill -9
    headers = True
    creates = True  # what does not exist has to be created
    tls_scheme = ""

    def __init__(self, folder, *, auth=False, tls=False):
        self.folder = folder
        self.auth = auth
        self.tls = tls
        self.port = free_port()
        self.process = None

    @property
    def url(self):
        scheme = self.tls_scheme if self.tls and self.tls_scheme else self.scheme
        return f"{scheme}://localhost:{self.port}" if self.tls else f"{scheme}://127.0.0.1:{self.port}"

    def command(self):
        raise NotImplementedError

    def start(self):
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder)
        wait_for_port(self.port, self.process)
        return self

    def kill(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(WAIT_S)
            self.process = None

    stop = kill

    async def read(self, count):
        """Return the first `count` messages that the broker has, as (topic, body, headers)."""
        raise NotImplementedError

    async def send(self, bodies, topic=None):
        """Publish messages to come in, in order; the broker has them for good when this returns."""
        raise NotImplementedError


class Nats(Broker):
    scheme = "nats"
    dedupes = True

    def command(self):
        lines = [f"listen: 127.0.0.1:{self.port}"]
        lines += ["jetstream {", f'store_dir: "{self.folder}"', "sync_interval: always", "}"]
        if self.auth:
            lines.append(f"authorization {{ user: {USER}, password: {PASSWORD} }}")
        if self.tls:
            cert, key = certificate(self.folder)
            lines.append(f'tls {{ cert_file: "{cert}", key_file: "{key}" }}')
        config = self.folder / "nats.conf"
        config.write_text("\n".join(lines))
        return [str(Path(sys.executable).parent / "nats-server"), "-c", str(config)]

    async def _connect(self):
        return await nats.connect(self.url, connect_timeout=5)

    async def read(self, count):
        client = await self._connect()
        try:
            subscription = await client.jetstream().subscribe(self.read_pattern, ordered_consumer=True)
            found = []
            while len(found) < count:
                message = await subscription.next_msg(timeout=10)
                found.append((message.subject, message.data, dict(message.headers or {})))
            return found
        finally:
            await client.close()

    async def send(self, bodies, topic=None):
        client = await self._connect()
        try:
            stream = client.jetstream()
            with contextlib.suppress(nats.js.errors.BadRequestError):
                await stream.add_stream(StreamConfig(name="orders", subjects=["orders.>"]))
            for body in bodies:
                await stream.publish(topic or self.send_topic, body)
        finally:
            await client.close()

    async def count(self):
        client = await self._connect()
        try:
            name = await client.jetstream().find_stream_name_by_subject(self.read_pattern)
            return (await client.jetstream().stream_info(name)).state.messages
        finally:
            await client.close()


BROKERS = {"nats": Nats}


def run(story):
    """Run a story with a bound on its time. Clients leave sockets behind when their broker is killed under them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return asyncio.run(asyncio.wait_for(story, 60))
        finally:
            gc.collect()
