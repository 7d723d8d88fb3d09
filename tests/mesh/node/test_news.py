"""Programs beside the node wait for commits and for other members in reach, and nothing is computed while nobody waits."""

from __future__ import annotations

import asyncio

import pytest

from mycomesh.mesh.node import news as module
from mycomesh.mesh.node.news import News


@pytest.fixture
def story(monkeypatch):
    """Return a function that runs a coroutine function with news, whose reach is the last of a list, and the list."""
    monkeypatch.setattr(module, "COMPARE_S", 0.001)

    def run(told):
        async def with_news():
            reach = [0]
            looks = []
            news = News(100, lambda: looks.append(1) or reach[-1])
            await news.wait(100, 0)
            await told(news, reach, looks)

        asyncio.run(with_news())

    return run


def test_a_commit_ends_the_wait(story):
    async def told(news, reach, looks):
        before = news.number
        waiting = asyncio.ensure_future(news.wait(before, 60))
        await asyncio.sleep(0)
        news.on_commit()
        await waiting
        assert news.number == before + 1
        await news.wait(before, 60)  # one that has missed it does not wait

    story(told)


def test_another_reach_ends_the_wait(story):
    async def told(news, reach, looks):
        before = news.number
        waiting = asyncio.ensure_future(news.wait(before, 60))
        await asyncio.sleep(0)
        news.on_event()
        await asyncio.sleep(0.01)
        assert not waiting.done()
        reach.append(1)
        news.on_event()
        await waiting

    story(told)


def test_what_changed_while_nobody_waited_is_told_at_once(story):
    async def told(news, reach, looks):
        before = news.number
        reach.append(1)
        news.on_event()
        await asyncio.sleep(0.01)
        assert len(looks) == 1, "nobody waits"
        await news.wait(before, 60)
        assert news.number == before + 1

    story(told)


def test_a_wait_without_news_ends_in_time(story):
    async def told(news, reach, looks):
        before = news.number
        await news.wait(before, 0.001)
        assert news.number == before

    story(told)
