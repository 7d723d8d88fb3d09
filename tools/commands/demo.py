"""`mycomesh demo`: three nodes on this machine, real flights, a split and its healing."""

from __future__ import annotations

import argparse
from pathlib import Path

from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--keep",
        nargs="?",
        const=Path(),
        type=Path,
        metavar="DIR",
        help="leave the three databases in DIR (default: a new temporary directory) and say how to look at them",
    )
    parser.add_argument(
        "--quick", action="store_true", help="replay the flight as fast as it goes, not over ten seconds"
    )


def run(args: argparse.Namespace, _home: Home) -> int:
    """Play the demo; the exit code says whether all three databases ended equal."""
    from mycomesh.tools.demo import play  # noqa: PLC0415 -- rich and the rest only when a demo is wanted

    place = None if args.keep in (None, Path()) else args.keep
    return play(place=place, keep=args.keep is not None, quick=args.quick)
