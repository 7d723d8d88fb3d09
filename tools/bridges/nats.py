"""The scheme `nats://HOST:PORT`: JetStream, whose streams keep messages and drop those with an id that they have.

Out: `Nats-Msg-Id` is the id of the change. A page is sent at once, and the acknowledgements of the stream are collected on one
inbox. In: one durable pull consumer for each pattern, named by the bridge, so that another node goes on where this one was.

The server counts headers towards its payload limit, the client does not: a message above it would end the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nats
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServiceUnavailableError

from mycomesh.mesh.io.nats_client import (
    CONNECT_S,
    PORT_DEFAULT,
    Connection,
    NatsConnectError,
    NatsServer,
    connect,
)
from mycomesh.tools.bridges.receiving import Pumps
from mycomesh.tools.bridges.scheme import (
    Arrival,
    Finding,
    Limits,
    LinkError,
    Message,
    Options,
    Scheme,
    SchemeError,
    reason,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

__all__ = ["NatsScheme"]

ACK_S = 10  # without one acknowledgement, the connection counts as lost
FETCH_S = 5
ACK_WAIT_S = 5  # then the server gives a message again
HEADERS_BYTES = 1_024  # of the server's payload limit
WINDOW_S = 3_600  # in which a stream that the bridge creates recognises ids
TOO_LARGE = 10_054  # the stream's own limit on a message
NO_RESPONDERS = "503"
ID = "Nats-Msg-Id"


class NatsScheme(Scheme):
    """One connection to a server of NATS."""

    extra = "nats"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._client: Client | None = None
        self._lost: asyncio.Future[str] | None = None
        self._inbox = ""
        self._waiting: dict[int, str] = {}  # number of a message -> its answer, "" while it is on its way
        self._answered = asyncio.Event()
        self._open = 0
        self._pumps = Pumps()
        self._created: dict[str, str] = {}  # stream -> when it was created
        self._connection: Connection | None = None

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL without a host."""
        if not urlsplit(options.url).hostname:
            raise SchemeError(f"{options.url!r} names no host; write nats://HOST:4222")

    async def connect(self) -> None:
        """Connect, and find the streams that take the topics."""
        options = self.options
        lost = self._lost = asyncio.get_running_loop().create_future()

        def on_lost(reason: str) -> None:
            if not lost.done():
                lost.set_result(reason)

        parts = urlsplit(options.url)
        assert parts.hostname is not None, "checked before"
        server = NatsServer(
            parts.hostname,
            parts.port or PORT_DEFAULT,
            options.user or parts.username or "",
            options.password,
            options.token,
            options.ca or "",
        )
        try:
            self._connection = await connect(server, f"mycomesh {options.bridge}", on_lost)
        except NatsConnectError as error:
            raise (SchemeError if error.refused else LinkError)(str(error)) from error
        self._client = self._connection.client
        self.limits = Limits(payload_max=self._client.max_payload - HEADERS_BYTES, dedupes=True)
        self._inbox = self._client.new_inbox()
        async with self._refusals("subscribe to the acknowledgements"):
            await self._client.subscribe(
                f"{self._inbox}.*", cb=self._on_answer, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        if options.create:
            await self._create_streams()
        for topic in options.outgoing:
            await self._stream_of(topic)

    @property
    def _jetstream(self) -> JetStreamContext:
        assert self._client is not None, "connected"
        found: JetStreamContext = self._client.jetstream(timeout=CONNECT_S)
        return found

    async def _create_streams(self) -> None:
        missing = []
        for topic in (*self.options.outgoing, *self.options.incoming):
            try:
                await self._stream_of(topic)
            except SchemeError:
                missing.append(topic)
        if not missing:
            return
        name = f"mycomesh-{self.options.bridge}"
        config = StreamConfig(name=name, subjects=missing, duplicate_window=WINDOW_S)
        async with self._refusals(f"create the stream {name}"):
            try:
                await self._jetstream.add_stream(config)
            except BadRequestError:
                info = await self._jetstream.stream_info(name)
                config.subjects = sorted({*(info.config.subjects or ()), *missing})
                await self._jetstream.update_stream(config)

    async def _stream_of(self, topic: str) -> str:
        async with self._refusals(f"look for the stream of {topic!r}"):
            try:
                found: str = await self._jetstream.find_stream_name_by_subject(topic)
            except NotFoundError as error:
                raise SchemeError(
                    f"no stream takes the subject {topic!r}; create one (nats stream add), or set create = true"
                ) from error
            if found not in self._created:
                info = await self._jetstream.stream_info(found)
                self._created[found] = str(info.created)
        return found

    @contextlib.asynccontextmanager
    async def _refusals(self, what: str) -> Any:
        """Turn the server's answers to a request of JetStream into this package's errors."""
        try:
            yield
        except ServiceUnavailableError as error:
            raise SchemeError(
                f"cannot {what}: JetStream is not enabled at the server, or not for this user; start it with -js"
            ) from error
        except APIError as error:
            raise SchemeError(f"cannot {what}: {error.description or error}") from error
        except NatsError as error:
            said = "" if self._connection is None else self._connection.last_error
            text = said or reason(error)
            if "permissions" in text.lower():
                raise SchemeError(f"cannot {what}: {text}") from error
            raise LinkError(f"cannot {what}: {text}") from error

    async def watch(self) -> None:
        """Raise `LinkError` once the connection is lost."""
        assert self._lost is not None, "connected"
        raise LinkError(f"the connection was lost: {await self._lost}")

    async def close(self) -> None:
        """End the connection."""
        await self._pumps.close()
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    await client.close()

    # ---- out

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:
        """Send all messages, then collect their answers."""
        client, lost = self._client, self._lost
        assert client is not None, "connected"
        assert lost is not None, "connected"
        self._waiting = dict.fromkeys(range(len(messages)), "")
        self._open = len(messages)
        self._answered.clear()
        try:
            for number, message in enumerate(messages):
                headers = {**message.headers, ID: message.id}
                await client.publish(message.topic, message.body or b"", f"{self._inbox}.{number}", headers)
            while self._open:
                before = self._open
                done = asyncio.ensure_future(self._answered.wait())
                waits: list[asyncio.Future[Any]] = [done, lost]
                await asyncio.wait(waits, timeout=ACK_S, return_when=asyncio.FIRST_COMPLETED)
                done.cancel()
                if lost.done() and self._open:
                    raise LinkError(f"the connection was lost: {lost.result()}")
                if self._open == before:
                    raise LinkError(f"no acknowledgement within {ACK_S} s")
        except NatsError as error:
            raise LinkError(f"cannot publish: {reason(error)}") from error
        answers = [self._waiting[number] for number in range(len(messages))]
        missing = next(
            (message.topic for message, answer in zip(messages, answers, strict=True) if answer == NO_RESPONDERS), ""
        )
        if missing:
            raise SchemeError(f"no stream takes the subject {missing!r}; create one, or set create = true")
        refused = next((answer for answer in answers if answer.startswith("!")), "")
        if refused:
            raise SchemeError(f"the stream refuses: {refused[1:]}")
        return ["" if answer == "stored" else answer for answer in answers]

    async def _on_answer(self, message: Msg) -> None:
        number = int(message.subject.rpartition(".")[2])
        if self._waiting.get(number) != "":
            return
        self._waiting[number] = _answer_of(message)
        self._open -= 1
        if not self._open:
            self._answered.set()

    # ---- in

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Create or find the durable consumers, and begin to fetch."""
        del offsets
        options = self.options
        for pattern in options.incoming:
            stream = await self._stream_of(pattern)
            name = f"mycomesh-{options.bridge}-{hashlib.blake2b(pattern.encode(), digest_size=4).hexdigest()}"
            config = ConsumerConfig(
                durable_name=name,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_S,
                max_ack_pending=2 * options.in_flight_max,
                deliver_policy=DeliverPolicy.NEW if options.from_now else DeliverPolicy.ALL,
            )
            async with self._refusals(f"create the consumer {name}"):
                with contextlib.suppress(NotFoundError):
                    config = (await self._jetstream.consumer_info(stream, name)).config
                found = await self._jetstream.pull_subscribe(pattern, name, stream=stream, config=config)
            self._pumps.start(functools.partial(self._fetch, found, stream))

    async def _fetch(self, subscription: Any, stream: str) -> None:
        lost = self._lost
        assert lost is not None, "connected"
        prefix = f"{stream}@{self._created[stream]}"
        while True:
            try:
                messages = await subscription.fetch(self.options.in_flight_max, timeout=FETCH_S)
            except (TimeoutError, nats.errors.TimeoutError):
                messages = []
            except (NatsError, APIError) as error:
                raise LinkError(f"cannot fetch from the stream {stream}: {error}") from error
            if lost.done():
                raise LinkError(f"the connection was lost: {lost.result()}")
            if messages:
                await self._pumps.put([_arrival(message, prefix) for message in messages])

    async def receive(self) -> list[Arrival]:
        """Return what was fetched next."""
        return await self._pumps.get()

    async def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Acknowledge each message; one whose acknowledgement is lost comes again, and is recognised."""
        try:
            for arrival in arrivals:
                await arrival.token.ack()
        except NatsError as error:
            raise LinkError(f"cannot acknowledge: {reason(error)}") from error

    # ---- test

    async def probe(self) -> list[Finding]:
        """Create a stream in memory, publish to it twice under one id, read it back, and remove it."""
        client = self._client
        assert client is not None, "connected"
        info = client.connected_server_version
        findings = [
            Finding("connect", True, f"nats-server {info}, payloads up to {client.max_payload:,} bytes with headers")
        ]
        subject = f"mycomesh-test-{os.getpid()}"
        try:
            async with self._refusals("create a stream"):
                await self._jetstream.add_stream(
                    StreamConfig(name=subject, subjects=[subject], storage=StorageType.MEMORY, max_age=60)
                )
            try:
                message = Message(subject, b"{}", "test", "1", {})
                taken = [(await self.publish([message]))[0] for _ in range(2)]
                findings.append(Finding("publish", taken[0] == "", "the stream has acknowledged"))
                good = taken[1] == "duplicate"
                findings.append(
                    Finding("duplicate", good, "an id that was sent twice is stored once" if good else taken[1])
                )
                async with self._refusals("read back"):
                    found = await self._jetstream.get_last_msg(subject, subject)
                findings.append(Finding("read back", found.data == b"{}", f"message {found.seq}"))
            finally:
                with contextlib.suppress(NatsError, APIError):
                    await self._jetstream.delete_stream(subject)
        except (SchemeError, LinkError) as error:
            findings.append(Finding("JetStream", False, str(error)))
        return findings


def _answer_of(message: Msg) -> str:
    """Return the answer of a stream: stored, duplicate, 503 without a stream, else why it refuses; with ! if it refuses all."""
    headers = message.headers or {}
    if headers.get("Status") == NO_RESPONDERS:
        return NO_RESPONDERS
    answer = json.loads(message.data)
    error = answer.get("error")
    if error is None:
        return "duplicate" if answer.get("duplicate") else "stored"
    text = str(error.get("description", "the stream refuses"))
    return text if error.get("err_code") == TOO_LARGE else f"!{text}"


def _arrival(message: Msg, prefix: str) -> Arrival:
    metadata = message.metadata
    headers = dict(message.headers or {})
    return Arrival(
        topic=message.subject,
        body=message.data,
        id=f"{prefix}:{metadata.sequence.stream}",
        headers=headers,
        at_ms=int(metadata.timestamp.timestamp() * 1000),
        delete=headers.get("mesh-op") == "delete" and not message.data,
        token=message,
    )
