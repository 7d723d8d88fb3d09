"""`mycomesh down`: stops the running node and waits until it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import AlreadyServedError, NoNodeError
from mycomesh.tools import exits
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

WAIT_S = 15  # the node's own limit for a graceful end is ten seconds
STEP_S = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--remove", action="store_true", help="also remove all triggers and internal tables from the database file"
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the node to stop; return when it has ended."""
    try:
        answer = ask(home, "down", remove=args.remove)
    except NoNodeError as error:
        if args.remove:
            raise NoNodeError(
                f"no node runs for this home ({home.state}); where none serves the file: mycomesh forget FILE.db"
            ) from error
        raise
    with progress("waiting until the node has ended"):
        ended = _wait_for_end(home)
    if ended:
        tell(args, _as_json(args, answer, stopped=True), _in_words(answer, removed=args.remove))
        return exits.DONE
    late = f"mycomesh: the node (process {answer['pid']}) has not ended in {WAIT_S} s; see its log"
    tell(args, _as_json(args, answer, stopped=False), late)
    return exits.NOT_CONVERGED


def _wait_for_end(home: Home) -> bool:
    """Wait until no process holds the home; return False if one still does after `WAIT_S`."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            with home.locked():
                return True
        except AlreadyServedError:
            time.sleep(STEP_S)
    return False


def _as_json(args: argparse.Namespace, answer: dict[str, object], *, stopped: bool) -> dict[str, object]:
    return {"file": answer["file"], "pid": answer["pid"], "stopped": stopped, "removed": args.remove}


def _in_words(answer: dict[str, object], *, removed: bool) -> str:
    rest = (
        "its triggers and internal tables are removed"
        if removed
        else "and its triggers record writes for the next 'up'"
    )
    return f"stopped; {answer['file']} is an ordinary database, {rest}"
