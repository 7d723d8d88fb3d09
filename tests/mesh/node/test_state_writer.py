"""The pace at which a node writes its state: not at once, not often, and not at all while nothing happens."""

from __future__ import annotations

import asyncio
import itertools

from mycomesh.mesh.node import state_writer
from mycomesh.sync.errors import DatabaseBusyError


def story(monkeypatch, play):
    monkeypatch.setattr(state_writer, "FIRST_S", 0.01)
    monkeypatch.setattr(state_writer, "PERIOD_S", 0.1)
    calls = []

    async def refresh():
        calls.append(asyncio.get_running_loop().time())
        if len(calls) == 1:
            raise DatabaseBusyError("held")

    async def run():
        found = state_writer.StateWriter(refresh)
        await play(found, calls)
        found.cancel()

    asyncio.run(run())
    return calls


def test_many_events_are_one_refresh_at_a_time(monkeypatch):
    async def play(found, calls):
        while len(calls) < 3:
            found.touch()
            await asyncio.sleep(0.001)

    calls = story(monkeypatch, play)
    assert all(later - earlier >= 0.099 for earlier, later in itertools.pairwise(calls))


def test_without_events_and_after_the_end_nothing_happens(monkeypatch):
    async def play(found, calls):
        await asyncio.sleep(0.05)
        assert calls == []
        found.cancel()
        found.touch()
        await asyncio.sleep(0.05)

    assert story(monkeypatch, play) == []
