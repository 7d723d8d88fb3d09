"""`mycomesh counter`: makes a column a counter, so that concurrent changes to it add up."""

from __future__ import annotations

import argparse

from mycomesh.mesh.node.home import Home
from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, tell

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE", help="the table")
    parser.add_argument(
        "column", metavar="COLUMN", help="a column of integers; concurrent changes to it add up from now on"
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Declare the counter through the running node, or in a file that no node serves."""
    decide(args, home, "counter", table=args.table, column=args.column)
    text = f"{args.table}.{args.column} is a counter here, and on every other node once the decision reaches it"
    tell(args, {"table": args.table, "column": args.column}, text)
    return exits.DONE
