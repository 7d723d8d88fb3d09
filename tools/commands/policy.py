"""`mycomesh policy`: what happens when two nodes give two rows one id."""

from __future__ import annotations

import argparse
import sys

from mesh.node.ask import ask
from mesh.node.home import Home
from tools import exits

__all__ = ["add_arguments", "run"]

POLICIES = ("same-row", "keep-both")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE")
    parser.add_argument(
        "policy",
        nargs="?",
        choices=POLICIES,
        metavar="POLICY",
        help="same-row: they are one row, and the later one wins; keep-both: the later one gets another id",
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node."""
    policy = ask(home, "policy", table=args.table, policy=args.policy)["policy"]
    if args.policy is None:
        print(policy)
    else:
        print(f"{args.table} is {policy}, on every node that learns of it", file=sys.stderr)
    return exits.DONE
