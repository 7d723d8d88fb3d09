"""Requests about the change feed: tokens, acknowledgements and readers whose client has gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess

import apsw
import pytest

from mycomesh.mesh.membership.identity import create_mesh
from mycomesh.mesh.node.config import NodeConfig
from mycomesh.mesh.node.control import feed
from mycomesh.mesh.node.daemon import Daemon
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.node.shell import clock
from mycomesh.sync.errors import FeedError


@pytest.fixture
def within(tmp_path):
    """Run a story with a serving node whose file has three rows of `t`."""

    def run(story):
        async def bounded():
            home = Home.locate(tmp_path / "home", {})
            home.prepare()
            Keystore(home).store_mesh(*create_mesh("fleet", "alpha", entropy=os.urandom, wall_ms=clock()[1]))
            file = tmp_path / "f.db"
            db = apsw.Connection(str(file))
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES(1), (2), (3)")
            db.close()
            daemon = Daemon(home, file, NodeConfig(port=0, multicast=False), lambda _: None)
            run = asyncio.create_task(daemon.run(signals=False))
            try:
                await story(await daemon.serving)
            finally:
                daemon.end()
                await run

        asyncio.run(asyncio.wait_for(bounded(), 30))

    return run


def request(token="a", **more):
    return {"do": "changes", "token": token, "table": "t", "from_now": False, **more}


def rows(answer):
    return [json.loads(line)["row"] for line in answer["changes"]]


def test_a_page_is_acknowledged_with_the_next_request(within):
    async def story(node):
        requests = feed.FeedRequests()
        assert rows(await requests.answer(node, request(cursor="c", rows=2))) == ["1", "2"]
        assert rows(await requests.answer(node, request(cursor="c", rows=2, done=2))) == ["3"]
        await requests.answer(node, request(cursor="c", close=True))
        assert rows(await requests.answer(node, request("b", cursor="c"))) == ["3"]
        await requests.answer(node, request("b", cursor="c", done=1, close=True))
        assert rows(await requests.answer(node, request("d", cursor="c"))) == []

    within(story)


def test_a_killed_client_leaves_its_cursor_free(within):
    with subprocess.Popen(["true"]) as gone:
        gone.wait()

    async def story(node):
        requests = feed.FeedRequests()
        await requests.answer(node, request(cursor="c", pid=os.getpid()))
        with pytest.raises(FeedError, match="in use"):
            await requests.answer(node, request("b", cursor="c"))
        await requests.answer(node, request(cursor="c", close=True))
        await requests.answer(node, request(cursor="c", pid=gone.pid))
        assert rows(await requests.answer(node, request("b", cursor="c"))) == ["1", "2", "3"]

    within(story)


def test_a_silent_client_loses_its_reader(within, monkeypatch):
    monkeypatch.setattr(feed, "IDLE_S", 0.01)

    async def story(node):
        requests = feed.FeedRequests()
        await requests.answer(node, request(cursor="c"))
        await asyncio.sleep(0.1)
        assert rows(await requests.answer(node, request("b", cursor="c"))) == ["1", "2", "3"]

    within(story)


@pytest.mark.parametrize(
    "words",
    [
        {"token": None},
        {"token": ""},
        {"token": "x" * (feed.TOKEN_MAX + 1)},
        {"table": 7},
        {"cursor": 7},
        {"table": "nowhere"},
        {"cursor": ""},
    ],
    ids=str,
)
def test_a_request_that_is_malformed_is_refused(within, words):
    async def story(node):
        requests = feed.FeedRequests()
        with pytest.raises((NodeError, FeedError)):
            await requests.answer(node, request() | words)
        for length in (feed.TOKEN_MAX - 1, feed.TOKEN_MAX):
            assert rows(await requests.answer(node, request("x" * length))) == ["1", "2", "3"]
        assert await requests.answer(node, {"do": "cursors"}) == {"cursors": []}
        with pytest.raises(NodeError, match="no cursor 'nobody'"):
            await requests.answer(node, {"do": "cursors", "drop": "nobody"})

    within(story)


def test_pages_wait_for_their_acknowledgement_up_to_the_limit(within, tmp_path):
    def insert():  # on a thread: as beside another program, the node's event loop goes on while this waits for a lock
        with contextlib.closing(apsw.Connection(str(tmp_path / "f.db"))) as db:
            db.set_busy_timeout(10_000)
            db.execute("INSERT INTO t VALUES(4), (5)")

    async def story(node):
        requests = feed.FeedRequests()
        await asyncio.to_thread(insert)
        pages = [rows(await requests.answer(node, request(cursor="c", rows=1))) for _ in range(feed.PAGES_MAX)]
        # Rows that were there come from a site of their own; the order between sites depends on when the node looks.
        assert len({row for [row] in pages}) == feed.PAGES_MAX
        with pytest.raises(NodeError, match="acknowledge the first"):
            await requests.answer(node, request(cursor="c", rows=1))
        await requests.answer(node, request(cursor="c", done=2, failed=[[1, "poison"]], close=True))
        letters = (await requests.answer(node, {"do": "dead"}))["letters"]
        assert [(letter["row"], letter["why"]) for letter in letters] == [(*pages[1], "poison")]
        assert rows(await requests.answer(node, request("b", cursor="c", rows=1))) == pages[2]

    within(story)


def test_closing_ends_a_reader_that_waits(within):
    async def story(node):
        requests = feed.FeedRequests()
        first = await requests.answer(node, request(cursor="c"))
        assert rows(first) == ["1", "2", "3"]
        waiting = asyncio.ensure_future(requests.answer(node, request(cursor="c", done=3, wait_ms=10_000)))
        await asyncio.sleep(0.1)
        assert await requests.answer(node, request(cursor="c", close=True)) == {"changes": [], "more": False}
        assert rows(await requests.answer(node, request("b", cursor="c"))) == []
        waiting.cancel()

    within(story)
