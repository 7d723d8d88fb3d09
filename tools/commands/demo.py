"""`mycomesh demo`: three nodes on this machine replicate real flights through a network split."""

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
        help="keep the three databases in DIR (default: a new temporary directory) and print how to open them",
    )
    parser.add_argument(
        "--quick", action="store_true", help="replay the flight as fast as possible instead of over ten seconds"
    )


def run(args: argparse.Namespace, _home: Home) -> int:
    """Run the demo; return `DONE` only if all three databases end equal."""
    from mycomesh.tools.demo import play  # noqa: PLC0415 -- only the demo needs rich

    directory = None if args.keep in (None, Path()) else args.keep
    return play(directory=directory, keep=args.keep is not None, quick=args.quick)
