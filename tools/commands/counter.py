"""`mycomesh counter`: make a column a counter."""

from __future__ import annotations

import argparse
import sys

from mesh.node.ask import ask
from mesh.node.home import Home
from tools import exits

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE")
    parser.add_argument("column", metavar="COLUMN", help="holds integers; its concurrent changes add up from now on")


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node."""
    ask(home, "counter", table=args.table, column=args.column)
    print(f"{args.table}.{args.column} is a counter, on every node that learns of it", file=sys.stderr)
    return exits.DONE
