"""`python -m tools.bench`: runs the measurements and prints one table, or one JSON object with `--json`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Callable

import apsw

from tools.bench import files, nodes
from tools.bench.figure import Figure

SUITES: dict[str, Callable[[bool], dict[str, Figure]]] = {
    "capture": files.capture,
    "pipeline": files.pipeline,
    "file": files.file_size,
    "open": files.opening,
    "crypto": nodes.crypto,
    "node": nodes.node,
}


def main(argv: list[str] | None = None) -> int:
    """Runs the chosen suites; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object: name -> value, unit, baseline")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: a look, not a measurement")
    parser.add_argument("--only", nargs="+", choices=list(SUITES), default=list(SUITES), metavar="SUITE")
    args = parser.parse_args(argv)
    figures: dict[str, Figure] = {}
    for name in args.only:
        if not args.json:
            print(f"measuring {name} ...", file=sys.stderr)
        figures.update(SUITES[name](args.quick))
    if args.json:
        print(json.dumps({name: figure.plain() for name, figure in figures.items()}))
        return 0
    width = max(map(len, figures))
    for name, figure in figures.items():
        goal = f"  (goal {figure.goal})" if figure.goal else ""
        baseline = f"  x {figure.baseline}" if figure.baseline else ""
        print(f"{name:<{width}}  {figure.value:>12,.2f} {figure.unit}{baseline}{goal}")
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version} (client) and {apsw.sqlite_lib_version()} (node)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
