"""The scheme `kafka://HOST:PORT`: topics with partitions, by librdkafka.

Out: an idempotent producer; the key of a message is the row's key, so that its changes stay in order in one partition, and a
topic with `cleanup.policy=compact` keeps the last of each row. A delete is a tombstone. In: the partitions are assigned by the
bridge itself, and their offsets are kept in the file with the rows: the group's own offsets are not used.

librdkafka has threads of its own; calls that wait run on a thread of the loop's executor.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from mycomesh.tools.bridges.receiving import Pumps
from mycomesh.tools.bridges.scheme import Arrival, Finding, Limits, LinkError, Message, Options, Scheme, SchemeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confluent_kafka import Message as KafkaMessage

__all__ = ["KafkaScheme"]

CONNECT_S = 5
ACK_S = 10
CREATE_S = 2
POLL_S = 0.2
READ_S = 15  # until a first message comes back
PAYLOAD_MAX = 1_000_000  # message.max.bytes of librdkafka and of a broker is 1,000,000 and 1,048,588
HEADERS_BYTES = 1_024
AUTH = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001 -- the library's own names
DENIED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
FINAL = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG,
    KafkaError.TOPIC_EXCEPTION,  # a topic with a character that Kafka does not take
    KafkaError._INVALID_ARG,  # noqa: SLF001
)


class KafkaScheme(Scheme):
    """A producer and a consumer of one cluster."""

    extra = "kafka"
    wildcard_rest = "\0"  # a topic has no levels, and a pattern names one topic
    wildcard_level = "\1"
    settings: Mapping[str, Any] = {"partitions": 1, "config": {}}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._error: tuple[int, str] = (0, "")
        self._cause = self._error
        self._topics: dict[str, int] = {}  # topic -> partitions
        self._pumps = Pumps()

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL without a host, and settings of librdkafka that would lose messages."""
        if not urlsplit(options.url).hostname:
            raise SchemeError(f"{options.url!r} names no host; write kafka://HOST:9092")
        held = {"enable.idempotence", "acks", "enable.auto.commit", "bootstrap.servers"} & options.more["config"].keys()
        if held:
            raise SchemeError(f"config may not have {min(held)!r}: the bridge sets it, so that nothing is lost")

    def _config(self) -> dict[str, Any]:
        options = self.options
        parts = urlsplit(options.url)
        config: dict[str, Any] = {
            "bootstrap.servers": f"{parts.hostname}:{parts.port or 9092}",
            "client.id": f"mycomesh-{options.bridge}",
            "error_cb": self._on_error,
            "logger": None,
            "log_level": 0,
            "socket.connection.setup.timeout.ms": 1_000 * CONNECT_S,
            "reconnect.backoff.max.ms": 1_000,
            "socket.keepalive.enable": True,
        }
        del config["logger"]
        tls = bool(options.ca)
        if options.user:
            config |= {"sasl.mechanism": "PLAIN", "sasl.username": options.user, "sasl.password": options.password}
            config["security.protocol"] = "sasl_ssl" if tls else "sasl_plaintext"
        elif tls:
            config["security.protocol"] = "ssl"
        if tls:
            config["ssl.ca.location"] = options.ca
        return config | dict(options.more["config"])

    def _on_error(self, error: KafkaError) -> None:
        """Keep the last error of librdkafka, and the last that says why; one of its threads calls this within a poll."""
        self._error = (error.code(), error.str())
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self._cause = self._error

    async def connect(self) -> None:
        """Fetch the metadata, and find or create the topics."""
        self._error = self._cause = (0, "")
        server = self._config()["bootstrap.servers"]
        config = self._config() | {
            "enable.idempotence": True,
            "linger.ms": 2,
            "message.timeout.ms": 1_000 * ACK_S,
            "queue.buffering.max.messages": 100_000,
        }
        try:
            producer = self._producer = Producer(config)
        except (KafkaException, ValueError, TypeError) as error:
            first = error.args[0]
            why = first.str() if isinstance(first, KafkaError) else error
            raise SchemeError(
                f"librdkafka refuses a setting: {why}; correct 'config' or 'ca' in the section"
            ) from error
        self.limits = Limits(payload_max=PAYLOAD_MAX - HEADERS_BYTES)
        try:
            metadata = await asyncio.to_thread(producer.list_topics, timeout=CONNECT_S)
        except KafkaException as error:
            producer.poll(0)  # the cause is in the callback
            raise self._refusal(server, error) from error
        self._topics = {name: len(topic.partitions) for name, topic in metadata.topics.items()}
        for topic in (*self.options.outgoing, *self.options.incoming):
            if self.wildcard_level not in topic and topic not in self._topics:
                await self._create(topic)

    def _refusal(self, server: str, error: KafkaException) -> SchemeError | LinkError:
        code, text = self._cause if self._cause[0] else self._error
        if "handshake failed" in text and "SASL" in text:
            return SchemeError(
                f"{server} takes another kind of login: {_short(text)}; name it, such as"
                ' config = { "sasl.mechanism" = "SCRAM-SHA-512" }'
            )
        if code in AUTH:
            return SchemeError(
                f"{server} refuses the name or the password; name a credentials file with the right ones"
            )
        if code == KafkaError._SSL or any(said in text.lower() for said in ("ssl handshake", "ssl routines")):  # noqa: SLF001
            return SchemeError(f'TLS with {server} fails: {_short(text)}; name the certificates to trust: ca = "FILE"')
        if code == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 -- it says nothing when a broker hangs up
            text += ' (it may want TLS: ca = "FILE", or a name and a password: credentials = "FILE")'
        return LinkError(f"cannot reach {server}: {_short(text) or error.args[0].str()}")

    async def _create(self, topic: str) -> None:
        if not self.options.create:
            raise SchemeError(f"there is no topic {topic!r}; create it, or set create = true")
        partitions = int(self.options.more["partitions"])
        new = NewTopic(topic, num_partitions=partitions, replication_factor=-1, config={"cleanup.policy": "compact"})
        admin = AdminClient(self._config())
        try:
            made = admin.create_topics([new], operation_timeout=CREATE_S, request_timeout=CREATE_S)[topic]
            await asyncio.to_thread(made.result)
        except KafkaException as error:
            code = error.args[0].code()
            if code in DENIED:
                raise SchemeError(f"this user may not create the topic {topic!r}") from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS and not await self._is_made_by_name(topic):
                raise LinkError(f"cannot create the topic {topic!r}: {error.args[0].str()}") from error
        self._topics.setdefault(topic, partitions)

    async def _is_made_by_name(self, topic: str) -> bool:
        """Return whether a cluster that knows no request to create topics makes them when they are named."""
        assert self._producer is not None
        found = (await asyncio.to_thread(self._producer.list_topics, topic, timeout=CONNECT_S)).topics[topic]
        if found.error is None:
            self._topics[topic] = len(found.partitions)
        return found.error is None

    async def close(self) -> None:
        """End both clients; messages that wait are dropped, since the feed has them."""
        await self._pumps.close()
        producer, self._producer = self._producer, None
        consumer, self._consumer = self._consumer, None
        if producer is not None:
            producer.purge()
            await asyncio.to_thread(producer.flush, 1)
        if consumer is not None:
            with contextlib.suppress(RuntimeError, KafkaException):
                await asyncio.to_thread(consumer.close)

    # ---- out

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:
        """Produce all messages, and wait for the reports of the brokers."""
        producer = self._producer
        assert producer is not None, "connected"
        batch = _Batch(messages)
        try:
            await asyncio.to_thread(batch.send, producer)
        except KafkaException as error:
            raise LinkError(f"cannot produce: {error.args[0].str()}") from error
        except BufferError as error:
            raise LinkError("the producer's queue is full") from error
        if batch.lost:
            raise undelivered(batch.lost[0])
        if None in batch.answers:
            raise LinkError(f"the connection was lost: no acknowledgement within {ACK_S} s")
        return [answer or "" for answer in batch.answers]

    # ---- in

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Assign every partition of the topics, from behind the last offset in the file."""
        config = self._config() | {
            "group.id": f"mycomesh-{self.options.bridge}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "latest" if self.options.from_now else "earliest",
            "queued.max.messages.kbytes": 16_384,
        }
        begin = OFFSET_END if self.options.from_now else OFFSET_BEGINNING
        self._consumer = Consumer(config)
        parts = []
        for topic in self.options.incoming:
            metadata = await asyncio.to_thread(self._consumer.list_topics, topic, timeout=CONNECT_S)
            for number in metadata.topics[topic].partitions or range(self._topics.get(topic, 1)):
                source = f"{topic}/{number}"
                parts.append(TopicPartition(topic, number, offsets[source] + 1 if source in offsets else begin))
        self._consumer.assign(parts)
        self._pumps.start(self._poll)

    async def _poll(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        while True:
            messages = await asyncio.to_thread(consumer.consume, self.options.in_flight_max, POLL_S)
            found = []
            for message in messages:
                error = message.error()
                if error is None:
                    found.append(_arrival(message))
                elif error.code() not in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART):  # noqa: SLF001
                    raise denied(error, "read") or LinkError(f"cannot consume: {error.str()}")
            if self._error[0] == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                raise LinkError(f"the connection was lost: {_short(self._cause[1] or self._error[1])}")
            if found:
                await self._pumps.put(found)

    async def receive(self) -> list[Arrival]:
        """Return what was polled next."""
        return await self._pumps.get()

    # ---- test

    async def probe(self) -> list[Finding]:
        """Produce one message to a topic of its own, and read it back."""
        topic = f"mycomesh-test-{os.getpid()}"
        findings = [Finding("connect", True, f"{len(self._topics)} topics, payloads up to {PAYLOAD_MAX:,} bytes")]
        probe = KafkaScheme(replace(self.options, bridge="test", create=True, outgoing=(), incoming=(topic,)))
        try:
            await probe.connect()
            findings.append(Finding("create a topic", True, topic))
            refused = (await probe.publish([Message(topic, b"{}", "test", "1", {})]))[0]
            findings.append(Finding("produce", not refused, refused or "the broker has acknowledged"))
            await probe.subscribe({})
            async with asyncio.timeout(READ_S):
                found = await probe.receive()
            findings.append(Finding("read back", found[0].body == b"{}", "the message came back"))
        except TimeoutError:
            findings.append(Finding("read back", False, f"nothing came back within {READ_S} s"))
        except (LinkError, SchemeError, KafkaException) as error:
            findings.append(Finding("create, produce or read", False, str(error)))
        finally:
            await probe.close()
            gone = AdminClient(self._config()).delete_topics([topic], request_timeout=CREATE_S)[topic]
            with contextlib.suppress(KafkaException):
                await asyncio.to_thread(gone.result)
        return findings


class _Batch:
    """Messages that are produced together, and what became of each."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self.answers: list[str | None] = [None] * len(messages)  # "" for taken, or why it is refused for ever
        self.lost: list[KafkaError] = []

    def send(self, producer: Producer) -> None:
        """Produce all messages, and wait for the reports; on a thread."""
        for number, message in enumerate(self._messages):
            headers: Any = [(name, value.encode()) for name, value in message.headers.items()]
            report = functools.partial(self._report, number)
            try:
                producer.produce(message.topic, message.body, message.key.encode(), on_delivery=report, headers=headers)
            except KafkaException as error:  # the client refuses it before it is sent
                if error.args[0].code() not in FINAL:
                    raise
                self._report(number, error.args[0], None)
            producer.poll(0)
        producer.flush(ACK_S)

    def _report(self, number: int, error: KafkaError | None, _message: KafkaMessage | None) -> None:
        if error is None:
            self.answers[number] = ""
        elif error.code() in FINAL:
            self.answers[number] = f"it is refused: {error.str()}"
        else:
            self.lost.append(error)


def denied(error: KafkaError, what: str) -> SchemeError | None:
    """Return that this user lacks a right, if an error of a topic says so."""
    if error.code() not in DENIED:
        return None
    return SchemeError(f"this user may not {what} the topics: {error.str()}; grant it the right at the brokers")


def undelivered(error: KafkaError) -> SchemeError | LinkError:
    """Return why messages were not taken, which may come again."""
    why = error.str()
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):  # noqa: SLF001
        return SchemeError(f"a topic is missing: {why}; create it, or set create = true")
    return denied(error, "write to") or LinkError(f"the connection was lost: {why}")


def _arrival(message: KafkaMessage) -> Arrival:
    pairs: Any = message.headers() or ()
    headers = {name: (value or b"").decode(errors="replace") for name, value in pairs}
    kind, at_ms = message.timestamp()
    source, offset = f"{message.topic()}/{message.partition()}", int(message.offset() or 0)
    return Arrival(
        topic=str(message.topic()),
        body=message.value() or b"",
        id=f"{source}@{offset}",
        headers=headers,
        at_ms=at_ms if kind else None,
        delete=message.value() is None,
        source=source,
        offset=offset,
    )


def _short(text: str) -> str:
    """Return an error of librdkafka without the names of its threads."""
    return text.rpartition("]: ")[2].partition(" (after ")[0]
