"""`mycomesh simulate`: run scenarios, one or many seeds, and print what held.

Owns the arguments, the table and the exit codes: 0 all held, 1 something did not, 2 the request was impossible.
Must not know how a run works.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mycomesh.simulations.console import Bar, Counter, header, lines_of
from mycomesh.simulations.errors import ScenarioError, SimulationError
from mycomesh.simulations.members import MESHES
from mycomesh.simulations.minimise import TRIES_MAX, minimised
from mycomesh.simulations.numbers import numbers
from mycomesh.simulations.recorder import Recorder
from mycomesh.simulations.report import PAGE, TRACE, open_report, page
from mycomesh.simulations.request import Request
from mycomesh.simulations.scenarios import CATALOGUE, Changes
from mycomesh.simulations.sweep import LOCAL, Results, spread
from mycomesh.simulations.tap import Tap

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from mycomesh.simulations.runner import Result

__all__ = ["add_arguments", "main", "request_of"]

SEEDS_MAX = 1_000_000  # more than a machine finishes; a typing error otherwise
JOBS_MAX = 1_024
MINIMISED = 3  # failures of a sweep that are minimised: more of them mostly say the same


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
    parser.add_argument(
        "--skip-faults", metavar="LIST", help="faults of the scenario, by number, that do not strike: 0-3,7"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes for --seeds (default 1)")
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="keep every result of --seeds in FILE; the same command then goes on from there",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help=f"run --seeds on the Dask scheduler there, or on a {LOCAL} one (mycomesh[cluster])",
    )
    parser.add_argument(
        "--minimise",
        type=int,
        metavar="N",
        help=f"failures to look for a shorter replay of, at most {TRIES_MAX} runs each (default {MINIMISED} with --seeds)",
    )
    parser.add_argument("--report", metavar="DIR", help=f"write {PAGE} with plots, and {TRACE}, into DIR (one seed)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run, the last line the last run")


def request_of(args: argparse.Namespace) -> Request:
    """What the arguments ask for, but for its seeds.

    Raises:
        ScenarioError: no scenario is named, or it is impossible.
    """
    if args.scenario is None:
        raise ScenarioError("which scenario? `mycomesh simulate --list` names them")
    changes = Changes(args.rate, args.rows, args.loss)
    skip = () if args.skip_faults is None else numbers(args.skip_faults)
    return Request(args.scenario, args.nodes, args.duration, args.mesh, changes, skip)


def main(args: argparse.Namespace) -> int:
    """Run what the arguments ask for; return the exit code."""
    try:
        if args.list:
            _print_list()
            return 0
        request = request_of(args)
        seeds = _seeds(args.seed, args.seeds)
        _check(args, len(seeds))
        request.expand(seeds[0])
        report = None if args.report is None else open_report(args.report)
        results = Results(args.results, request)
        if len(seeds) == 1 and args.results is None and args.cluster is None:
            failed = _one(request, seeds[0], results, args, report)
        else:
            failed = _sweep(request, seeds, results, args)
    except ScenarioError as error:
        print(f"mycomesh simulate: {error}", file=sys.stderr)  # noqa: T201  this module is what prints
        return 2
    except SimulationError as error:
        print(f"mycomesh simulate: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 1 if failed else 0


def _check(args: argparse.Namespace, seeds: int) -> None:
    """What the options of a sweep allow."""
    if not 1 <= args.jobs <= JOBS_MAX:
        raise ScenarioError(f"--jobs: at least 1 and at most {JOBS_MAX}, not {args.jobs}")
    if args.minimise is not None and args.minimise < 0:
        raise ScenarioError(f"--minimise: how many failures, from 0, not {args.minimise}")
    if args.report is not None and (seeds > 1 or args.results is not None or args.cluster is not None):
        raise ScenarioError("--report: shows one run; give --seed S, not --seeds, --results or --cluster")


def _one(request: Request, seed: int, results: Results, args: argparse.Namespace, report: Path | None) -> int:
    """One run in this process; returns whether it failed."""
    if not args.json:
        print(header(), flush=True)  # noqa: T201
    with _ended_in_order():
        result = _watched(request, seed, report)
    results.add(result)
    _show(request, result, args)
    if not result.ok and args.minimise:
        _minimise(request, result, results)
    if report is not None and not args.json:
        print(f"report: {report / PAGE}")  # noqa: T201
    return not result.ok


def _sweep(request: Request, seeds: range, results: Results, args: argparse.Namespace) -> int:
    """Many runs; returns how many failed."""
    missing = results.missing(seeds)
    if results.damaged:
        _say(
            f"--results {args.results}: its last line was torn ({results.damaged} bytes) and is cut off; that seed runs again"
        )
    if results.others:
        _say(f"--results {args.results}: {results.others} line(s) of other requests, or of other code, do not count")
    if len(missing) < len(seeds):
        _say(f"--results {args.results}: {len(seeds) - len(missing)} of {len(seeds)} seeds are there already")
    if not args.json:
        print(header(), flush=True)  # noqa: T201
    bar = Counter(f"{request.scenario}: seeds", len(seeds))
    done = results.of(seeds)
    count = len(done)
    failed = sum(not result.ok for result in done)
    shown: dict[int, Result] = {result.seed: result for result in done}
    order = iter(seeds)
    due = next(order, None)
    try:
        with spread(args.jobs, args.cluster) as run_all:
            for result in _with_stored(run_all(request, missing) if missing else iter(()), results):
                if result is not None:
                    shown[result.seed] = result
                    failed += not result.ok
                    count += 1
                while due in shown:  # whichever process had them first, they are shown in the order of the seeds
                    bar.clear()
                    _show(request, shown.pop(due), args)
                    due = next(order, None)
                bar.show(count, failed)
    except KeyboardInterrupt:
        bar.clear()
        kept = "nothing is kept without --results" if args.results is None else "the same command goes on from there"
        _say(f"stopped after {count} of {len(seeds)} seeds; {kept}")
        return 1
    finally:
        bar.clear()
    _minimise_some(request, [result for result in results.of(seeds) if not result.ok], results, args)
    if not args.json:
        print(f"{len(seeds) - failed} of {len(seeds)} seeds held")  # noqa: T201
    return failed


def _with_stored(runs: Iterator[Result], results: Results) -> Iterator[Result | None]:
    """First nothing, so that what is stored is shown; then each result, once it is written down."""
    yield None
    for result in runs:
        results.add(result)
        yield result


def _minimise_some(request: Request, failures: list[Result], results: Results, args: argparse.Namespace) -> None:
    wanted = MINIMISED if args.minimise is None else args.minimise
    for result in failures[:wanted]:
        _minimise(request, result, results)
    if wanted and len(failures) > wanted:
        _say(f"{len(failures) - wanted} more failures are not minimised; --minimise {len(failures)} does all")


def _minimise(request: Request, result: Result, results: Results) -> None:
    line = results.minimised(result.seed)
    if line is None:
        bar = Counter(f"minimising seed {result.seed}: runs", TRIES_MAX)
        try:
            small, again = minimised(request, result, told=lambda tried: bar.show(tried, 0))
        finally:
            bar.clear()
        line = small.replay(again)
        results.add_minimised(result.seed, line)
    _say(f"minimised: {line}")


def _show(request: Request, result: Result, args: argparse.Namespace) -> None:
    print(json.dumps(result.as_json()) if args.json else lines_of(result), flush=True)  # noqa: T201
    if not result.ok:
        _say(f"replay: {request.replay(result)}")


def _say(text: str) -> None:
    """What is said beside the results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _print_list() -> None:
    width = max(len(name) for name in CATALOGUE)
    for entry in CATALOGUE.values():
        usual = f"{entry.nodes} nodes, {entry.duration_s:g} s"
        print(f"{entry.name:{width}}  {usual:16}  {entry.text}")  # noqa: T201


def _seeds(seed: int | None, seeds: str | None) -> range:
    if seed is not None and seed < 0:
        raise ScenarioError(f"--seed: a whole number from 0, not {seed}")
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


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: its files are in memory, and would stay there until the machine restarts."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _watched(request: Request, seed: int, report: Path | None) -> Result:
    """One run in this process: with a bar on a terminal, and the report if one is wanted."""
    bar = Bar(f"{request.scenario} seed {seed}", request.expand(seed).duration_s)
    progress = bar.show if bar.live else None
    try:
        if report is None:
            return request.attempt(seed, progress)
        with ExitStack() as stack:
            lines = stack.enter_context((report / TRACE).open("w", encoding="utf-8"))
            record = Recorder(lines, tap=stack.enter_context(Tap()))
            result = request.attempt(seed, progress, record)
        (report / PAGE).write_text(page(result, record, request.replay(result)), encoding="utf-8")
        return result
    finally:
        bar.clear()
