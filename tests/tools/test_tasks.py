"""Tasks end although a library loses their cancellation, and one that fails ends the others."""

from __future__ import annotations

import asyncio

import pytest

from mycomesh.tools import tasks
from mycomesh.tools.bridges.receiving import Pumps
from mycomesh.tools.bridges.scheme import LinkError


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)


def run(work):
    async def bounded():
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(bounded())


async def lose_cancellations(count):
    """Wait for ever, and lose the first cancellations, as a task in `asyncio.wait_for` of Python 3.11 may."""
    for _ in range(count):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue
    await asyncio.Event().wait()


def test_a_task_that_loses_cancellations_is_ended():
    async def story():
        running = [asyncio.ensure_future(lose_cancellations(count)) for count in range(3)]
        await asyncio.sleep(0)
        await tasks.end_tasks(running)
        assert all(task.cancelled() for task in running)

    run(story())


def test_tasks_that_have_ended_keep_their_results():
    async def fail():
        raise ValueError

    async def story():
        running = [asyncio.ensure_future(asyncio.sleep(0, "done")), asyncio.ensure_future(fail())]
        await asyncio.wait(running)
        await tasks.end_tasks(running)
        assert running[0].result() == "done"
        with pytest.raises(ValueError):
            running[1].result()

    run(story())


def test_the_first_error_ends_all_and_is_raised():
    async def fail(error):
        raise error

    with pytest.raises(LinkError, match="lost"):
        run(tasks.run_together(lose_cancellations(1), fail(LinkError("lost")), fail(ValueError())))
    run(tasks.run_together(lose_cancellations(1), asyncio.sleep(0)))


def test_pumps_close_although_a_cancellation_is_lost():
    """A fetch that met a message as the connection was given up went on for ever, and the bridge with it."""

    async def story():
        pumps = Pumps()
        pumps.start(lambda: lose_cancellations(1))
        await asyncio.sleep(0)
        await pumps.close()

    run(story())


def test_a_request_cancelled_by_its_library_is_reported():
    """nats-py cancels the requests of a connection that it closes; a pump that ended so let `get` wait for ever."""

    async def story():
        given_up = asyncio.get_running_loop().create_future()

        async def fetch():
            await given_up

        pumps = Pumps()
        pumps.start(fetch)
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(LinkError):
            await pumps.get()
        await pumps.close()

    run(story())
