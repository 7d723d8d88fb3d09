"""`python -m tests.fuzz TARGET [--seconds N] [--seed N]`: fuzz one parser for as long as you like.

Runs in rounds of which each has its seed. A failure is shrunk, raised with the line that replays its round, and ends the
run with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, Phase, seed, settings

from tests.fuzz.targets import TARGETS, hunted

ROUND_EXAMPLES = 1_000


def fuzz(name: str, *, seconds: float, first_seed: int, rounds: int | None = None) -> int:
    """Run rounds until the time is over (or as many as told); return 0, or raise what failed."""
    calls = Counter()
    started = time.monotonic()
    number = 0
    while (number < rounds) if rounds is not None else (time.monotonic() - started < seconds):
        round_seed = first_seed + number
        run = hunted(name, lambda test, at=round_seed: seed(at)(_settings()(test)), on_call=lambda: calls.update("x"))
        held = False
        try:
            run()
            held = True
        finally:
            if not held:
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
    parser.add_argument("--rounds", type=int, default=None, help="so many rounds of 1,000, whatever the time")
    args = parser.parse_args()
    return fuzz(args.target, seconds=args.seconds, first_seed=args.seed, rounds=args.rounds)


if __name__ == "__main__":
    sys.exit(main())
