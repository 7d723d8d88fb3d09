"""`mycomesh counter`: make a column a counter."""

from __future__ import annotations

import argparse

from mycomesh.mesh.node.home import Home
from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decided
from mycomesh.tools.render import add_json, tell

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE")
    parser.add_argument("column", metavar="COLUMN", help="holds integers; its concurrent changes add up from now on")
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node, or the file."""
    decided(args, home, "counter", table=args.table, column=args.column)
    told = f"{args.table}.{args.column} is a counter, on every node that learns of it"
    tell(args, {"table": args.table, "column": args.column}, told)
    return exits.DONE
