"""`mycomesh restore`: writes the losing side of a conflict again, so that it wins."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


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
    """Parse the number of a conflict; tell a person who gives a file how to restore a backup."""
    if re.fullmatch(r"[1-9][0-9]{0,17}", text):
        return int(text)
    hint = "'mycomesh conflicts' lists the numbers"
    if "." in text or "/" in text:
        hint = (
            "to restore a backup: stop the node ('mycomesh down'), move the database away with its -wal and -shm files, copy the"
            " backup to its path, and run 'mycomesh up FILE.db'"
        )
    raise argparse.ArgumentTypeError(f"{text!r} is not the number of a conflict; {hint}")
