"""`mycomesh restore`: write the losing side of a conflict again, so that it wins."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decided
from mycomesh.tools.numbers import whole
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

NUMBER_MAX = 10**18 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "conflict",
        type=whole(NUMBER_MAX, "'mycomesh conflicts' lists their numbers"),
        metavar="ID",
        help="as 'mycomesh conflicts' shows it",
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node, or the file."""
    done = decided(args, home, "restore", number=args.conflict)["done"]
    tell(args, {"conflict": args.conflict, "done": done}, f"{done}; it spreads like any other write")
    return exits.DONE
