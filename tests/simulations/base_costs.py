"""`python -m tests.simulations.base_costs 10 100`: what a base costs among so many, simulated, for docs/mailboxes.md.

With `--seconds 5`, the time in which bases write.
"""

from __future__ import annotations

import argparse
from unittest import mock

from mycomesh.simulations.causality import Causality
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenario import Scenario
from mycomesh.simulations.workload import Rates

DURATION_S = 60
RATE = 0.1  # writes a second and base


def costs(bases, seconds=DURATION_S):
    """Return what one base has appended, read, and listed, in bytes and times, and whether all were equal."""
    seen = {}

    def inspect(cluster):
        box = cluster.mailbox
        seen.update(
            appended=box.bytes / bases,
            read=box.read / bases,
            lists=box.lists / bases,
            gets=box.gets / bases,
            room=box.room() / bases,
        )

    nodes = tuple(range(bases))
    scenario = Scenario(
        "bases", bases, seconds, Rates(telemetry=RATE), Conditions(), tables_at=0, bases=tuple((node,) for node in nodes),
        gateways=nodes, settle_s=3_600,
    )  # fmt: skip
    with mock.patch.object(Causality, "look"):  # it compares each node with the changes of all
        result = run(scenario, 1, inspect=inspect)
    return result, seen


def main():
    """Print a row a number of bases."""
    print("bases  equal after  appended B  read B  listings  gets  room B  commits  virtual s  CPU s")
    parser = argparse.ArgumentParser()
    parser.add_argument("bases", nargs="+", type=int)
    parser.add_argument("--seconds", type=int, default=DURATION_S)
    args = parser.parse_args()
    for bases in args.bases:
        result, seen = costs(bases, args.seconds)
        healed = "never" if result.healed_s is None else f"{result.healed_s:.1f} s"
        figures = "  ".join(f"{value:,.0f}" for value in seen.values())
        print(
            f"{bases:5}  {healed:>11}  {figures}  {result.commits:,}  {result.virtual_s:.0f}  {result.cpu_s:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
