"""`python -m tools.bench`: runs the benchmarks and prints a table, or with `--json` one JSON object.

With `--json`, stdout contains nothing but that object; progress and errors go to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mycomesh.tools import exits
from mycomesh.tools.bench import (
    adopt,
    areas,
    bridges,
    bulk,
    drones,
    feed,
    files,
    flows,
    history,
    mailbox,
    models,
    nodes,
    plug,
    retain,
    rounds,
    screens,
    spread,
    vehicles,
    web,
    worlds,
)
from mycomesh.tools.bench.figure import CATALOGUE, Figure
from mycomesh.tools.bench.files import BenchError
from mycomesh.tools.processes import ProcessError
from mycomesh.tools.render import print_table

__all__ = ["SUITES", "main"]

SUITES: dict[str, Callable[[bool], dict[str, Figure]]] = {
    "capture": files.capture,
    "pipeline": files.pipeline,
    "edits": files.edits,
    "file": files.file_size,
    "open": files.opening,
    "bulk": bulk.bulk,
    "adopt": adopt.adopt,
    "rounds": rounds.healing,
    "upkeep": rounds.upkeep,
    "repair": rounds.repairing,
    "crypto": nodes.crypto,
    "node": nodes.node,
    "feed": feed.feed,
    "retain": retain.retain,
    "areas": areas.areas,
    "drones": drones.drones,
    "bridges": bridges.bridges,
    "vehicles": vehicles.vehicles,
    "flows": flows.flows,
    "models": models.models,
    "web": web.web,
    "plug": plug.plug,
    "spread": spread.spread,
    "mailbox": mailbox.mailbox,
    "screens": screens.screens,
    "worlds": worlds.worlds,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks; return the exit code: 0 done, 1 a benchmark failed, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Benchmarks of this machine: ratios to plain SQLite, and figures of running nodes.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object: name -> value, unit, baseline")
    parser.add_argument("--quick", action="store_true", help="use a tenth of the rows: a rough look, not a measurement")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        help=f"run only these figures or suites; the suites: {', '.join(SUITES)}",
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="compare with an earlier run: the output of --json, or a history"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="append the run to this history, and write a page beside it"
    )
    args = parser.parse_args(argv)
    try:
        names = _choose(args.only)
        before = None if args.compare is None else history.earlier(args.compare)
    except exits.UsageError as error:
        return _say(error, exits.USAGE)
    load = os.getloadavg()[0]
    try:
        figures = _measure(names, quick=args.quick)
    except (BenchError, ProcessError) as error:
        return _say(error, exits.FAILED)
    table = _table(figures, {} if before is None else before.values())
    try:
        if args.keep is not None:
            history.keep(args.keep, history.this_run(figures, load), table)
    except exits.UsageError as error:
        return _say(error, exits.FAILED)
    if args.json:
        print(json.dumps({name: figure.plain() for name, figure in figures.items()}))
        return exits.DONE
    print_table(table[0], table[1:])
    print(f"\n{history.machine()}; load {load:.1f} before the run")
    if before is not None and before.at:
        print(f"before: {before.at}, commit {before.commit or 'unknown'}, load {before.load:g}; {before.machine}")
    return exits.DONE


def _choose(only: Sequence[str]) -> list[str]:
    """Return the names of the requested figures, in the order of the catalogue."""
    unknown = [name for name in only if name not in SUITES and name not in CATALOGUE]
    if unknown:
        raise exits.UsageError(f"there is no figure {unknown[0]!r}; there are {', '.join(CATALOGUE)}")
    return [kind.name for kind in CATALOGUE.values() if not only or kind.name in only or kind.suite in only]


def _measure(names: Sequence[str], *, quick: bool) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for suite in dict.fromkeys(CATALOGUE[name].suite for name in names):
        print(f"measuring {suite} ...", file=sys.stderr, flush=True)
        figures.update(SUITES[suite](quick))
    return {name: figures[name] for name in names if name in figures}  # some machines cannot measure every figure


def _table(figures: dict[str, Figure], before: dict[str, float]) -> list[list[str]]:
    headers = ["FIGURE", "VALUE", "UNIT", "GOAL", "", *(["BEFORE", "CHANGE"] if before else []), "WHAT"]
    return [headers, *[_row(figure, before) for figure in figures.values()]]


def _row(figure: Figure, earlier: dict[str, float]) -> list[str]:
    kind = figure.kind
    goal = "" if kind.goal is None else f"{'>=' if kind.more else '<='} {_number(kind.goal)}"
    mark = {True: "met", False: "MISSED", None: ""}[figure.met]
    what = f"{kind.what}, relative to {kind.baseline}" if kind.baseline else kind.what
    before = []
    if earlier:
        then = earlier.get(kind.name)
        before = ["-", "-"] if not then else [_number(then), f"{(figure.value / then - 1) * 100:+.0f} %"]
    return [kind.name, _number(figure.value), kind.unit, goal, mark, *before, what]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}".rstrip("0").rstrip(".")


def _say(error: Exception, code: int) -> int:
    print(f"bench: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
