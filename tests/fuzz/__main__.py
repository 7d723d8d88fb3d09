"""`python -m tests.fuzz TARGET [--seconds N | --cpu-seconds N] [--seed N]`: fuzz one parser for as long as you like.

Other work on the machine shortens a run by the clock; `--cpu-seconds` counts what the run itself has computed. The run consists
of rounds, each with its own seed. A failure is shrunk and raised, the line that replays its round is printed, and the run ends
with exit code 1.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings

from tests.fuzz.targets import TARGETS, fuzz_test

ROUND_EXAMPLES = 250


def cpu_seconds() -> float:
    """Return the CPU time of this process so far, in user and system mode, by getrusage."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def fuzz(
    name: str,
    *,
    seconds: float,
    first_seed: int,
    rounds: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run rounds until `clock` has gone on by `seconds`, or `rounds` of them; return 0, or raise the failure."""
    calls = Counter()
    started, began, computed = clock(), time.monotonic(), cpu_seconds()
    number = 0
    while (number < rounds) if rounds is not None else (clock() - started < seconds):
        round_seed = first_seed + number
        run = fuzz_test(
            name, lambda test, at=round_seed: seed(at)(_settings()(test)), on_call=lambda: calls.update("x")
        )
        passed = False
        try:
            run()
            passed = True
        finally:
            if not passed:
                print(f"replay: python -m tests.fuzz {name} --seed {round_seed} --rounds 1", file=sys.stderr)
        number += 1
    executions = calls.total()
    print(
        f"{name}: {executions} executions in {number} rounds, {time.monotonic() - began:.0f} s and "
        f"{cpu_seconds() - computed:.0f} s of CPU from seed {first_seed}, no failure"
    )
    return 0


def _settings():
    return settings(
        max_examples=ROUND_EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def main() -> int:
    """Read the arguments and fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz one parser of peer input.")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=600, help="how long (default 600)")
    parser.add_argument("--cpu-seconds", type=float, default=None, help="how long, by the CPU time of this process")
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default 0)")
    parser.add_argument("--rounds", type=int, default=None, help="this many rounds of 250, however long they take")
    args = parser.parse_args()
    if args.cpu_seconds is not None:
        seconds, clock = args.cpu_seconds, cpu_seconds
    else:
        seconds, clock = args.seconds, time.monotonic
    return fuzz(args.target, seconds=seconds, first_seed=args.seed, rounds=args.rounds, clock=clock)


if __name__ == "__main__":
    sys.exit(main())
