"""A child's state is reported when it changes, and its dead letters are tried again when the node asks for it."""

from __future__ import annotations

import asyncio

import apsw
import pytest

from mycomesh.tools import child_state
from mycomesh.tools.child import SUPERVISED, Parent
from mycomesh.tools.child_state import ChildState


class Recorded:
    def __init__(self):
        self.reports = []

    def report(self, state, text, figures):
        self.reports.append((state, text, dict(figures)))


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(child_state, "REPORT_S", 0)
    monkeypatch.setattr(child_state, "RETRY_S", 0)
    monkeypatch.setenv(SUPERVISED, "1")


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_does_not_change_is_not_reported():
    async def story():
        recorded, figures, shown = Recorded(), {"sent": 0}, []
        state = ChildState(recorded, lambda: figures)

        async def show(*now):
            shown.append(now)

        keeping = asyncio.ensure_future(state.keep(show))
        await turns()
        assert recorded.reports == []
        state.set("running", "")
        await turns()
        assert shown == [("running", "")]
        before = len(recorded.reports)
        state.touch()
        await turns()
        assert len(recorded.reports) == before
        figures["sent"] = 5
        await asyncio.to_thread(state.touch)
        await turns()
        assert recorded.reports[-1] == ("running", "", {"sent": 5})
        assert shown[1:] == [("running", "")]
        keeping.cancel()

    asyncio.run(story())


def test_dead_letters_are_tried_at_first_and_on_request():
    async def story():
        state, parent, tries = ChildState(Recorded(), dict), Parent(), []

        async def again():
            tries.append(len(tries))
            if len(tries) == 2:
                raise apsw.BusyError

        retrying = asyncio.ensure_future(state.retry(parent, again))
        await turns()
        assert tries == [], "it does not run yet"
        state.set("running", "")
        await turns()
        assert tries == [0]
        await asyncio.to_thread(parent.request_retry)
        await turns()
        assert tries == [0, 1, 2], "once more after a locked file"
        retrying.cancel()

    asyncio.run(story())


def test_without_a_node_it_looks_by_itself(monkeypatch):
    monkeypatch.delenv(SUPERVISED)
    monkeypatch.setattr(child_state, "ALONE_S", 0)

    async def story():
        state, tries = ChildState(Recorded(), dict), []

        async def again():
            tries.append(1)

        retrying = asyncio.ensure_future(state.retry(Parent(), again, always=True))
        await turns()
        assert len(tries) > 2
        retrying.cancel()

    asyncio.run(story())
