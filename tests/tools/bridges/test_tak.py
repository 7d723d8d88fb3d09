"""The TAK scheme between its clients and its rows, without a node: relays, late clients, deletes, limits, TLS and multicast."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time

import pytest

from mycomesh.tools.bridges import tak_clients, tak_picture
from mycomesh.tools.bridges.scheme import LinkError, Message, Options, SchemeError
from mycomesh.tools.bridges.tak import STALE_S_MAX, TakScheme
from mycomesh.tools.bridges.tak_picture import Item, Picture
from mycomesh.tools.vehicles.cot import EventSplitter, format_time, parse_event
from mycomesh.tools.vehicles.tak_rows import deleted_uid, topic_of
from tests.free_ports import free_port
from tests.tools.bridges.test_addresses import until
from tests.tools.vehicles.test_tak_rows import CHAT

TOPICS = ("positions", "markers", "chat", "alerts")


def said(uid, kind="a-f-G-U-C", how="m-g", detail="", lat=1.0, ago_s=0.0, stale_s=60):
    now = int((time.time() - ago_s) * 1000)
    times = f'time="{format_time(now)}" start="{format_time(now)}" stale="{format_time(now + stale_s * 1000)}"'
    point = f'<point lat="{lat}" lon="2.0" hae="3.0" ce="9999999.0" le="9999999.0"/>'
    return f'<event version="2.0" uid="{uid}" type="{kind}" how="{how}" {times}>{point}<detail>{detail}</detail></event>'.encode()


def row(table, key, kind="a-f-A-M-H-Q", op="insert", **values):
    return Message(kind if op != "delete" else "", b"{}", f"{table}/s/1", key, {}, table, op, values)


class Screen:
    """A TAK client: everything that it was sent."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.events = reader, writer, []
        self.task = asyncio.ensure_future(self.read())

    async def read(self):
        splitter = EventSplitter()
        with contextlib.suppress(OSError):
            while data := await self.reader.read(65_536):
                self.events += map(parse_event, splitter.feed(data))

    def uids(self):
        return [event.uid for event in self.events]

    def of(self, uid):
        return next((event for event in reversed(self.events) if event.uid == uid), None)

    async def sees(self, check):
        await until(lambda: any(map(check, self.events)))

    def say(self, *events):
        self.writer.write(b"".join(events))


class Place:
    """A scheme that serves, its screens, and what it counts."""

    def __init__(self, *, topics=TOPICS, **more):
        self.counted = {}
        self.port = free_port()
        more.setdefault("every_ms", 0)
        ca = more.pop("ca", None)
        self.scheme = TakScheme(
            Options(f"tak://127.0.0.1:{self.port}", "tak", "n", ca=ca, incoming=topics, more=more, count=self.count)
        )
        self.screens = []

    def count(self, name, more):
        self.counted[name] = self.counted.get(name, 0) + more

    async def __aenter__(self):
        TakScheme.check(self.scheme.options)
        await self.scheme.connect()
        return self

    async def __aexit__(self, *_):
        for screen in self.screens:
            screen.task.cancel()
            screen.writer.close()
            with contextlib.suppress(OSError):
                await screen.writer.wait_closed()
        await self.scheme.close()

    async def screen(self, **more):
        before = len(self.scheme._clients)
        screen = Screen(*await asyncio.open_connection("127.0.0.1", self.port, **more))
        self.screens.append(screen)
        await until(lambda: len(self.scheme._clients) > before)
        return screen

    async def rows(self, count):
        found = []
        while len(found) < count:
            found += await asyncio.wait_for(self.scheme.receive(), 5)
        return found


def run(test):
    async def within():
        async with asyncio.timeout(60):
            await test()

    asyncio.run(within())


def test_rows_reach_screens_and_late_ones():
    async def test():
        async with Place() as place:
            first = await place.screen()
            assert await place.scheme.publish([row("drones", "d1", lat=1, lon=2), row("drones", "d2", lat=None)]) == [
                "",
                "",
            ]
            await first.sees(lambda event: event.uid == "mycomesh.drones.d1")
            late = await place.screen()
            await late.sees(lambda event: event.uid == "mycomesh.drones.d1")
            await place.scheme.publish([row("drones", "d1", op="delete", id="d1")])
            for screen in (first, late):
                await screen.sees(
                    lambda event: topic_of(event) == "deletes" and deleted_uid(event) == "mycomesh.drones.d1"
                )
            again = await place.screen()
            again.say(said("me", "t-x-c-t"))
            await again.sees(lambda event: event.type == "t-x-c-t-r")
            assert again.uids() == ["takPong"]

    run(test)


def test_events_of_a_client_become_rows_and_reach_others():
    async def test():
        async with Place() as place:
            one, two = await place.screen(), await place.screen()
            one.say(
                said("ANDROID-1", detail='<contact callsign="ALPHA"/>'),
                said("m1", "a-h-G", "h-g-i-g-o", '<contact callsign="tank"/>'),
                said("GeoChat.1", "b-t-f", "h-g-i-g-o", CHAT),
                said("ANDROID-1-9-1-1", "b-a-o-tbl", detail='<emergency type="911 Alert">ALPHA</emergency>'),
            )
            found = {arrival.topic: arrival.values for arrival in await place.rows(4)}
            assert (found["positions"]["callsign"], found["markers"]["uid"]) == ("ALPHA", "m1")
            assert (found["chat"]["text"], found["alerts"]["cancelled"]) == ("at the bridge", 0)
            await two.sees(lambda event: event.uid == "ANDROID-1-9-1-1")
            assert two.uids() == ["ANDROID-1", "m1", "GeoChat.1", "ANDROID-1-9-1-1"]
            assert one.events == []
            await place.scheme.publish([row("markers", "m1", "a-h-G", **found["markers"], own_column=5)])
            await place.scheme.publish([row("markers", "m1", "a-h-G", **{**found["markers"], "callsign": "truck"})])
            await one.sees(lambda event: event.attribute("contact", "callsign") == "truck")
            assert one.uids() == ["m1"]  # the row as it came does not go back
            assert one.events[0].time > found["markers"]["at"]
            assert one.events[0].stale > one.events[0].time
            link = '<link uid="m1" relation="none" type="none"/>'
            one.say(said("d", "t-x-d-d", detail=link))
            (gone,) = await place.rows(1)
            assert (gone.topic, gone.delete, gone.values) == ("markers", True, {"uid": "m1"})
            await two.sees(lambda event: topic_of(event) == "deletes")

    run(test)


def test_delete_of_unknown_uid_reaches_each_table():
    async def test():
        async with Place() as place:
            one = await place.screen()
            one.say(said("d", "t-x-d-d", detail='<link uid="old" relation="none" type="none"/>'))
            found = await place.rows(3)
            assert sorted(arrival.topic for arrival in found) == ["alerts", "markers", "positions"]
            assert all(arrival.delete for arrival in found)

    run(test)


def test_earlier_and_own_events_change_nothing():
    async def test():
        async with Place() as place:
            one = await place.screen()
            one.say(said("m", lat=5.0), said("m", lat=6.0, ago_s=30), said("mycomesh.drones.d1", lat=7.0), said("end"))
            found = await place.rows(2)
            assert [(arrival.values["uid"], arrival.values["lat"]) for arrival in found] == [("m", 5.0), ("end", 1.0)]
            one.say(said("m", lat=8.0, ago_s=-86_400))  # a clock that is a day ahead
            await place.rows(1)
            place.scheme._picture.get("m").time -= 600_000
            one.say(said("m", lat=9.0))
            assert (await place.rows(1))[0].values["lat"] == 9.0

    run(test)


def test_stale_rows_are_not_served():
    async def test():
        async with Place(stale_s=10) as place:
            one = await place.screen()
            old = int(time.time() * 1000) - 11_000
            await place.scheme.publish(
                [row("t", "old", lat=1, lon=1, at=old), row("t", "new", lat=1, lon=1, at=old + 5_000)]
            )
            await place.scheme.publish([row("t", "site", lat=1, lon=1, at=old, stale=old + 86_400_000)])
            await one.sees(lambda event: event.uid == "mycomesh.t.site")
            assert one.uids() == ["mycomesh.t.new", "mycomesh.t.site"]
            assert one.events[0].stale == one.events[0].time + 10_000

    run(test)


def test_direct_message_reaches_its_recipient_alone():
    async def test():
        async with Place() as place:
            one, two, three = [await place.screen() for _ in range(3)]
            two.say(said("2", detail='<contact callsign="BRAVO"/>'))
            three.say(said("3", detail='<contact callsign="CHARLIE"/>'))
            await place.rows(2)
            one.say(said("c", "b-t-f", detail=CHAT + '<marti><dest callsign="BRAVO"/></marti>'), said("end"))
            await two.sees(lambda event: event.uid == "c")
            await three.sees(lambda event: event.uid == "end")
            assert "c" not in three.uids()

    run(test)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n" * 9_000, b"<!DOCTYPE x><event></event>", b"<event>" + b"x" * 300_000]
)
def test_bad_stream_is_ended_and_counted(data):
    async def test():
        async with Place() as place:
            bad, good = await place.screen(), await place.screen()
            bad.say(data)
            await until(bad.reader.at_eof)
            assert place.counted["damaged"] == 1
            good.say(said("alive"))
            await place.rows(1)

    run(test)


def test_bad_events_are_counted_up_to_a_limit():
    async def test():
        async with Place() as place:
            one = await place.screen()
            bomb = b'<event uid="b" type="a-f" time="x"><detail>&nope;</detail></event>'
            one.say(bomb * tak_clients.REFUSED_MAX, said("alive"))
            await place.rows(1)
            assert place.counted["damaged"] == tak_clients.REFUSED_MAX
            one.say(bomb)
            await until(one.reader.at_eof)

    run(test)


def test_clients_and_their_items_have_limits(monkeypatch):
    monkeypatch.setattr(tak_clients, "CLIENTS_MAX", 2)
    monkeypatch.setattr("mycomesh.tools.bridges.tak.SHARE_MAX", 3)
    assert tak_clients.SHARE_MAX * 2 < tak_picture.ITEMS_MAX

    async def test():
        async with Place() as place:
            one, _ = await place.screen(), await place.screen()
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
            assert await reader.read() == b""
            writer.close()
            one.say(*(said(f"u{number}") for number in range(5)), said("u0", lat=9.0))
            found = await place.rows(3)
            assert {arrival.values["uid"] for arrival in found} == {"u0", "u1", "u2"}
            await until(lambda: place.counted.get("dropped") == 2)

    run(test)


def test_stale_items_do_not_count_towards_the_share(monkeypatch):
    monkeypatch.setattr("mycomesh.tools.bridges.tak.SHARE_MAX", 3)

    async def test():
        async with Place() as place:
            one = await place.screen()
            one.say(*(said(f"GeoChat.{number}", "b-t-f", detail=CHAT, ago_s=60, stale_s=61) for number in range(3)))
            await place.rows(3)
            await asyncio.sleep(1.1)
            one.say(said("later"))
            assert (await place.rows(1))[0].values["uid"] == "later"
            assert "dropped" not in place.counted

    run(test)


def test_fast_client_is_read_more_slowly(monkeypatch):
    monkeypatch.setattr(tak_clients, "BURST", 5)
    monkeypatch.setattr(tak_clients, "EVENTS_PER_S_MAX", 50)
    slept = []
    sleep = asyncio.sleep

    async def short(seconds, *rest):
        slept.append(seconds)
        await sleep(min(seconds, 0.001), *rest)

    async def test():
        async with Place() as place:
            one = await place.screen()
            monkeypatch.setattr(tak_clients.asyncio, "sleep", short)
            one.say(*(said(f"u{number}") for number in range(20)))
            await place.rows(20)
            assert max(slept) > 0.1  # behind by some of the 15 that are beyond the burst

    run(test)


def test_picture_forgets_beyond_its_limit(monkeypatch):
    monkeypatch.setattr(tak_picture, "ITEMS_MAX", 3)
    picture = Picture()
    for number in range(5):
        picture.put(f"u{number}", Item(b"x", 100 + number, 0))
        picture.name_row("t", str(number), f"u{number}")
    assert [uid for uid, _ in picture.current(0)] == ["u2", "u3", "u4"]
    assert [uid for uid, _ in picture.current(103)] == ["u4"]
    assert len(picture) == 1
    assert (picture.forget_row("t", "0"), picture.forget_row("t", "4")) == (None, "u4")


def test_deletes_reach_a_server_that_was_away():
    """A server keeps an item until its delete comes, and an event has no acknowledgement."""

    async def test():
        arrived = []

        async def serve(reader, writer):
            splitter = EventSplitter()
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    arrived.extend(map(parse_event, splitter.feed(data)))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        scheme = TakScheme(Options(f"tak://127.0.0.1:{port}", "tak", "n", incoming=TOPICS, more={"connect": True}))
        await scheme.connect()
        await scheme.publish([row("drones", name, lat=1, lon=2) for name in ("d1", "d2", "d3")])
        await until(lambda: len(arrived) == 3)
        (client,) = scheme._clients
        client._writer.transport.abort()
        await scheme.publish(
            [row("drones", name, op="delete", id=name) for name in ("d1", "d2")]
        )  # into a dead connection
        await until(lambda: not len(scheme._clients))
        with pytest.raises(LinkError, match="was lost"):
            await scheme.publish([row("drones", "d3", op="delete", id="d3")])
        arrived.clear()
        await scheme.connect()
        await scheme.publish([row("drones", "d2", lat=3, lon=2)])  # it is there again
        await until(lambda: [event.uid for event in arrived][-1:] == ["mycomesh.drones.d2"])
        assert next(deleted_uid(event) for event in arrived if topic_of(event) == "deletes") == "mycomesh.drones.d1"
        assert "mycomesh.drones.d3" in {event.uid for event in arrived}
        assert list(scheme._picture.ended(time.time() * 1000 + 61_000)) == []
        await scheme.close()
        server.close()

    run(test)


def test_slow_screen_gets_the_latest_of_each():
    async def test():
        async with Place() as place:
            one = await place.screen()
            one.task.cancel()
            (client,) = place.scheme._clients
            for turn in range(4):
                for number in range(tak_picture.ITEMS_MAX // 4):
                    client.send(f"u{number}", b"%d" % turn * 400)
            assert len(client._waiting) <= tak_picture.ITEMS_MAX // 4
            for number in range(2 * tak_picture.ITEMS_MAX):
                client.send(f"v{number}", b"x")
            assert len(client._waiting) == tak_picture.ITEMS_MAX
            assert client.dropped >= tak_picture.ITEMS_MAX

    run(test)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    place = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)

    fresh = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*fresh, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name in ("server", "phone"):
        (place / "ext").write_text("subjectAltName=IP:127.0.0.1")
        openssl(*fresh, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                f"{name}.pem", "-days", "2", "-extfile", "ext")  # fmt: skip
    return place


def test_tls_wants_certificates_of_both(certificates):
    files = {"tls": True, "cert": str(certificates / "server.pem"), "key": str(certificates / "server.key")}
    ca = str(certificates / "ca.pem")
    phone = {"cert": str(certificates / "phone.pem"), "key": str(certificates / "phone.key")}

    async def test():
        async with Place(ca=ca, **files) as place:
            context = tak_clients.tls_context(serve=False, ca=ca, **phone)
            one = await place.screen(ssl=context)
            one.say(said("m"))
            assert (await place.rows(1))[0].values["uid"] == "m"
            stranger = tak_clients.tls_context(serve=False, ca=ca, cert="", key="")
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port, ssl=stranger)
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            assert len(place.scheme._clients) == 1
            url = f"tak://127.0.0.1:{place.port}"
            trusting = TakScheme(Options(url, "t", ca=ca, more={"connect": True, "tls": True, **phone}))
            await trusting.connect()
            await trusting.close()
            wary = TakScheme(Options(url, "t", more={"connect": True, "tls": True}))
            with pytest.raises(SchemeError, match="name the server's CA with ca = FILE"):
                await wary.connect()

    run(test)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tls": True}, "tls = true needs cert = FILE"),
        ({"cert": "/nowhere"}, "set tls = true"),
        ({"tls": True, "cert": "/nowhere"}, "there is no file /nowhere for 'cert'"),
        ({"stale_s": 0}, "stale_s must be 1.."),
        ({"stale_s": STALE_S_MAX + 1}, "stale_s must be 1.."),
        ({"multicast": "10.0.0.1:6969"}, "multicast must be like"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_in_one_line(more, said):
    with pytest.raises(SchemeError, match=said):
        TakScheme.check(Options("tak://0.0.0.0:8087", "t", more=more))
    TakScheme.check(Options("tak://0.0.0.0", "t", more={"stale_s": STALE_S_MAX}))


def test_port_of_another_program_is_named():
    async def test():
        async with Place() as place:
            second = TakScheme(Options(f"tak://127.0.0.1:{place.port}", "t"))
            with pytest.raises(LinkError, match="cannot listen on 127"):
                await second.connect()
            await second.close()

    run(test)


def test_two_nodes_on_multicast_settle():
    pytest.importorskip("takproto")
    group = {"multicast": f"239.2.3.1:{free_port()}", "interface": "127.0.0.1"}

    async def test():
        async with Place(**group) as one, Place(**group) as two:
            await one.scheme.publish([row("drones", "d1", lat=1, lon=2, name="D1", own=1)])
            phone = await one.screen()
            phone.say(said("m1", "a-h-G", "h-g-i-g-o", '<contact callsign="tank"/><remarks>two of them</remarks>'))
            (here,) = await one.rows(1)
            (there,) = await two.rows(1)
            assert (there.topic, there.values["callsign"], there.values["remarks"]) == (
                "markers",
                "tank",
                "two of them",
            )
            assert {name: there.values[name] for name in ("uid", "type", "at", "stale", "lat", "lon", "alt_m")} == {
                name: here.values[name] for name in ("uid", "type", "at", "stale", "lat", "lon", "alt_m")
            }
            await two.scheme.publish([row("markers", "m1", "a-h-G", **there.values)])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.scheme.receive(), 0.3)

    run(test)
