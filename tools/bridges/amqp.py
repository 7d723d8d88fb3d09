"""The schemes `amqp://HOST:PORT/VHOST` and `amqps://`: RabbitMQ by AMQP 0-9-1, with quorum queues and streams.

Out: persistent, mandatory, with a confirm for each message. Without `mandatory` a broker confirms what no queue takes, without
`delivery_mode` 2 it confirms what it loses when it is killed. A topic is a routing key on the exchange of the section, or with
`exchange = ""` the name of a queue. In: a quorum queue of the bridge, bound to the patterns; with `stream = true` the topics are
names of streams, whose offset is kept in the file with the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosed,
    ChannelNotFoundEntity,
    DeliveryError,
    ProbableAuthenticationError,
)
from yarl import URL

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
from mycomesh.tools.bridges.tls import context_of, tls_error
from mycomesh.tools.tasks import end_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aio_pika.abc import (
        AbstractChannel,
        AbstractConnection,
        AbstractExchange,
        AbstractIncomingMessage,
        AbstractQueue,
    )

__all__ = ["AmqpScheme"]

CONNECT_S = 5
ACK_S = 10
HEARTBEAT_S = 10
SHORT_BYTES_MAX = 255  # of a message_id and a routing key
PAYLOAD_MAX = 16 << 20  # RabbitMQ takes up to 128 MiB, and slows down long before
KINDS = ("stream", "quorum")
DOWN = "is down or inaccessible"
# The client logs what it raises; what is raised is said once, by the bridge.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)
logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
LOST = (AMQPError, ConnectionError, OSError, RuntimeError, asyncio.InvalidStateError)


class AmqpScheme(Scheme):
    """One connection to a broker, with one channel for each direction."""

    wildcard_rest = "#"
    extra = "amqp"
    settings: Mapping[str, Any] = {"exchange": "amq.topic", "queue": "stream", "stream": False}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._pumps = Pumps()
        self._lost: asyncio.Future[str] | None = None

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL without a host, and settings that do not fit."""
        if not urlsplit(options.url).hostname:
            raise SchemeError(f"{options.url!r} names no host; write amqp://HOST:5672")
        if options.more.get("queue") not in KINDS:
            raise SchemeError(f"queue must be one of {', '.join(KINDS)}, not {options.more.get('queue')!r}")
        plain = not options.more.get("exchange")
        if (plain or options.more.get("stream")) and any("*" in topic or "#" in topic for topic in options.incoming):
            raise SchemeError(
                "with exchange = \"\" or stream = true, topics of 'in' are names of queues, without wildcards"
            )

    async def connect(self) -> None:
        """Connect, and find or create the queues behind the topics."""
        options = self.options
        parts = urlsplit(options.url)
        url = URL.build(
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=parts.port or (5671 if parts.scheme == "amqps" else 5672),
            user=options.user or parts.username or "guest",
            password=options.password or "guest",
            path=f"/{parts.path.strip('/')}" if parts.path.strip("/") else "/",
            query={"heartbeat": str(HEARTBEAT_S)},
        )
        server = f"{parts.scheme}://{url.host}:{url.port}"
        context = context_of(options.ca) if parts.scheme == "amqps" else None
        self._lost = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(CONNECT_S):
                self._connection = await aio_pika.connect(url, ssl_context=context)
            self._connection.close_callbacks.add(self._on_close)
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            self._channel.close_callbacks.add(self._on_close)
        except (AuthenticationError, ProbableAuthenticationError) as error:
            raise SchemeError(
                f"{server} refuses the name or the password; name a credentials file with the right ones"
            ) from error
        except ssl.SSLError as error:
            raise tls_error(server, error) from error
        except (*LOST, TimeoutError) as error:
            if isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error):
                raise tls_error(server, error.__cause__ or error) from error
            if "NOT_ALLOWED" in str(error) or "Connection.Close" in str(error):  # in place of Connection.OpenOk
                raise SchemeError(
                    f"{server} refuses the virtual host {unquote(parts.path) or '/'!r} for this user"
                ) from error
            hint = " (it may want TLS: amqps://)" if context is None and "closed" in str(error) else ""
            raise LinkError(f"cannot reach {server}: {reason(error)}{hint}") from error
        self.limits = Limits(payload_max=PAYLOAD_MAX)
        await self._find_exchange()

    async def _find_exchange(self) -> None:
        name = self.options.more["exchange"]
        channel = self._channel
        assert channel is not None, "connected"
        try:
            self._exchange = await channel.get_exchange(name) if name else channel.default_exchange
            for topic in self.options.outgoing if self.options.create else ():
                queue = topic if not name else f"mycomesh-{self.options.bridge}"
                found = await self._declare(queue, self.options.more["queue"])
                if name:
                    await found.bind(self._exchange, topic)
        except ChannelNotFoundEntity as error:
            if DOWN in str(error):  # the broker is up, and the leader of its queue is not yet
                raise LinkError(f"a queue is not there yet: {error}; delete it if it does not come back") from error
            raise SchemeError(
                f"there is no exchange {name!r}; create it, or name another one in the section"
            ) from error
        except ChannelClosed as error:
            raise SchemeError(f"the broker refuses: {error}") from error
        except LOST as error:
            raise LinkError(f"the connection was lost: {error}") from error

    async def _declare(self, queue: str, kind: str) -> AbstractQueue:
        assert self._channel is not None, "connected"
        return await self._channel.declare_queue(queue, durable=True, arguments=_kind(kind))

    def _on_close(self, _sender: object, error: BaseException | None = None) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(str(error or "the broker closed it"))

    def _on_consumer_cancel(self, _frame: object) -> None:
        """Note that the broker brings no more messages: the queue was deleted, or its node has left."""
        self._on_close(None, LinkError("the broker has cancelled the reader of a queue"))

    async def close(self) -> None:
        """End the connection."""
        await self._pumps.close()
        connection, self._connection, self._channel, self._exchange = self._connection, None, None, None
        if connection is not None:
            with contextlib.suppress(*LOST, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    await connection.close()

    # ---- out

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:
        """Publish all messages in order, and wait for their confirms."""
        exchange = self._exchange
        assert exchange is not None, "connected"
        whole = messages
        messages = [message for message in whole if not _too_long(message)]
        sends = [
            asyncio.ensure_future(exchange.publish(_message(message), message.topic, mandatory=True))
            for message in messages
        ]
        try:
            done, pending = await asyncio.wait(sends, timeout=ACK_S + len(messages) / 100)
            if pending:
                raise LinkError(f"{len(pending)} of {len(messages)} messages have no confirm within {ACK_S} s")
            for message, send in zip(messages, sends, strict=True):
                error = send.exception()
                if isinstance(error, DeliveryError):
                    raise SchemeError(_undelivered(message.topic, error))
                if isinstance(error, ChannelClosed):
                    raise LinkError(f"the broker closed the channel: {error}")
                if error is not None:
                    raise LinkError(f"the connection was lost: {reason(error)}")
            assert len(done) == len(messages)
        finally:
            await end_tasks(sends)
        return [_too_long(message) for message in whole]

    # ---- in

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Declare and bind the bridge's queue, or read streams from their offsets."""
        options, connection = self.options, self._connection
        assert connection is not None, "connected"
        try:
            channel = await connection.channel()
            channel.close_callbacks.add(self._on_close)
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(self._on_consumer_cancel)
            await channel.set_qos(prefetch_count=min(options.in_flight_max, 65_535))
            if options.more["stream"] or not options.more["exchange"]:
                for topic in options.incoming:
                    await self._consume_named(channel, topic, offsets)
            else:
                name = f"mycomesh-{options.bridge}-in"
                queue = await channel.declare_queue(name, durable=True, arguments=_kind("quorum"))
                for topic in options.incoming:
                    await queue.bind(options.more["exchange"], topic)
                await queue.consume(self._on_message)
        except ChannelNotFoundEntity as error:
            if DOWN in str(error):
                raise LinkError(f"a queue is not there yet: {error}; delete it if it does not come back") from error
            raise SchemeError(f"{error}; create it, or set create = true") from error
        except ChannelClosed as error:
            raise SchemeError(f"the broker refuses: {error}") from error
        except LOST as error:
            raise LinkError(f"cannot subscribe: {error}") from error

    async def _consume_named(self, channel: AbstractChannel, name: str, offsets: Mapping[str, int]) -> None:
        """Consume a queue, or a stream from behind the last offset; its arguments are not ours, so that it is found by name."""
        stream = self.options.more["stream"]
        if self.options.create:
            kind = _kind("stream" if stream else "quorum")
            queue = await channel.declare_queue(name, durable=True, arguments=kind)
        else:
            queue = await channel.declare_queue(name, passive=True)
        start: Any = offsets[name] + 1 if name in offsets else "next" if self.options.from_now else "first"
        more: dict[str, Any] = {"x-stream-offset": start} if stream else {}
        await queue.consume(self._on_stream if stream else self._on_message, arguments=more)

    async def watch(self) -> None:
        """Raise `LinkError` once the connection is lost."""
        assert self._lost is not None, "connected"
        raise LinkError(f"the connection was lost: {await self._lost}")

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        self._pumps.collect(_arrival(message))

    async def _on_stream(self, message: AbstractIncomingMessage) -> None:
        arrival = _arrival(message)
        arrival.source, arrival.offset = arrival.topic, int(str(message.headers.get("x-stream-offset", 0)))
        self._pumps.collect(arrival)

    async def receive(self) -> list[Arrival]:
        """Return what has come since."""
        return await self._pumps.get()

    async def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Acknowledge the last message and all before it: they came on one channel, in this order."""
        if arrivals:
            try:
                await arrivals[-1].token.ack(multiple=True)
            except LOST as error:
                raise LinkError(f"cannot acknowledge: {error}") from error

    # ---- test

    async def probe(self) -> list[Finding]:
        """Publish to a queue that lives as long as the connection, and read back."""
        channel = self._channel
        assert channel is not None, "connected"
        findings = [Finding("connect", True, "AMQP 0-9-1, with publisher confirms")]
        try:
            queue = await channel.declare_queue(f"mycomesh-test-{os.getpid()}", exclusive=True)
            findings.append(Finding("declare a queue", True, "allowed"))
            await channel.default_exchange.publish(aio_pika.Message(b"{}"), queue.name, mandatory=True)
            findings.append(Finding("publish", True, "the broker has confirmed"))
            found = await queue.get(timeout=CONNECT_S)
            findings.append(Finding("read back", found.body == b"{}", "the message came back"))
            await found.ack()
            await queue.delete()
        except (*LOST, TimeoutError) as error:
            findings.append(Finding("declare, publish or read", False, str(error)))
        return findings


def _kind(name: str) -> dict[str, Any]:
    return {"x-queue-type": name}


def _message(message: Message) -> aio_pika.Message:
    return aio_pika.Message(
        message.body or b"",
        headers=dict(message.headers),
        message_id=message.id,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def _too_long(message: Message) -> str:
    """Return why a message has no place in AMQP's short texts, "" if it has."""
    for name, text in (("id", message.id), ("routing key", message.topic)):
        if len(text.encode()) > SHORT_BYTES_MAX:
            return f"the {name} has more than {SHORT_BYTES_MAX} bytes, which AMQP does not take"
    return ""


def _arrival(message: AbstractIncomingMessage) -> Arrival:
    headers = {name: str(value) for name, value in message.headers.items()}
    return Arrival(
        topic=message.routing_key or "",
        body=message.body,
        id=message.message_id or "",
        headers=headers,
        at_ms=None if message.timestamp is None else int(message.timestamp.timestamp() * 1000),
        delete=headers.get("mesh-op") == "delete" and not message.body,
        token=message,
    )


def _undelivered(topic: str, error: DeliveryError) -> str:
    if error.message is not None and getattr(error.message, "delivery", None) is not None:
        code = getattr(error.message.delivery, "reply_code", 0)
        if code == 312:  # NO_ROUTE, the answer to a mandatory message
            return f"no queue takes the routing key {topic!r}; bind one to the exchange, or set create = true"
    return f"the queue for {topic!r} does not take the message: it is full, or its leader is gone"
