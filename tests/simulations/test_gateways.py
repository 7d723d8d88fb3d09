"""Coroutines in virtual time: they wait for signals and times, end with their node, and give the same run twice."""

from mycomesh.mesh.node.surroundings import Signal
from mycomesh.simulations.gateways import Task, Wait
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenarios import build
from mycomesh.simulations.world import World
from tests.simulations.base_costs import costs


def test_a_wait_ends_by_its_signal_or_its_time():
    world, signal, seen = World(1), Signal(), []

    async def work():
        for wait in (Wait(None, 5), Wait(signal, 1_000), Wait(signal, 7)):
            await wait
            seen.append(world.now_us)

    task = Task(work(), world)
    world.at(50, signal.set)
    world.run_until(2_000)
    assert seen == [5, 50, 57]
    assert task.ended


def test_a_signal_that_was_set_before_is_not_missed():
    world, signal, seen = World(1), Signal(), []
    signal.set()

    async def work():
        await Wait(signal, 1_000)
        seen.append((world.now_us, signal.is_set))

    Task(work(), world)
    world.run_until(2_000)
    assert seen == [(0, False)]


def test_a_task_that_ends_itself_goes_no_further():
    world, seen = World(1), []

    async def work():
        await Wait(None, 5)
        task.close()
        seen.append("killed")
        await Wait(None, 5)
        seen.append("after")

    task = Task(work(), world)
    world.run_until(100)
    assert seen == ["killed"]


def test_the_same_seed_gives_the_same_run():
    traces = [run(build("bases", seed=3, nodes=3, duration_s=10), 3).trace for _ in range(2)]
    assert traces[0] == traces[1]


def test_a_base_costs_the_same_among_more_bases():
    """A base appends and keeps the same among three times as many, and reads the same of each of them."""
    (few, of_few), (many, of_many) = (costs(bases, 5) for bases in (4, 12))
    for result in (few, many):
        assert result.ok, result.violations
        assert not [event for event in result.notices if event.startswith("warning")]
    for figure in ("appended", "room"):
        assert of_many[figure] <= 1.25 * of_few[figure]
    for figure in ("read", "fetched", "looks"):
        assert of_many[figure] / 11 <= 1.25 * of_few[figure] / 3
