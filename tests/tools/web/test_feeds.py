"""Events for many clients: what is queued, what a slow client loses, and what JSON every client can read."""

from __future__ import annotations

import asyncio
import json

import pytest

from mycomesh.mesh.node.home import Home
from mycomesh.tools.web import feeds
from mycomesh.tools.web.feeds import (
    QUEUE_BYTES_MAX,
    RECENT_BYTES_MAX,
    RECENT_MAX,
    Feeds,
    Subscriber,
    browser_safe_lines,
    event,
    events_of,
    id_of,
)
from mycomesh.tools.web.values import INTEGER_MAX, plain


def line(number, table="t", **values):
    return json.dumps({"id": f"{table}/ab/{number}", "table": table, "values": values})


def test_event_is_id_name_and_data():
    assert event("change", '{"a": 1}', "t/ab/7") == b'id: t/ab/7\nevent: change\ndata: {"a": 1}\n\n'
    assert event("ready", "{}") == b"event: ready\ndata: {}\n\n"


@pytest.mark.parametrize("table", ["t", "a\nevent: evil", "Zürich %", 'quo"te', "\r\x00"])
def test_no_table_name_breaks_an_event(table):
    text = events_of([line(7, table)]).decode()
    head, name, data, *rest = text.split("\n")
    assert (name, rest) == ("event: change", ["", ""])
    assert head == f"id: {id_of(line(7, table))}"
    assert head.isascii()
    assert json.loads(data.removeprefix("data: "))["table"] == table


def taken(subscriber, count):
    async def take():
        return [data async for data, _ in zip_async(subscriber.events(0.01), count)]

    async def zip_async(source, most):
        number = 0
        async for each in source:
            yield each, number
            number += 1
            if number == most:
                return

    return asyncio.run(take())


def test_slow_client_gets_a_reset(monkeypatch):
    monkeypatch.setattr(feeds, "QUEUE_BYTES_MAX", 100)
    assert QUEUE_BYTES_MAX > 1 << 20  # a page of the feed fits
    subscriber = Subscriber()
    for data in (b"x" * 60, b"y" * 40, b"z"):
        subscriber.put(data)
    subscriber.put(b"w")
    assert taken(subscriber, 3) == [
        event("reset", '{"why": "this client was too slow; load again"}'),
        b"w",
        b": quiet\n\n",
    ]


@pytest.mark.parametrize(
    ("limit", "size"), [("RECENT_MAX", 5), ("RECENT_BYTES_MAX", 5 * len(line(1)))], ids=["number", "bytes"]
)
def test_recent_changes_can_be_resumed_at(monkeypatch, tmp_path, limit, size):
    assert RECENT_MAX >= 1_024
    assert RECENT_BYTES_MAX >= 1 << 20
    monkeypatch.setattr(feeds, limit, size)

    async def pages(_home, _table):
        for number in range(1, 10):
            yield [line(number)]
        await asyncio.Event().wait()

    monkeypatch.setattr(feeds, "pages", pages)
    got, all_are_here = [], asyncio.Event()

    def take(lines):
        got.append(lines)
        if len(got) == 9:
            all_are_here.set()

    async def read():
        with Feeds(Home.locate(tmp_path, {})).table("t", take) as feed:
            await all_are_here.wait()
            return feed.after("t/ab/7"), feed.after("t/ab/9"), feed.after("t/ab/4"), feed.after("other")

    later, nothing, forgotten, unknown = asyncio.run(read())
    assert (later, nothing, forgotten, unknown) == ([line(8), line(9)], [], None, None)


def test_numbers_that_browsers_lose_are_text():
    unsafe = ['{"id": "t/ab/1", "values": {"a": 9007199254740993, "b": Infinity, "c": "NaN"}}', line(2, a=1)]
    first, second = browser_safe_lines(unsafe)
    assert json.loads(first)["values"] == {"a": {"integer": "9007199254740993"}, "b": {"real": "Infinity"}, "c": "NaN"}
    assert second == unsafe[1]
    assert [plain(value) for value in (INTEGER_MAX - 1, INTEGER_MAX, INTEGER_MAX + 1)] == [
        INTEGER_MAX - 1,
        INTEGER_MAX,
        {"integer": str(INTEGER_MAX + 1)},
    ]
