"""`mycomesh simulate`: simulates many nodes in virtual time, without this machine's home, network and keys."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mycomesh.simulations import cli
from mycomesh.simulations.console import header, lines_of
from mycomesh.simulations.errors import SimulationError
from mycomesh.tools import exits
from mycomesh.tools.numbers import pace

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

SPEED = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    cli.add_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="show the topology live while one seed runs")
    parser.add_argument(
        "--speed",
        type=pace,
        metavar="N",
        help=f"with --watch: at most N virtual seconds per second (default {SPEED:g})",
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Run the scenarios; the home is not used."""
    del home
    if not args.watch:
        if args.speed is not None:
            raise exits.UsageError("--speed: needs --watch; without --watch a run is as fast as possible")
        return cli.main(args, _player_of)
    return _watch(args)


def _player_of(trace: Path) -> str:
    """Return the part of a report that plays its trace."""
    from mycomesh.tools.web.trace import replay_of  # noqa: PLC0415 -- only --report needs it

    return replay_of(trace)


def _watch(args: argparse.Namespace) -> int:
    others = ("seeds", "results", "cluster", "report", "json", "list", "minimise")
    given = [name for name in others if getattr(args, name)]
    if given:
        raise exits.UsageError(f"--watch: shows one run on a terminal; leave out --{given[0]}")
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise exits.UsageError(
            "--watch: needs a terminal; in a pipe use --report DIR, and later 'mycomesh top --replay'"
        )
    seed = 1 if args.seed is None else args.seed
    try:
        request = cli.request_of(args)
        request.expand(seed)
    except SimulationError as error:
        raise exits.UsageError(str(error)) from error
    from mycomesh.tools.top import loop, running  # noqa: PLC0415 -- only --watch needs rich

    source = running.RunSource(request, seed, args.speed or SPEED)
    try:
        loop.run(source)
    finally:
        source.leave()
    if source.refused:
        raise exits.UsageError(source.refused)
    if source.result is None:
        print(f"left before the end; to run it whole: mycomesh simulate {args.scenario} --seed {seed}")
        return exits.DONE
    print(header())
    print(lines_of(source.result))
    if not source.result.ok:
        print(f"replay: {request.replay(source.result)}", file=sys.stderr)
    return exits.DONE if source.result.ok else exits.FAILED
