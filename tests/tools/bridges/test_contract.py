"""The contract of schemes, each with its real outside system: acknowledged messages are there, all others come again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest
from confluent_kafka import KafkaError

from mycomesh.tools.bridges import amqp, kafka, mqtt, nats
from mycomesh.tools.bridges.http_server import BODY_BYTES_MAX
from mycomesh.tools.bridges.scheme import LinkError, Message, Options, SchemeError
from mycomesh.tools.bridges.schemes import scheme_named
from mycomesh.tools.bridges.template import Pattern, Template
from tests.free_ports import free_port
from tests.tools.bridges.brokers import BROKERS, Broker, Mosquitto, certificate, run

# PAYLOAD_MAX of each scheme whose system states none.
PAYLOADS = {"amqp": amqp.PAYLOAD_MAX, "kafka": kafka.PAYLOAD_MAX, "mqtt": mqtt.PAYLOAD_MAX, "http": BODY_BYTES_MAX}
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(nats, "ACK_WAIT_S", 0.5)
    monkeypatch.setattr(kafka, "ACK_S", 2)
    monkeypatch.setattr(kafka, "CREATE_S", 0.1)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Return a function that starts a broker once for all tests of this module."""
    made = {}

    def start(name):
        if name not in made:
            made[name] = BROKERS[name](tmp_path_factory.mktemp(name)).start()
        return made[name]

    yield start
    for one in made.values():
        one.stop()


@pytest.fixture(params=BROKERS)
def broker(request, started):
    one = started(request.param)
    one.tls = False
    return one


@pytest.fixture(params=BROKERS)
def fresh(request, started, tmp_path):
    """Return a function that gives a broker in which there is nothing yet."""
    made = []

    def start(**how):
        kind = BROKERS[request.param]
        if kind.shared:
            one = started(request.param)
            one.tls = how.get("tls", False)
            run(one.reset())
            return one
        made.append(kind(tmp_path, **how).start())
        return made[-1]

    yield start
    for one in made:
        one.stop()


def scheme_of(broker: Broker, bridge="ground", **more):
    kind = scheme_named(broker.url.partition(":")[0])
    outgoing = more.pop("out", broker.outgoing)
    incoming = more.pop("in_", None)
    settings = {**kind.settings, **broker.more, **more.pop("settings", {})}
    more = {**broker.login, **more}
    return kind(
        Options(
            url=broker.url,
            bridge=bridge,
            node="alpha",
            create=more.pop("create", True),
            more=settings,
            outgoing=(Template.parse(outgoing, kind).wildcards,) if outgoing else (),
            incoming=() if incoming is None else (Pattern.parse(incoming, "t", kind).wildcards,),
            **more,
        )
    )


def message(broker, row, number, body=b"{}"):
    kind = scheme_named(broker.url.partition(":")[0])
    change_id = f"drones/{'0' * 32}/{number}"
    headers = {"mesh-id": change_id, "mesh-op": "insert" if body is not None else "delete", "mesh-hlc": str(number)}
    headers["mesh-node"] = "alpha"
    return Message(Template.parse(broker.outgoing, kind).topic({"id": row}), body, change_id, row, headers, "drones")


@contextlib.asynccontextmanager
async def connected(scheme):
    await scheme.connect()
    try:
        yield scheme
    finally:
        await scheme.close()


def test_what_is_acknowledged_is_there_in_order(fresh):
    broker = fresh()

    async def story():
        async with broker.watching() as seen, connected(scheme_of(broker)) as scheme:
            messages = [message(broker, f"d{n % 3}", n, b'{"n": %d}' % n) for n in range(300)]
            assert list(await scheme.publish(messages)) == [""] * 300
            assert list(await scheme.publish([message(broker, "d1", 300, None)])) == [""]
            while broker.conflates and len(seen) < 301:  # noqa: ASYNC110 - a thread fills it
                await asyncio.sleep(0.01)
        found = seen or await broker.read(301)
        by_topic = {}
        for topic, body, headers in found:
            by_topic.setdefault(topic, []).append(json.loads(body)["n"] if body else None)
            if broker.headers:
                assert headers["mesh-id"].startswith("drones/")
                assert headers["mesh-hlc"].isdigit()
        for order in by_topic.values():
            numbers = [n for n in order if n is not None]
            assert numbers == sorted(numbers)
        assert sum(map(len, by_topic.values())) == 301

    run(story())


def test_an_id_that_came_before_is_a_duplicate(broker):
    async def story():
        async with connected(scheme_of(broker)) as scheme:
            one = message(broker, "twice", 7)
            first, second = (await scheme.publish([one]))[0], (await scheme.publish([one]))[0]
            assert first == ""
            assert second == ("duplicate" if broker.dedupes else "")
            assert scheme.limits.dedupes == (broker.dedupes and broker.states_dedupe)

    run(story())


def test_a_message_of_the_stated_size_is_taken(broker):
    async def story():
        async with connected(scheme_of(broker)) as scheme:
            size = scheme.limits.payload_max - 1_000
            if broker.scheme in PAYLOADS:
                assert 0 <= PAYLOADS[broker.scheme] - scheme.limits.payload_max <= 1_024
            assert list(await scheme.publish([message(broker, "big", 8, b"x" * size)])) == [""]
            assert list(await scheme.publish([message(broker, "small", 9)])) == [""]

    run(story())


def test_a_message_without_a_place_stops_no_others(broker):
    odd = {
        "amqp": {"id": "t" * (amqp.SHORT_BYTES_MAX + 1)},
        "kafka": {"key": "k" * (kafka.PAYLOAD_MAX + 1)},
        "http": {"topic": "fleet/%2E%2E/at"},
    }.get(broker.scheme)
    if odd is None:
        return

    async def story():
        messages = [message(broker, "a", 30), replace(message(broker, "odd", 31), **odd), message(broker, "b", 32)]
        async with connected(scheme_of(broker)) as scheme:
            first, refused, last = await scheme.publish(messages)
            assert (first, last) == ("", "")
            assert refused
            if broker.scheme == "amqp":
                fits = replace(messages[1], id="t" * amqp.SHORT_BYTES_MAX)
                assert list(await scheme.publish([fits])) == [""]

    run(story())


def test_messages_come_in_once_when_acknowledged(fresh):
    broker = fresh()

    async def story():
        async with connected(scheme_of(broker, out="", in_=broker.incoming)) as scheme:
            await broker.prepare()
            await scheme.subscribe({})
            broker.listens_at(scheme)
            sending = asyncio.ensure_future(broker.send([b'{"n": %d}' % n for n in range(50)]))
            found, offsets = [], {}
            while len(found) < 20:
                batch = await scheme.receive()
                kept = batch[: 20 - len(found)]
                found += kept
                offsets.update({each.source: each.offset for each in kept if each.offset is not None})
                await scheme.acknowledge(kept)
            assert [json.loads(each.body)["n"] for each in found] == list(range(20))
            await asyncio.sleep(0.2)
            if not broker.keeps:  # the senders have to send again what was not acknowledged
                sending.cancel()
                return
            await sending
        async with connected(scheme_of(broker, out="", in_=broker.incoming)) as scheme:
            await scheme.subscribe(offsets)
            again = []
            while not set(range(20, 50)) <= {json.loads(each.body)["n"] for each in again}:
                batch = await scheme.receive()
                again += batch
                await scheme.acknowledge(batch)
            numbers = sorted({json.loads(each.body)["n"] for each in again})
            assert [number for number in numbers if number >= 20] == list(range(20, 50))
            known = {one.id for one in found if one.id}
            assert all(json.loads(each.body)["n"] >= 20 for each in again if each.id not in known)

    run(story())


def test_mqtt_3_publishes_and_takes_in(started):
    """Mosquitto speaks 3.1.1 too, which has no headers."""
    broker = started("mqtt")

    def old(**more):
        return scheme_of(broker, bridge="old", settings={"version": "3.1.1"}, **more)

    async def story():
        async with connected(old(in_="old/in/#")) as scheme:
            await scheme.subscribe({})
            async with connected(old(out="old/{id}")) as other:
                assert list(await other.publish([message(broker, "m3", 1, b"1")])) == [""]
                assert [each.good for each in await other.probe()] == [True] * 4
            await broker.send([b"0", b"1", b"2"], "old/in/a")
            found = []
            while len(found) < 3:
                found += await scheme.receive()
            await scheme.acknowledge(found[:1])
            assert [(each.body, each.id, dict(each.headers)) for each in found] == [
                (b"%d" % n, "", {}) for n in range(3)
            ]
        async with connected(old(in_="old/in/#")) as scheme:  # the session has what was not acknowledged
            await scheme.subscribe({})
            again = []
            while len(again) < 2:
                again += await scheme.receive()
            await scheme.acknowledge(again)
            assert [each.body for each in again] == [b"1", b"2"]
        assert "fleet/m3/at" in [topic for topic, _, _ in await broker.read()]

    run(story())


async def connect_again(scheme):
    """Connect to a broker that has started a moment ago, as a bridge does."""
    while True:
        with contextlib.suppress(LinkError):
            return await scheme.connect()
        await scheme.close()
        await asyncio.sleep(0.1)


async def publish_one(scheme, broker):
    async with connected(scheme):
        await scheme.publish([message(broker, "a", 1)])


async def publish_until_lost(scheme, broker):
    for number in range(20, 10_000):
        await scheme.publish([message(broker, "a", number, b"%d" % number)])


def test_a_killed_broker_is_a_lost_connection(fresh):
    broker = fresh()

    async def story():
        scheme = scheme_of(broker)
        acknowledged = 0
        async with connected(scheme):
            for number in range(20):
                assert list(await scheme.publish([message(broker, "a", number, b"%d" % number)])) == [""]
                acknowledged += 1
            watching = asyncio.ensure_future(scheme.watch())
            broker.kill()
            with pytest.raises(LinkError) as caught:
                await publish_until_lost(scheme, broker)
            assert "\n" not in str(caught.value)
            if broker.watched:
                with pytest.raises(LinkError, match="lost"):
                    await watching
            watching.cancel()
        with pytest.raises(LinkError, match="cannot reach"):
            await scheme.connect()
        await scheme.close()
        await asyncio.to_thread(broker.start)
        await connect_again(scheme)
        assert list(await scheme.publish([message(broker, "a", 20, b"20")])) in ([""], ["duplicate"])
        await scheme.close()
        if broker.durable:
            bodies = [int(body) for _, body, _ in await broker.read(21)]
            assert sorted(set(bodies)) == list(range(21))

    run(story())


def test_the_end_of_an_idle_connection_is_noticed(fresh):
    broker = fresh()
    if broker.shared or not broker.watched:
        return

    async def story():
        async with connected(scheme_of(broker)) as scheme:
            assert list(await scheme.publish([message(broker, "a", 1)])) == [""]
            watching = asyncio.ensure_future(scheme.watch())
            await asyncio.sleep(0.1)
            assert not watching.done()
            broker.kill()
            with pytest.raises(LinkError, match="lost"):
                await watching

    run(story())


def test_a_queue_that_is_deleted_ends_the_reader(fresh):
    broker = fresh()

    async def story():
        async with connected(scheme_of(broker, out="", in_=broker.incoming)) as scheme:
            await broker.prepare()
            await scheme.subscribe({})
            receiving = asyncio.ensure_future(scheme.receive())
            watching = asyncio.ensure_future(scheme.watch())
            await asyncio.sleep(0.2)
            if await broker.forget_reader():
                await asyncio.wait([receiving, watching], return_when=asyncio.FIRST_COMPLETED)
                errors = [task.exception() for task in (receiving, watching) if task.done()]
                assert isinstance(errors[0], LinkError), errors
            receiving.cancel()
            watching.cancel()
            await asyncio.gather(receiving, watching, return_exceptions=True)

    run(story())


def test_a_wrong_password_is_refused_in_one_line(fresh):
    broker = fresh(auth=True)

    async def story():
        for more in broker.wrong:
            scheme = scheme_of(broker, **more)
            with pytest.raises(SchemeError, match=r"the name or the password") as caught:
                await publish_one(scheme, broker)
            assert "\n" not in str(caught.value)
        async with connected(scheme_of(broker, **broker.credentials)) as scheme:
            assert list(await scheme.publish([message(broker, "a", 1)])) == [""]

    run(story())


def test_tls_needs_the_certificate_to_trust(fresh, tmp_path):
    broker = fresh(tls=True)

    async def story():
        other = tmp_path / "other"
        other.mkdir()
        scheme = scheme_of(broker, ca=str(certificate(other)[0]))
        with pytest.raises(SchemeError, match="TLS") as caught:
            await scheme.connect()
        assert "\n" not in str(caught.value)
        await scheme.close()
        async with connected(scheme_of(broker, ca=str(certificate(broker.folder)[0]))) as scheme:
            assert list(await scheme.publish([message(broker, "a", 1)])) == [""]

    run(story())


def test_a_kafka_that_is_away_is_not_refused(tmp_path, monkeypatch):
    """librdkafka's text begins with ssl:// for each error of a connection with TLS."""
    monkeypatch.setattr(kafka, "CONNECT_S", 1)
    scheme = kafka.KafkaScheme(
        Options(
            f"kafka://localhost:{free_port()}", "b", ca=str(certificate(tmp_path)[0]), more=kafka.KafkaScheme.settings
        )
    )

    async def story():
        with pytest.raises(LinkError, match="Connection refused"):
            await scheme.connect()
        await scheme.close()

    run(story())


def test_kafka_reports_an_error_of_tls_as_transport(tmp_path):
    """One try in fifty is reported so, and may be the last that is reported before the metadata are given up."""
    scheme = kafka.KafkaScheme(
        Options("kafka://localhost:1", "b", ca=str(certificate(tmp_path)[0]), more=kafka.KafkaScheme.settings)
    )
    why = "error:0A000086:SSL routines::certificate verify failed (after 4ms in state SSL_HANDSHAKE)"
    scheme._on_error(
        kafka.KafkaError(kafka.KafkaError._SSL, f"ssl://localhost:1/bootstrap: SSL handshake failed: {why}")
    )
    scheme._on_error(kafka.KafkaError(kafka.KafkaError._TRANSPORT, f"ssl://localhost:1/bootstrap: {why}"))
    given_up = kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TRANSPORT, "Failed to get metadata"))
    refusal = scheme._refusal("localhost:1", given_up)
    assert isinstance(refusal, SchemeError)
    assert "certificate verify failed" in str(refusal)


@pytest.mark.parametrize(
    ("more", "kind", "said"),
    [
        ({"settings": {"config": {"sasl.mechanism": "SCRAM-SHA-512"}}}, SchemeError, "takes another kind of login"),
        ({"user": "", "password": ""}, LinkError, "a name and a password"),
        ({"ca": None}, LinkError, "it may want TLS"),
    ],
)
def test_kafka_says_what_a_login_lacks(tmp_path, monkeypatch, more, kind, said):
    """With a name and a password over TLS, as the services of Kafka want it."""
    monkeypatch.setattr(kafka, "CONNECT_S", 3)
    broker = BROKERS["kafka"](tmp_path, auth=True, tls=True).start()
    good = {**broker.credentials, "ca": str(certificate(tmp_path)[0])}

    async def story():
        async with connected(scheme_of(broker, **good)) as scheme:
            assert list(await scheme.publish([message(broker, "a", 1)])) == [""]
        wrong = scheme_of(broker, **{**good, **more})
        with pytest.raises(kind, match=said) as caught:
            await wrong.connect()
        assert "\n" not in str(caught.value)
        await wrong.close()

    try:
        run(story())
        assert broker.front.logins
    finally:
        broker.stop()


def test_kafka_names_a_missing_right():
    error = kafka.undelivered(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    assert isinstance(error, SchemeError)
    assert "may not write to the topics" in str(error)
    assert isinstance(kafka.undelivered(KafkaError(KafkaError.LEADER_NOT_AVAILABLE)), LinkError)
    assert "set create = true" in str(kafka.undelivered(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))


def test_a_broker_that_retains_nothing_is_refused(tmp_path):
    class Forgetful(Mosquitto):
        def command(self):
            command = super().command()
            with (self.folder / "mosquitto.conf").open("a") as config:
                config.write("retain_available false\n")
            return command

    broker = Forgetful(tmp_path).start()

    async def story():
        with pytest.raises(SchemeError, match="set retain = false"):
            await publish_one(scheme_of(broker), broker)
        async with connected(scheme_of(broker, settings={"retain": False})) as scheme:
            assert list(await scheme.publish([message(broker, "a", 1)])) == [""]

    try:
        run(story())
    finally:
        broker.stop()


def test_a_wrong_vhost_is_named(started):
    broker = started("amqp")
    broker.tls = False
    options = scheme_of(broker).options

    async def story():
        scheme = amqp.AmqpScheme(replace(options, url=f"{broker.url}/nope"))
        with pytest.raises(SchemeError, match="refuses the virtual host '/nope'"):
            await scheme.connect()
        await scheme.close()

    run(story())


def test_a_missing_stream_is_named(fresh):
    broker = fresh()
    if not broker.creates:
        return

    async def story():
        scheme = scheme_of(broker, create=False)
        with pytest.raises(SchemeError, match="set create = true"):
            async with connected(scheme):
                await scheme.publish([message(broker, "a", 1)])
        await scheme.close()

    run(story())


def test_the_probe_finds_everything_well(broker):
    async def story():
        async with connected(scheme_of(broker, out="")) as scheme:
            findings = await scheme.probe()
        assert findings
        assert [finding for finding in findings if not finding.good] == []

    run(story())
