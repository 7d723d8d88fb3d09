"""`mycomesh simulate`: runs one or many seeds of a scenario and prints the results.

Exit codes: 0 all runs held, 1 a run failed or the sweep stopped, 2 the request is impossible.
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
from mycomesh.simulations.report import PAGE, TRACE, Report, open_report
from mycomesh.simulations.request import Request
from mycomesh.simulations.scenarios import CATALOGUE, Changes
from mycomesh.simulations.sweep import LOCAL, Results, spread
from mycomesh.simulations.tap import Tap

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mycomesh.simulations.runner import Result

__all__ = ["add_arguments", "main", "request_of"]

SEEDS_MAX = 1_000_000  # more than one machine finishes, so a larger number is a typing error
JOBS_MAX = 1_024
MINIMISED = 3  # failures that a sweep minimises by default: the others usually have the same cause


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `simulate` to a (sub)parser."""
    parser.add_argument(
        "scenario", nargs="?", help="name of a scenario (see --list), or a TOML file (docs/simulations.md)"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and exit")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of nodes")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the run (default 1)")
    parser.add_argument("--seeds", metavar="A..B", help="run every seed from A to B")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="virtual seconds of writes and faults")
    parser.add_argument("--rate", type=float, metavar="R", help="transactions a virtual second, of all nodes together")
    parser.add_argument("--rows", type=int, metavar="N", help="size of the key space that all nodes edit")
    parser.add_argument("--loss", type=float, metavar="P", help="loss of one packet, 0 to 0.9")
    parser.add_argument(
        "--areas",
        type=int,
        metavar="N",
        help="areas of an area-fleet; 0: the same writes, of which each node keeps all",
    )
    parser.add_argument(
        "--mesh",
        choices=MESHES,
        default="real",
        help="`plain` has no cryptography",
    )
    parser.add_argument("--skip-faults", metavar="LIST", help="numbers of the scenario's faults to leave out: 0-3,7")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes for --seeds (default 1)")
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="keep every result of --seeds in FILE; the same command then continues from there",
    )
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help=f"run --seeds on the Dask scheduler at this address, or on a {LOCAL} one (mycomesh[cluster])",
    )
    parser.add_argument(
        "--minimise",
        type=int,
        metavar="N",
        help=f"number of failures to minimise, at most {TRIES_MAX} runs each (default {MINIMISED} with --seeds)",
    )
    parser.add_argument("--report", metavar="DIR", help=f"write {PAGE} with plots, and {TRACE}, into DIR (one seed)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run, the last line the last run")


def request_of(args: argparse.Namespace) -> Request:
    """Return the request in the arguments, without its seeds.

    Raises:
        ScenarioError: the arguments name no scenario, or it is impossible.
    """
    if args.scenario is None:
        raise ScenarioError("name a scenario; `mycomesh simulate --list` lists them")
    changes = Changes(args.rate, args.rows, args.loss, args.areas)
    skip = () if args.skip_faults is None else numbers(args.skip_faults)
    return Request(args.scenario, args.nodes, args.duration, args.mesh, changes, skip)


def main(args: argparse.Namespace, player_of: Callable[[Path], str] | None = None) -> int:
    """Run scenarios in virtual time; return the exit code. `player_of` makes the part of a report that plays its trace."""
    try:
        if args.list:
            _print_list()
            return 0
        request = request_of(args)
        seeds = _seeds(args.seed, args.seeds)
        _check(args, len(seeds))
        request.expand(seeds[0])
        report = None if args.report is None else open_report(args.report, player_of)
        results = Results(args.results, request)
        if len(seeds) == 1 and args.results is None and args.cluster is None:
            failed = _one(request, seeds[0], results, args, report)
        else:
            failed = _sweep(request, seeds, results, args)
    except ScenarioError as error:
        print(f"mycomesh simulate: {error} [{error.code}]", file=sys.stderr)  # noqa: T201  (this module prints)
        return 2
    except SimulationError as error:
        print(f"mycomesh simulate: {error} [{error.code}]", file=sys.stderr)  # noqa: T201
        return 1
    return 1 if failed else 0


def _check(args: argparse.Namespace, seeds: int) -> None:
    """Raise `ScenarioError` if options of the request exclude each other or are out of range."""
    if not 1 <= args.jobs <= JOBS_MAX:
        raise ScenarioError(f"--jobs: must be from 1 to {JOBS_MAX}, not {args.jobs}")
    if args.minimise is not None and args.minimise < 0:
        raise ScenarioError(f"--minimise: must be a number of failures from 0, not {args.minimise}")
    if args.report is not None and (seeds > 1 or args.results is not None or args.cluster is not None):
        raise ScenarioError("--report: shows one run; give --seed S instead of --seeds, --results or --cluster")


def _one(request: Request, seed: int, results: Results, args: argparse.Namespace, report: Report | None) -> int:
    """Run one seed in this process; return whether it failed."""
    if not args.json:
        print(header(), flush=True)  # noqa: T201
    with _clean_exit():
        result = _run_with_bar(request, seed, report)
    results.add(result)
    _show(request, result, args)
    if not result.ok and args.minimise:
        _minimise(request, result, results)
    if report is not None and not args.json:
        print(f"report: {report.page}")  # noqa: T201
    return not result.ok


def _sweep(request: Request, seeds: range, results: Results, args: argparse.Namespace) -> int:
    """Run many seeds; return how many failed."""
    missing = results.missing(seeds)
    if results.damaged:
        _say(
            f"--results {args.results}: removed an incomplete last line ({results.damaged} bytes); its seed runs again"
        )
    if results.others:
        _say(f"--results {args.results}: ignored {results.others} line(s) of other requests or other code")
    if len(missing) < len(seeds):
        _say(f"--results {args.results}: has {len(seeds) - len(missing)} of {len(seeds)} seeds already")
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
                while due in shown:  # results appear in the order of the seeds, not of their ends
                    bar.clear()
                    _show(request, shown.pop(due), args)
                    due = next(order, None)
                bar.show(count, failed)
    except KeyboardInterrupt:
        bar.clear()
        kept = "without --results nothing is kept" if args.results is None else "the same command continues from there"
        _say(f"stopped after {count} of {len(seeds)} seeds; {kept}")
        return 1
    finally:
        bar.clear()
    _minimise_some(request, [result for result in results.of(seeds) if not result.ok], results, args)
    if not args.json:
        print(f"{len(seeds) - failed} of {len(seeds)} seeds held")  # noqa: T201
    return failed


def _with_stored(runs: Iterator[Result], results: Results) -> Iterator[Result | None]:
    """Yield None first, so that stored results are shown at once; then each new result after it is stored."""
    yield None
    for result in runs:
        results.add(result)
        yield result


def _minimise_some(request: Request, failures: list[Result], results: Results, args: argparse.Namespace) -> None:
    wanted = MINIMISED if args.minimise is None else args.minimise
    for result in failures[:wanted]:
        _minimise(request, result, results)
    if wanted and len(failures) > wanted:
        _say(f"{len(failures) - wanted} more failures are not minimised; --minimise {len(failures)} minimises all")


def _minimise(request: Request, result: Result, results: Results) -> None:
    line = results.minimised(result.seed)
    if line is None:
        bar = Counter(f"minimising seed {result.seed}: runs", TRIES_MAX)
        try:
            small, again = minimised(request, result, on_try=lambda tries: bar.show(tries, 0))
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
    """Print a line beside the results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _print_list() -> None:
    width = max(len(name) for name in CATALOGUE)
    for entry in CATALOGUE.values():
        usual = f"{entry.nodes} nodes, {entry.duration_s:g} s"
        print(f"{entry.name:{width}}  {usual:16}  {entry.text}")  # noqa: T201


def _seeds(seed: int | None, seeds: str | None) -> range:
    if seed is not None and seed < 0:
        raise ScenarioError(f"--seed: must be a whole number from 0, not {seed}")
    if seeds is None:
        return range(seed if seed is not None else 1, (seed if seed is not None else 1) + 1)
    if seed is not None:
        raise ScenarioError("give --seed or --seeds, not both")
    first, dots, last = seeds.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ScenarioError(f"--seeds: must be A..B in whole numbers with A not above B, such as 1..20, not {seeds!r}")
    if int(last) - int(first) >= SEEDS_MAX:
        raise ScenarioError(f"--seeds: must be at most {SEEDS_MAX} seeds")
    return range(int(first), int(last) + 1)


@contextmanager
def _clean_exit() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does, since its files in memory would stay there until the machine restarts."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_with_bar(request: Request, seed: int, report: Report | None) -> Result:
    """Run one seed in this process, with a progress bar on a terminal, and write the report if requested."""
    bar = Bar(f"{request.scenario} seed {seed}", request.expand(seed).duration_s)
    progress = bar.show if bar.live else None
    try:
        if report is None:
            return request.attempt(seed, progress)
        with ExitStack() as stack:
            lines = stack.enter_context(report.trace.open("w", encoding="utf-8"))
            record = Recorder(lines, tap=stack.enter_context(Tap()))
            result = request.attempt(seed, progress, record)
        report.write(result, record, request.replay(result))
        return result
    finally:
        bar.clear()
