"""Virtual time: order, streams, clocks, trace."""

from __future__ import annotations

import subprocess
import sys

from mycomesh.simulations.world import EPOCH_MS, SECOND, Clock, World


def test_calls_come_in_order_of_time_then_request():
    world = World(1)
    seen = []
    world.at(20, seen.append, "late")
    world.at(10, seen.append, "first")
    world.at(10, seen.append, "second")
    world.run_until(15)
    assert seen == ["first", "second"]
    assert world.now_us == 15
    world.run_until(20)
    assert seen == ["first", "second", "late"]


def test_a_call_may_ask_for_another_at_once():
    world = World(1)
    seen = []
    world.at(5, lambda: world.after(0, seen.append, world.now_us))
    world.run_until(5)
    assert seen == [5]


def test_a_call_for_the_past_is_made_at_once():
    world = World(1)
    world.run_until(100)
    seen = []
    world.at(3, lambda: seen.append(world.now_us))
    world.run_until(100)
    assert seen == [100]


def test_streams_depend_on_seed_and_name_alone():
    one, other = World(7), World(7)
    other.stream("something else").random()
    assert one.stream("network").random() == other.stream("network").random()
    assert one.stream("network").random() != one.stream("application/1").random()
    assert one.stream("network").random() != World(8).stream("network").random()


def test_streams_are_equal_in_every_process():
    program = "from simulations.world import World; print(World(3).stream('a').getrandbits(64))"
    printed = [
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed == [f"{World(3).stream('a').getrandbits(64)}\n"] * 2


def test_a_clock_has_skew_and_drift_from_1970_on():
    hour = 3_600 * SECOND
    assert Clock().wall_ms(hour) == EPOCH_MS + 3_600_000
    assert Clock(skew_ms=-5_000).wall_ms(0) == EPOCH_MS - 5_000
    assert Clock(drift_ppm=100).wall_ms(hour) == EPOCH_MS + 3_600_360
    assert Clock(skew_ms=-EPOCH_MS - 10).wall_ms(0) == 0


def test_a_trace_distinguishes_runs_by_every_detail():
    def hash_of(*event):
        world = World(1)
        world.trace.record(*event)
        return world.trace.hexdigest()

    base = (1, 2, "bytes", b"x")
    assert hash_of(*base) == hash_of(*base)
    for other in ((2, 2, "bytes", b"x"), (1, 3, "bytes", b"x"), (1, 2, "other", b"x"), (1, 2, "bytes", b"y")):
        assert hash_of(*other) != hash_of(*base)
