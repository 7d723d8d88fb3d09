"""`python -m tests.fuzz TARGET [--seconds N] [--seed N]`: fuzz one parser for as long as you like.

The run consists of rounds, each with its own seed. A failure is shrunk and raised, the line that replays its round is printed,
and the run ends with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, Phase, seed, settings

from tests.fuzz.targets import TARGETS, fuzz_test

ROUND_EXAMPLES = 250


def fuzz(name: str, *, seconds: float, first_seed: int, rounds: int | None = None) -> int:
    """Run rounds until the time is over, or `rounds` of them; return 0, or raise the failure."""
    calls = Counter()
    started = time.monotonic()
    number = 0
    while (number < rounds) if rounds is not None else (time.monotonic() - started < seconds):
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
    elapsed = time.monotonic() - started
    print(f"{name}: {executions} executions in {number} rounds and {elapsed:.0f} s from seed {first_seed}, no failure")
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
    parser.add_argument("--seed", type=int, default=0, help="of the first round (default 0)")
    parser.add_argument("--rounds", type=int, default=None, help="this many rounds of 250, however long they take")
    args = parser.parse_args()
    return fuzz(args.target, seconds=args.seconds, first_seed=args.seed, rounds=args.rounds)


if __name__ == "__main__":
    sys.exit(main())
