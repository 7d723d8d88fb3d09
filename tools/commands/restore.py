"""`mycomesh restore`: writes the losing side of a conflict again, so that it wins."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.numbers import whole
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

NUMBER_MAX = 10**18 - 1
_CONFLICT: Callable[[str], int] = whole(NUMBER_MAX, "'mycomesh conflicts' lists the numbers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "conflict",
        type=_number,
        metavar="ID",
        help="the conflict's number, which 'mycomesh conflicts' shows",
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Restore through the running node, or in a file that no node serves."""
    done = decide(args, home, "restore", number=args.conflict)["done"]
    tell(args, {"conflict": args.conflict, "done": done}, f"{done}; it spreads like any other write")
    return exits.DONE


def _number(text: str) -> int:
    """Parse the number of a conflict; explain how to restore a backup to a person who gives a file."""
    if "." in text or "/" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of a conflict; to restore a backup, stop the node ('mycomesh down'), put the backup in the"
            " place of the database without its -wal and -shm files, and run 'mycomesh up FILE.db'"
        )
    return _CONFLICT(text)
