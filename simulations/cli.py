"""`mycomesh simulate`: run scenarios, one or many seeds, and print what held.

Owns the arguments, the table and the exit codes: 0 all held, 1 something did not, 2 the request was impossible.
Must not know how a run works.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulations.console import Bar, header, lines_of
from simulations.errors import ScenarioError, SimulationError
from simulations.members import MESHES
from simulations.recorder import Recorder
from simulations.report import PAGE, TRACE, open_report, page
from simulations.runner import Result, run
from simulations.scenarios import CATALOGUE, Changes, Scenario, build
from simulations.tap import Tap

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["add_arguments", "main"]

SEEDS_MAX = 1_000_000  # more than a machine finishes; a typing error otherwise


@dataclass(frozen=True, slots=True)
class Request:
    """What one process needs to run one seed."""

    scenario: str
    nodes: int | None
    duration_s: float | None
    mesh: str
    changes: Changes = field(default_factory=Changes)

    def run(self, seed: int, progress: Callable[[float], None] | None = None, record: Recorder | None = None) -> Result:
        """Expand the scenario for this seed and run it."""
        return run(self.expand(seed), seed, mesh=self.mesh, progress=progress, record=record)

    def expand(self, seed: int) -> Scenario:
        """The scenario of this seed."""
        return build(self.scenario, seed=seed, nodes=self.nodes, duration_s=self.duration_s, changes=self.changes)

    def replay(self, result: Result) -> str:
        """The line that runs it again."""
        duration = f" --duration {self.duration_s:g}" if self.duration_s is not None else ""
        changes = {"rate": self.changes.rate, "rows": self.changes.rows, "loss": self.changes.loss}
        options = "".join(f" --{name} {value:g}" for name, value in changes.items() if value is not None)
        mesh = f" --mesh {self.mesh}" if self.mesh != "real" else ""
        return f"mycomesh simulate {self.scenario} --nodes {result.nodes} --seed {result.seed}{duration}{options}{mesh}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `simulate` to a (sub)parser."""
    parser.add_argument(
        "scenario", nargs="?", help="name of a scenario (see --list), or a TOML file (docs/simulations.md)"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and stop")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of nodes")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the run (default 1)")
    parser.add_argument("--seeds", metavar="A..B", help="run every seed from A to B")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="virtual seconds of writes and faults")
    parser.add_argument("--rate", type=float, metavar="R", help="transactions a virtual second, of all nodes together")
    parser.add_argument("--rows", type=int, metavar="N", help="size of the key space that all nodes edit")
    parser.add_argument("--loss", type=float, metavar="P", help="loss of one packet, 0 to 0.9")
    parser.add_argument(
        "--mesh",
        choices=MESHES,
        default="real",
        help="`plain` leaves cryptography out",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes for --seeds (default 1)")
    parser.add_argument("--report", metavar="DIR", help=f"write {PAGE} with plots, and {TRACE}, into DIR (one seed)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run, the last line the last run")


def main(args: argparse.Namespace) -> int:
    """Run what the arguments ask for; return the exit code."""
    try:
        if args.list:
            _print_list()
            return 0
        if args.scenario is None:
            raise ScenarioError("which scenario? `mycomesh simulate --list` names them")
        seeds = _seeds(args.seed, args.seeds)
        if args.jobs < 1:
            raise ScenarioError(f"--jobs: at least 1, not {args.jobs}")
        changes = Changes(args.rate, args.rows, args.loss)
        request = Request(args.scenario, args.nodes, args.duration, args.mesh, changes)
        request.expand(seeds[0])
        if args.report is not None and len(seeds) > 1:
            raise ScenarioError("--report: shows one run; give --seed S, not --seeds")
        report = None if args.report is None else open_report(args.report)
    except SimulationError as error:
        print(f"mycomesh simulate: {error}", file=sys.stderr)  # noqa: T201  this module is what prints
        return 2
    failed = 0
    if not args.json:
        print(header(), flush=True)  # noqa: T201
    for result in _results(request, seeds, args.jobs, report):
        failed += not result.ok
        print(json.dumps(result.as_json()) if args.json else lines_of(result), flush=True)  # noqa: T201
        if not result.ok:
            print(f"replay: {request.replay(result)}", file=sys.stderr, flush=True)  # noqa: T201
    if len(seeds) > 1 and not args.json:
        print(f"{len(seeds) - failed} of {len(seeds)} seeds held")  # noqa: T201
    if report is not None and not args.json:
        print(f"report: {report / PAGE}")  # noqa: T201
    return 1 if failed else 0


def _print_list() -> None:
    width = max(len(name) for name in CATALOGUE)
    for entry in CATALOGUE.values():
        usual = f"{entry.nodes} nodes, {entry.duration_s:g} s"
        print(f"{entry.name:{width}}  {usual:16}  {entry.text}")  # noqa: T201


def _seeds(seed: int | None, seeds: str | None) -> range:
    if seeds is None:
        return range(seed if seed is not None else 1, (seed if seed is not None else 1) + 1)
    if seed is not None:
        raise ScenarioError("--seed or --seeds, not both")
    first, dots, last = seeds.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ScenarioError(f"--seeds: A..B with whole numbers, A not above B, e.g. 1..20, not {seeds!r}")
    if int(last) - int(first) >= SEEDS_MAX:
        raise ScenarioError(f"--seeds: at most {SEEDS_MAX} seeds")
    return range(int(first), int(last) + 1)


def _results(request: Request, seeds: range, jobs: int, report: Path | None) -> Iterator[Result]:
    """The results in the order of the seeds, whichever process had them first."""
    if jobs == 1 or len(seeds) == 1:
        yield from (_watched(request, seed, report) for seed in seeds)
        return
    with ProcessPoolExecutor(min(jobs, len(seeds))) as pool:
        yield from pool.map(request.run, seeds)


def _watched(request: Request, seed: int, report: Path | None) -> Result:
    """One run in this process: with a bar on a terminal, and the report if one is wanted."""
    bar = Bar(f"{request.scenario} seed {seed}", request.expand(seed).duration_s)
    progress = bar.show if bar.live else None
    try:
        if report is None:
            return request.run(seed, progress)
        with ExitStack() as stack:
            lines = stack.enter_context((report / TRACE).open("w", encoding="utf-8"))
            record = Recorder(lines, tap=stack.enter_context(Tap()))
            result = request.run(seed, progress, record)
        (report / PAGE).write_text(page(result, record, request.replay(result)), encoding="utf-8")
        return result
    finally:
        bar.clear()
