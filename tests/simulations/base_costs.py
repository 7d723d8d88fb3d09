"""`python -m tests.simulations.base_costs 10 100`: what a base costs among so many, simulated, for docs/mailboxes.md.

Nodes, gateways and envelopes are the real ones. `--seconds` is the time in which bases write, and `--rate` how often one does.
With `--readers 16` all bases write, and only so many read all the others: the rest see the streams of the first base alone, which
has the tables. Then the figures are those of the readers. `--one-by-one` has a look list each stream by itself, as in a
directory, instead of all at once, as at NATS. `--settle 120` ends a run so many seconds after the writes, equal or not, and
prints what was read by then: 1,000 bases take minutes of CPU for each minute.
"""

from __future__ import annotations

import argparse
import resource
from collections import Counter
from unittest import mock

from mycomesh.simulations import cluster as module
from mycomesh.simulations.causality import Causality
from mycomesh.simulations.cluster import Cluster
from mycomesh.simulations.mailbox import SurveyedWay, Way
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenario import Scenario
from mycomesh.simulations.workload import Rates

DURATION_S = 60
RATE = 0.1  # writes a second and base
SETTLE_S = 3_600
FIGURES = ("appended", "read", "looks", "fetched", "room")


def costs(bases, seconds=DURATION_S, rate=RATE, *, readers=None, one_by_one=False, settle=SETTLE_S):
    """Return the result of a run, and what one base that reads all others has appended, read and kept, in bytes and times."""
    readers = bases if readers is None else readers
    ways, seen = [], {}

    def way(shared):
        shown = None if len(ways) < readers else ways[0].own
        ways.append(_counted(Way if one_by_one else SurveyedWay)(shared, shown))
        return ways[-1]

    def inspect(_cluster):
        seen.update({figure: sum(each.counts[figure] for each in ways[:readers]) / readers for figure in FIGURES})

    nodes = tuple(range(bases))
    scenario = Scenario(
        "bases", bases, seconds, Rates(telemetry=rate), Conditions(), tables_at=0, bases=tuple((node,) for node in nodes),
        gateways=nodes, settle_s=settle,
    )  # fmt: skip
    with (
        mock.patch.object(Causality, "look"),  # it compares each node with the changes of all
        mock.patch.object(module, "Way", way),
        mock.patch.object(Cluster, "members", lambda cluster: list(cluster.hosts[:readers])),  # they have to be equal
    ):
        result = run(scenario, 1, inspect=inspect)
    return result, seen


def _counted(kind):
    """Return a kind of way that counts, and shows no other streams than these."""

    class Counted(kind):
        def __init__(self, shared, shown):
            super().__init__(shared)
            self.counts, self.own = Counter(), {}
            self._shown = shown

        def append(self, mesh, stream, position, data):
            self.own[stream] = None
            self.counts.update(appended=len(data), room=len(data))
            return super().append(mesh, stream, position, data)

        def remove(self, mesh, listed):
            self.counts["room"] -= listed.size
            super().remove(mesh, listed)

        def streams(self, mesh):
            self.counts["looks"] += 1
            found = super().streams(mesh)
            return found if self._shown is None else [stream for stream in found if stream in self._shown]

        def get(self, mesh, listed):
            data = super().get(mesh, listed)
            self.counts["fetched"] += 1
            self.counts["read"] += len(data or b"")
            return data

    return Counted


def main():
    """Print a row a number of bases."""
    print("bases  equal after  appended B  read B  looks  fetched  room B  commits  virtual s  CPU s  RSS MB")
    parser = argparse.ArgumentParser()
    parser.add_argument("bases", nargs="+", type=int)
    parser.add_argument("--seconds", type=float, default=DURATION_S)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--readers", type=int)
    parser.add_argument("--settle", type=float, default=SETTLE_S)
    parser.add_argument("--one-by-one", action="store_true")
    args = parser.parse_args()
    for bases in args.bases:
        result, seen = costs(
            bases, args.seconds, args.rate, readers=args.readers, one_by_one=args.one_by_one, settle=args.settle
        )
        healed = "never" if result.healed_s is None else f"{result.healed_s:.1f} s"
        figures = "  ".join(f"{seen[figure]:,.0f}" for figure in FIGURES)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(
            f"{bases:5}  {healed:>11}  {figures}  {result.commits:,}  {result.virtual_s:.0f}  {result.cpu_s:.0f}  {peak:,}",
            flush=True,
        )
        for line in result.violations if result.converged else ():
            print(f"  {line}")


if __name__ == "__main__":
    main()
