"""`mycomesh down`: stop the running node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import AlreadyServedError
from mycomesh.tools import exits
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

GONE_S = 15  # the node's own limit for a graceful end is ten seconds
STEP_S = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--remove", action="store_true", help="also take every trigger and internal table out of the database file"
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the node to stop and return when it has."""
    answer = ask(home, "down", remove=args.remove)
    with progress("waiting until the node has ended"):
        gone = _gone(home)
    if gone:
        tell(args, _plain(args, answer, stopped=True), _words(answer, removed=args.remove))
        return exits.DONE
    late = f"mycomesh: the node (process {answer['pid']}) has not ended in {GONE_S} s; see its log"
    tell(args, _plain(args, answer, stopped=False), late)
    return exits.NOT_CONVERGED


def _gone(home: Home) -> bool:
    """Wait until nobody has the home any more; False if somebody has after `GONE_S`."""
    end = time.monotonic() + GONE_S
    while time.monotonic() < end:
        try:
            with home.locked():
                return True
        except AlreadyServedError:
            time.sleep(STEP_S)
    return False


def _plain(args: argparse.Namespace, answer: dict[str, object], *, stopped: bool) -> dict[str, object]:
    return {"file": answer["file"], "pid": answer["pid"], "stopped": stopped, "removed": args.remove}


def _words(answer: dict[str, object], *, removed: bool) -> str:
    rest = (
        "its triggers and internal tables are gone" if removed else "writes made meanwhile are kept for the next 'up'"
    )
    return f"stopped; {answer['file']} stays an ordinary database, {rest}"
