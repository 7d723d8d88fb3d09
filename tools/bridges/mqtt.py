"""The schemes `mqtt://HOST:PORT` and `mqtts://HOST:PORT`: MQTT 5, and 3.1.1 where the broker has no 5.

Out: state topics, retained, at QoS 1. A PUBACK proves nothing: a broker that is killed loses retained messages that it has
acknowledged, and a session drops the newest beyond its queue. So the bridge publishes every row again after each reconnect.
In: a persistent session at QoS 1; each message is acknowledged by hand after its commit.

MQTT has no place for an id: with MQTT 5 it is a user property, 3.1.1 has neither an id nor headers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mycomesh.tools.bridges.receiving import Pumps
from mycomesh.tools.bridges.scheme import Arrival, Finding, Limits, LinkError, Message, Options, Scheme, SchemeError
from mycomesh.tools.bridges.tls import context_of, tls_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["MqttScheme"]

CONNECT_S = 5
ACK_S = 10
KEEPALIVE_S = 15
SESSION_S = 7 * 86_400  # the broker keeps what comes in while no node is connected
PAYLOAD_MAX = 1 << 20  # of a broker that states none; the protocol allows 256 MB
REFUSED = (4, 5, 134, 135)  # name or password, authorisation, of MQTT 3.1.1 and 5
VERSIONS = {"5": paho.MQTTv5, "3.1.1": paho.MQTTv311}
UNSUPPORTED = (1, 132)  # protocol version


class MqttScheme(Scheme):
    """One connection to a broker. paho runs on the event loop, which watches its socket."""

    separator = "/"
    wildcard_level = "+"
    wildcard_rest = "#"
    extra = "mqtt"
    settings: Mapping[str, Any] = {"qos": 1, "retain": True, "version": "5"}

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._client: paho.Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._protocol = VERSIONS[options.more.get("version", "5")]
        self._connected: asyncio.Future[int] | None = None
        self._lost: asyncio.Future[str] | None = None
        self._open: set[int] = set()
        self._answers: dict[int, str] = {}  # message number of the protocol -> why it is refused, "" if it is not
        self._answered = asyncio.Event()
        self._retains = True  # the broker keeps retained messages, as far as it says
        self._subscribed: asyncio.Future[list[int]] | None = None
        self._pumps = Pumps()
        self._ticks: asyncio.Task[None] | None = None

    @classmethod
    def check(cls, options: Options) -> None:
        """Refuse a URL without a host, and a QoS that loses messages."""
        if not urlsplit(options.url).hostname:
            raise SchemeError(f"{options.url!r} names no host; write mqtt://HOST:1883")
        if options.more.get("qos") not in (1, 2):
            raise SchemeError(f"qos must be 1 or 2, not {options.more.get('qos')!r}: at QoS 0 nothing is acknowledged")
        if options.more.get("version") not in VERSIONS:
            raise SchemeError(f"version must be one of {', '.join(VERSIONS)}, not {options.more.get('version')!r}")
        for topic in options.incoming:
            if "#" in topic.rstrip("#") or (topic.endswith("#") and topic != "#" and not topic.endswith("/#")):
                raise SchemeError(f"topic {topic!r}: '#' belongs alone at the end, behind a '/'")

    # ---- connection

    async def connect(self) -> None:
        """Connect with MQTT 5, or with 3.1.1 to a broker that refuses 5."""
        code = await self._try_connect(self._protocol)
        if code in UNSUPPORTED and self._protocol == paho.MQTTv5:
            await self.close()
            self._protocol = paho.MQTTv311
            code = await self._try_connect(self._protocol)
        if code in REFUSED:
            raise SchemeError(
                f"{self._server} refuses the name or the password; name a credentials file with the right ones"
            )
        if code:
            raise LinkError(f"{self._server} refuses the connection: {_reason(code)}")
        if self.limits.retained and not self._retains:
            raise SchemeError(f"{self._server} keeps no retained messages; set retain = false")

    @property
    def _server(self) -> str:
        parts = urlsplit(self.options.url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or (8883 if parts.scheme == 'mqtts' else 1883)}"

    async def _try_connect(self, protocol: int) -> int:
        options, loop = self.options, asyncio.get_running_loop()
        self._loop = loop
        self._connected, self._lost = loop.create_future(), loop.create_future()
        name = f"mycomesh-{options.bridge}" if options.incoming else f"mycomesh-{options.bridge}-{os.urandom(4).hex()}"
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            protocol=protocol,  # type: ignore[arg-type]
            manual_ack=True,
            reconnect_on_failure=False,
            **({} if protocol == paho.MQTTv5 else {"clean_session": not options.incoming}),  # type: ignore[arg-type]
        )
        client.max_inflight_messages_set(65_535 if protocol == paho.MQTTv5 else 20)
        client.max_queued_messages_set(0)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_message, client.on_subscribe = (
            self._on_publish,
            self._on_message,
            self._on_subscribe,
        )
        client.on_socket_open, client.on_socket_close = self._on_socket_open, self._on_socket_close
        client.on_socket_register_write = self._on_writes
        client.on_socket_unregister_write = self._on_no_writes
        parts = urlsplit(options.url)
        if options.user or parts.username or options.token:
            client.username_pw_set(options.user or parts.username or "token", options.password or options.token)
        if parts.scheme == "mqtts" or options.ca:
            client.tls_set_context(context_of(options.ca))
        more: dict[str, Any] = {}
        if protocol == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_S if options.incoming else 0
            properties.ReceiveMaximum = min(65_535, max(20, options.in_flight_max))
            more = {"clean_start": not options.incoming, "properties": properties}
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        client.connect_timeout = CONNECT_S
        try:
            await asyncio.to_thread(client.connect, parts.hostname or "", port, KEEPALIVE_S, **more)
            self._ticks = loop.create_task(self._tick(client))
            waits: list[asyncio.Future[Any]] = [self._connected, self._lost]
            async with asyncio.timeout(CONNECT_S):
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except ssl.SSLError as error:
            raise tls_error(self._server, error) from error
        except TimeoutError as error:
            raise LinkError(f"cannot reach {self._server}: no answer within {CONNECT_S} s") from error
        except OSError as error:
            raise LinkError(f"cannot reach {self._server}: {error.strerror or error}") from error
        if not self._connected.done():
            hint = "" if parts.scheme == "mqtts" or options.ca else " (it may want TLS: mqtts://)"
            raise LinkError(f"{self._server} closed the connection: {self._lost.result()}{hint}")
        return self._connected.result()

    async def _tick(self, client: paho.Client) -> None:
        """Let the client send its keep-alives, and notice that the broker sends none."""
        while client.loop_misc() == paho.MQTT_ERR_SUCCESS:  # noqa: ASYNC110 - it is called each second
            await asyncio.sleep(1)
        self._fail("no answer to a ping")

    def _on_socket_open(self, client: paho.Client, _data: object, sock: Any) -> None:
        self._on_loop(lambda loop: loop.add_reader(sock, client.loop_read) if sock.fileno() >= 0 else None)

    def _on_writes(self, client: paho.Client, _data: object, sock: Any) -> None:
        self._on_loop(lambda loop: loop.add_writer(sock, client.loop_write) if sock.fileno() >= 0 else None)

    def _on_no_writes(self, _client: paho.Client, _data: object, sock: Any) -> None:
        self._on_loop(lambda loop: loop.remove_writer(sock) if sock.fileno() >= 0 else False)

    def _on_loop(self, call: Callable[[asyncio.AbstractEventLoop], object]) -> None:
        """Run a call on the loop, in order: `connect` runs on a thread, all else on the loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(call, self._loop)

    def _on_socket_close(self, _client: paho.Client, _data: object, sock: Any) -> None:
        assert self._loop is not None
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _on_connect(self, _client: paho.Client, _data: object, _flags: object, reason: Any, properties: Any) -> None:
        payload_max = getattr(properties, "MaximumPacketSize", None) or PAYLOAD_MAX
        self._retains = getattr(properties, "RetainAvailable", 1) != 0
        self.limits = Limits(payload_max=payload_max - 1_024, retained=bool(self.options.more.get("retain", True)))
        if self._connected is not None and not self._connected.done():
            self._connected.set_result(reason.value)

    def _on_disconnect(
        self, _client: paho.Client, _data: object, _flags: object, reason: Any, _properties: Any
    ) -> None:
        self._fail(str(reason))

    def _fail(self, why: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(why)
        self._answered.set()

    async def close(self) -> None:
        """End the connection; the session stays at the broker."""
        await self._pumps.close()
        if self._ticks is not None:
            self._ticks.cancel()
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, ValueError):
                client.disconnect()
                client.loop_write()  # acknowledgements too
            sock = client.socket()
            if sock is not None:
                self._on_socket_close(client, None, sock)
                with contextlib.suppress(OSError):
                    sock.close()
            # The client calls them when it is collected, perhaps after the loop has ended.
            client.on_socket_close = client.on_socket_unregister_write = client.on_disconnect = None

    # ---- out

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:
        """Publish retained messages, and wait for every acknowledgement."""
        client, lost = self._client, self._lost
        assert client is not None, "connected"
        assert lost is not None, "connected"
        self._answers.clear()
        numbers = []
        for message in messages:
            properties = None
            if self._protocol == paho.MQTTv5:
                properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
                properties.UserProperty = list(message.headers.items())
            info = client.publish(
                message.topic,
                message.body or b"",
                qos=self.options.more.get("qos", 1),
                retain=bool(self.options.more.get("retain", True)),
                properties=properties,
            )
            if info.rc not in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_QUEUE_SIZE):
                raise LinkError(f"the connection was lost: {paho.error_string(info.rc)}")
            numbers.append(info.mid)
        self._open = set(numbers) - self._answers.keys()
        while self._open:
            self._answered.clear()
            before = len(self._open)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACK_S):
                    await self._answered.wait()
            if lost.done() and self._open:
                raise LinkError(f"the connection was lost: {lost.result()}")
            if len(self._open) == before:
                raise LinkError(f"no acknowledgement within {ACK_S} s")
        return [self._answers.get(number, "") for number in numbers]

    def _on_publish(self, _client: paho.Client, _data: object, number: int, reason: Any, _properties: Any) -> None:
        refused = bool(getattr(reason, "is_failure", False))
        self._answers[number] = f"the broker refuses it: {reason}" if refused else ""
        if self._open:
            self._open.discard(number)
            self._answered.set()

    # ---- in

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Subscribe within the session that the broker keeps."""
        del offsets
        client = self._client
        assert client is not None, "connected"
        assert self._loop is not None
        self._subscribed = self._loop.create_future()
        result, _ = client.subscribe([(topic, self.options.more.get("qos", 1)) for topic in self.options.incoming])
        if result != paho.MQTT_ERR_SUCCESS:
            raise LinkError(f"cannot subscribe: {paho.error_string(result)}")
        try:
            async with asyncio.timeout(CONNECT_S):
                codes = await self._subscribed
        except TimeoutError as error:
            raise LinkError(f"cannot subscribe: no answer within {CONNECT_S} s") from error
        for topic, code in zip(self.options.incoming, codes, strict=False):
            if code >= 128:
                raise SchemeError(f"the broker refuses to subscribe to {topic!r} for this user")

    async def watch(self) -> None:
        """Raise `LinkError` once the connection is lost."""
        assert self._lost is not None, "connected"
        raise LinkError(f"the connection was lost: {await self._lost}")

    def _on_subscribe(self, _client: paho.Client, _data: object, _number: int, reasons: Any, _properties: Any) -> None:
        if self._subscribed is not None and not self._subscribed.done():
            self._subscribed.set_result([reason.value for reason in reasons])

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        properties = getattr(message, "properties", None)
        headers = dict(getattr(properties, "UserProperty", ()) or ())
        self._pumps.collect(
            Arrival(
                topic=message.topic,
                body=bytes(message.payload),
                id=headers.get("mesh-id", ""),
                headers=headers,
                delete=not message.payload,
                token=(message.mid, message.qos),
            )
        )

    async def receive(self) -> list[Arrival]:
        """Return what has come since."""
        return await self._pumps.get()

    async def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Acknowledge each message in the order in which they came."""
        client = self._client
        assert client is not None, "connected"
        for arrival in arrivals:
            number, qos = arrival.token
            if qos:
                client.ack(number, qos)

    # ---- test

    async def probe(self) -> list[Finding]:
        """Publish one retained message, read it back, and remove it."""
        version = "5" if self._protocol == paho.MQTTv5 else "3.1.1: without headers, so that consumers see no id"
        findings = [Finding("connect", True, f"MQTT {version}, payloads up to {self.limits.payload_max:,} bytes")]
        topic = f"mycomesh/test/{hashlib.blake2b(os.urandom(8), digest_size=6).hexdigest()}"
        message = Message(topic, b"{}", "test", "1", {"mesh-id": "test"})
        try:
            refused = (await self.publish([message]))[0]
            findings.append(Finding("publish", not refused, refused or "the broker has acknowledged"))
            client = self._client
            assert client is not None, "connected"
            assert self._loop is not None
            self._subscribed = self._loop.create_future()
            client.subscribe(topic, 0)
            async with asyncio.timeout(CONNECT_S):
                codes = await self._subscribed
            findings.append(
                Finding("subscribe", codes[0] < 128, "allowed" if codes[0] < 128 else "refused for this user")
            )
            async with asyncio.timeout(CONNECT_S):
                found = await self.receive()
            findings.append(Finding("read back", found[0].body == b"{}", "the broker has retained the message"))
            await self.publish([Message(topic, None, "test", "1", {})])
        except TimeoutError:
            findings.append(
                Finding("read back", False, "nothing came back: retained messages are off, or reading is refused")
            )
        except LinkError as error:
            findings.append(Finding("publish", False, str(error)))
        return findings


def _reason(code: int) -> str:
    return paho.connack_string(code) if code < 6 else f"reason {code}"
