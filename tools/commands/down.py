"""`mycomesh down`: stop the running node."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from mesh.node.ask import ask
from mesh.node.errors import AlreadyServedError
from tools import exits

if TYPE_CHECKING:
    import argparse

    from mesh.node.home import Home

__all__ = ["add_arguments", "run"]

GONE_S = 15  # the node's own limit for a graceful end is ten seconds
STEP_S = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--remove", action="store_true", help="also take every trigger and internal table out of the database file"
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the node to stop and return when it has."""
    answer = ask(home, "down", remove=args.remove)
    end = time.monotonic() + GONE_S
    while time.monotonic() < end:
        try:
            with home.locked():
                print(_words(answer, removed=args.remove), file=sys.stderr)
                return exits.DONE
        except AlreadyServedError:
            time.sleep(STEP_S)
    print(f"mycomesh: the node (process {answer['pid']}) has not ended in {GONE_S} s; see its log", file=sys.stderr)
    return exits.NOT_CONVERGED


def _words(answer: dict[str, object], *, removed: bool) -> str:
    rest = (
        "its triggers and internal tables are gone" if removed else "writes made meanwhile are kept for the next 'up'"
    )
    return f"stopped; {answer['file']} stays an ordinary database, {rest}"
