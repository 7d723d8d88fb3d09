"""Real brokers for the contract of bridges, each on its own port and in its own folder, and clients that look from outside."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import http.server
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import warnings
from pathlib import Path
from typing import ClassVar

import aio_pika
import confluent_kafka
import nats
import paho.mqtt.client as paho
import pytest
from nats.js.api import StreamConfig
from paho.mqtt.enums import CallbackAPIVersion

from tests.free_ports import free_port
from tests.tools.bridges.kafka_login import LoginFront

WAIT_S = 60
IDLE_S = 0.5
USER, PASSWORD = "ground", "s3cret"


def wait_for_port(port, process=None, wait_s=WAIT_S):
    end = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process is None or process.poll() is None, "the broker ended"
        assert time.monotonic() < end, "the broker does not listen"
        time.sleep(0.02)


def wait_until_closed(port):
    end = time.monotonic() + WAIT_S
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            socket.create_connection(("127.0.0.1", port), 1).close()
            time.sleep(0.02)
        raise AssertionError(f"port {port} stays open")


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


async def filled(found, count):
    """Return when a list has so many items, or with None when nothing has come for a while."""
    size = -1
    while (len(found) < count) if count is not None else (len(found) != size):
        size = len(found)
        await asyncio.sleep(0.01 if count is not None else IDLE_S)


def program(name, *places):
    """Return the path of a broker's program; skip the test where it is not installed. `.ci/run` installs all of them."""
    found = next((str(path) for path in map(Path, places) if path.exists()), None) or shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


class Broker:
    """One broker as a process."""

    scheme = ""
    separator = "."
    outgoing = "fleet.{id}.at"  # the template of the rows that go out
    read_pattern = "fleet.>"
    incoming = "orders.>"
    send_topic = "orders.a"
    dedupes = False
    states_dedupe = True
    durable = True  # what it has acknowledged survives kill -9
    headers = True
    conflates = False
    creates = True  # what does not exist has to be created
    tls_scheme = ""
    shared = False  # it starts so slowly that all tests use one
    login: ClassVar = {}  # what every connection needs
    credentials: ClassVar = {"user": USER, "password": PASSWORD}  # that a broker with passwords wants
    wrong: ClassVar = ({"user": "", "password": ""}, {"user": USER, "password": "wrong"})
    more: ClassVar = {}  # settings of the scheme
    watched = True  # the end of an idle connection is noticed
    keeps = True  # messages that come in are kept until they are acknowledged

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

    @contextlib.asynccontextmanager
    async def watching(self):
        """Return a list of the messages that are published in the block, of a broker that does not keep them."""
        yield []

    async def read(self, count=None):
        """Return the first `count` messages that the broker has, by default all, as (topic, body, headers)."""
        raise NotImplementedError

    async def reset(self):
        """Forget what earlier tests have left in a shared one."""

    def listens_at(self, scheme):
        """Note where a scheme listens for messages that come in."""

    async def prepare(self):
        """Create what messages to come in need, such as a stream."""

    async def send(self, bodies, topic=None):
        """Publish messages to come in, in order; the broker has them for good when this returns."""
        raise NotImplementedError

    async def forget_reader(self):
        """Remove what holds the messages that come in, as an operator may; return False if there is no such thing."""
        return False


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
        return [program("nats-server", Path(sys.executable).parent / "nats-server"), "-c", str(config)]

    async def _connect(self):
        return await nats.connect(self.url, connect_timeout=5)

    async def read(self, count=None):
        client = await self._connect()
        try:
            subscription = await client.jetstream().subscribe(self.read_pattern, ordered_consumer=True)
            found = []
            while count is None or len(found) < count:
                try:
                    message = await subscription.next_msg(timeout=10 if count else IDLE_S)
                except nats.errors.TimeoutError:
                    assert count is None, f"only {len(found)} of {count}"
                    break
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

    async def forget_reader(self):
        client = await self._connect()
        try:
            stream = client.jetstream()
            name = await stream.find_stream_name_by_subject(self.incoming)
            for consumer in await stream.consumers_info(name):
                await stream.delete_consumer(name, consumer.name)
        finally:
            await client.close()
        return True

    async def count(self):
        client = await self._connect()
        try:
            name = await client.jetstream().find_stream_name_by_subject(self.read_pattern)
            return (await client.jetstream().stream_info(name)).state.messages
        except nats.js.errors.NotFoundError:
            return 0
        finally:
            await client.close()


class Mosquitto(Broker):
    """mosquitto keeps retained messages and sessions in memory, and loses them when it is killed."""

    scheme = "mqtt"
    tls_scheme = "mqtts"
    separator = "/"
    outgoing = "fleet/{id}/at"
    read_pattern = "fleet/#"
    incoming = "orders/#"
    send_topic = "orders/a"
    durable = False
    creates = False
    conflates = True  # the last message of each topic is kept
    version = 5

    def command(self):
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "user root", "max_queued_messages 0"]
        if self.auth:
            passwords = self.folder / "passwords"
            subprocess.run(
                ["mosquitto_passwd", "-b", "-c", str(passwords), USER, PASSWORD], check=True, capture_output=True
            )
            lines.append(f"password_file {passwords}")
        else:
            lines.append("allow_anonymous true")
        if self.tls:
            cert, key = certificate(self.folder)
            lines += [f"certfile {cert}", f"keyfile {key}"]
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return [program("mosquitto", "/usr/sbin/mosquitto"), "-c", str(config)]

    def _client(self, on_message=None):
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_message = on_message
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client

    @contextlib.asynccontextmanager
    async def watching(self):
        """Collect messages while the block runs: without a session, they are gone later."""
        found = []

        def on_message(_client, _data, message):
            headers = dict(getattr(message.properties, "UserProperty", ()))
            found.append((message.topic, message.payload, headers))

        client = self._client(on_message)
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe(self.read_pattern, 0)
        assert await asyncio.to_thread(subscribed.wait, 10)
        try:
            yield found
        finally:
            client.disconnect()
            client.loop_stop()

    async def read(self, count=None):
        """Return what is retained."""
        async with self.watching() as found:
            await filled(found, count)
            return list(found)

    async def send(self, bodies, topic=None):
        client = self._client()
        for body in bodies:
            info = client.publish(topic or self.send_topic, body, qos=1)
            await asyncio.to_thread(info.wait_for_publish, 10)
        client.disconnect()
        client.loop_stop()


class Rabbit(Broker):
    """RabbitMQ takes seconds to start, so that tests share one, which always wants a password and has a TLS port too."""

    scheme = "amqp"
    tls_scheme = "amqps"
    read_pattern = "fleet.#"
    incoming = "orders.#"
    shared = True
    login: ClassVar = {"user": USER, "password": PASSWORD}

    def __init__(self, folder, **how):
        super().__init__(folder, **how)
        self.plain_port, self.tls_port, self.distribution_port = self.port, free_port(), free_port()

    @property
    def url(self):
        return f"amqps://localhost:{self.tls_port}" if self.tls else f"amqp://127.0.0.1:{self.plain_port}"

    def command(self):
        return [program("rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")]

    def start(self):
        folder = self.folder
        cert, key = certificate(folder)
        lines = [
            f"listeners.tcp.local = 127.0.0.1:{self.plain_port}",
            f"listeners.ssl.local = 127.0.0.1:{self.tls_port}",
            f"ssl_options.cacertfile = {cert}",
            f"ssl_options.certfile = {cert}",
            f"ssl_options.keyfile = {key}",
            "ssl_options.verify = verify_none",
            "ssl_options.fail_if_no_peer_cert = false",
            f"default_user = {USER}",
            f"default_pass = {PASSWORD}",
            "log.console = false",
        ]
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (folder / "plugins").write_text("[].\n")
        distribution = f"-kernel inet_dist_use_interface {{127,0,0,1}} inet_dist_listen_min {self.distribution_port}"
        environ = {
            **os.environ,
            "RABBITMQ_NODENAME": f"t{self.plain_port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 {distribution} inet_dist_listen_max {self.distribution_port}",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),  # else one that all brokers of a machine share
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "HOME": str(folder),
        }
        with (folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=folder, env=environ, start_new_session=True
            )
        try:
            wait_for_port(self.plain_port, self.process, 3 * WAIT_S)  # it takes 20 s on a busy machine
        except AssertionError:
            self.stop()
            raise
        return self

    def kill(self):
        """Kill it once its queues and streams are known on its disk: it saves their names a second after it made them.

        RabbitMQ 3.10 never brings back those that it has not saved: "home node is down or inaccessible".
        """
        end = time.monotonic() + WAIT_S
        while not self._names_are_saved():
            assert time.monotonic() < end, "the names of its queues are not saved"
            time.sleep(0.1)
        self.stop()

    def _names_are_saved(self):
        for names in (self.folder / "mnesia").glob("*/*/*/names.dets"):
            saved = names.read_bytes()
            folders = [each.name for each in names.parent.iterdir() if each.is_dir()]
            if not all(name.encode() in saved for name in folders):
                return False
        return True

    def stop(self):
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(WAIT_S)
            self.process = None
            for port in (self.plain_port, self.distribution_port):  # the script has ended, and Erlang ends after it
                wait_until_closed(port)

    async def reset(self):
        async with await self._connect() as connection:
            channel = await connection.channel()
            for name in ("mycomesh-ground", "mycomesh-ground-in"):
                await channel.queue_delete(name)

    async def _connect(self):
        return await aio_pika.connect(f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.plain_port}/")

    async def read(self, count=None):
        """Read the stream that the bridge has created."""
        async with await self._connect() as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=100)
            queue = await channel.declare_queue("mycomesh-ground", passive=True)
            found = []

            async def on_message(message):
                headers = {name: str(value) for name, value in message.headers.items()}
                found.append((message.routing_key, message.body, headers))
                await message.ack()

            await queue.consume(on_message, arguments={"x-stream-offset": "first"})
            await filled(found, count)
            return list(found)

    async def forget_reader(self):
        async with await self._connect() as connection:
            channel = await connection.channel()
            await channel.queue_delete("mycomesh-ground-in")
        return True

    async def send(self, bodies, topic=None):
        async with await self._connect() as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange("amq.topic")
            for body in bodies:
                message = aio_pika.Message(body, delivery_mode=2, message_id=os.urandom(8).hex())
                await exchange.publish(message, topic or self.send_topic)


class KafkaMock(Broker):
    """librdkafka's mock cluster in a process of its own, which has a hang in place of a kill.

    It has neither passwords nor TLS: those are a test double before it.
    """

    scheme = "kafka"
    separator = ""
    outgoing = "fleet"
    read_pattern = "fleet"
    incoming = "orders"
    send_topic = "orders"
    wrong: ClassVar = ({"user": USER, "password": "wrong"}, {"user": "nobody", "password": PASSWORD})
    watched = False  # librdkafka connects again by itself
    front = None

    @property
    def url(self):
        return f"kafka://127.0.0.1:{self.port}" if self.front is None else f"kafka://localhost:{self.front.port}"

    def start(self):
        if self.process is not None:  # it hangs
            self.process.send_signal(signal.SIGCONT)
            return self
        program = (
            "import confluent_kafka, time\n"
            "p = confluent_kafka.Producer({'test.mock.num.brokers': 1, 'bootstrap.servers': 'x'})\n"
            "print(next(iter(p.list_topics(timeout=10).brokers.values())).port, flush=True)\n"
            "time.sleep(3600)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.port = int(self.process.stdout.readline())
        if self.auth or self.tls:
            login = (USER, PASSWORD) if self.auth else None
            self.front = LoginFront(self.port, login=login, tls=certificate(self.folder) if self.tls else None)
        return self

    def kill(self):
        self.process.send_signal(signal.SIGSTOP)

    def stop(self):
        if self.front is not None:
            self.front.stop()
            self.front = None
        if self.process is not None:
            self.process.kill()
            self.process.wait(WAIT_S)
            self.process.stdout.close()
            self.process = None

    def _read(self, count):
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": f"127.0.0.1:{self.port}",
                "group.id": os.urandom(4).hex(),
                "enable.auto.commit": False,
            }
        )
        partitions = consumer.list_topics("fleet", timeout=10).topics["fleet"].partitions
        consumer.assign([confluent_kafka.TopicPartition("fleet", number, 0) for number in partitions])
        found = []
        while count is None or len(found) < count:
            message = consumer.poll(10 if count else 2 * IDLE_S)
            if message is None:
                assert count is None, f"only {len(found)} of {count}"
                break
            if message.error() is None:
                headers = {name: value.decode() for name, value in message.headers() or ()}
                found.append((message.key().decode(), message.value() or b"", headers))
        consumer.close()
        return found

    async def read(self, count=None):
        return await asyncio.to_thread(self._read, count)

    def _send(self, bodies, topic):
        producer = confluent_kafka.Producer({"bootstrap.servers": f"127.0.0.1:{self.port}"})
        for body in bodies:
            producer.produce(topic, body, key="one")
        assert producer.flush(10) == 0

    async def send(self, bodies, topic=None):
        await asyncio.to_thread(self._send, bodies, topic or self.send_topic)


class HttpServer(Broker):
    """A server as a webhook has one: it answers 200, and 409 to a key that it has."""

    scheme = "http"
    tls_scheme = "https"
    separator = "/"
    outgoing = "fleet/{id}/at"
    incoming = "orders/**"
    send_topic = "orders/a"
    dedupes = True
    states_dedupe = False
    creates = False
    watched = False  # each request may open a connection
    keeps = False
    more: ClassVar = {"listen": "127.0.0.1:0"}
    login: ClassVar = {"token": PASSWORD}
    credentials: ClassVar = {"token": PASSWORD}
    wrong: ClassVar = ({"token": ""}, {"token": "wrong"})

    def __init__(self, folder, **how):
        super().__init__(folder, **how)
        self.got = []
        self.connections = []
        self.server = None

    def start(self):
        broker = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status = 200
                if broker.auth and self.headers.get("authorization") != f"Bearer {PASSWORD}":
                    status = 401
                elif any(headers["idempotency-key"] == self.headers["idempotency-key"] for _, _, headers in broker.got):
                    status = 409
                else:
                    headers = {name: urllib.parse.unquote(value) for name, value in self.headers.items()}
                    broker.got.append((self.path.strip("/"), body, headers))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            block_on_close = False

            def process_request(self, request, address):
                broker.connections.append(request)
                super().process_request(request, address)

            def handle_error(self, *_):
                pass

        self.server = Server(("127.0.0.1", self.port), Handler)
        if self.tls:
            cert, key = certificate(self.folder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def kill(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.connections.clear()
            self.server = None

    stop = kill

    async def read(self, count=None):
        await filled(self.got, count)
        return self.got[:count]

    def listens_at(self, scheme):
        self.listener = scheme.port

    def _send(self, body, topic):
        connection = http.client.HTTPConnection("127.0.0.1", self.listener, timeout=10)
        connection.request("POST", f"/{topic}", body, {"authorization": f"Bearer {PASSWORD}"})
        status = connection.getresponse().status
        connection.close()
        assert status == 202

    async def send(self, bodies, topic=None):
        for body in bodies:
            await asyncio.to_thread(self._send, body, topic or self.send_topic)


BROKERS = {"nats": Nats, "mqtt": Mosquitto, "amqp": Rabbit, "kafka": KafkaMock, "http": HttpServer}


def run(story):
    """Run a story with a bound on its time. Clients leave sockets behind when their broker is killed under them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return asyncio.run(asyncio.wait_for(story, 60))
        finally:
            gc.collect()
