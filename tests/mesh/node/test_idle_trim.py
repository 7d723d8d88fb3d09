"""A node at rest gives memory back once, and one that works is left alone."""

from __future__ import annotations

import asyncio

import pytest

from mycomesh.mesh.node import idle_trim
from mycomesh.mesh.node.idle_trim import IdleTrim, trim_heap
from tests.sync.peers import Peer


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(idle_trim, "IDLE_S", 0.05)


def rested(story):
    times = []

    async def run():
        await story(IdleTrim(lambda: times.append(asyncio.get_running_loop().time())))

    asyncio.run(run())
    return times


def test_it_comes_once_after_the_last_work():
    async def story(found):
        for _ in range(20):
            found.touch()
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)

    assert len(rested(story)) == 1


def test_it_comes_again_after_more_work():
    async def story(found):
        for _ in range(3):
            found.touch()
            await asyncio.sleep(0.2)

    assert len(rested(story)) == 3


def test_without_work_or_after_the_end_there_is_none():
    async def story(found):
        await asyncio.sleep(0.1)
        found.touch()
        found.cancel()
        await asyncio.sleep(0.1)

    assert rested(story) == []


def test_a_file_serves_on_when_its_caches_are_gone(tmp_path):
    peer = Peer(tmp_path / "file.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    peer.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO t SELECT i, i FROM n"
    )
    peer.drain()
    before = peer.digests()
    peer.replica.shrink()
    trim_heap()
    assert peer.digests() == before
    peer.sql("UPDATE t SET v = -v WHERE id = 7")
    assert peer.drain()
    assert peer.digests() != before
    peer.close()
