"""`mycomesh policy`: what happens when two nodes give two rows one id."""

from __future__ import annotations

import argparse

from mycomesh.mesh.node.home import Home
from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decided
from mycomesh.tools.render import add_json, tell

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
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node, or the file."""
    policy = decided(args, home, "policy", table=args.table, policy=args.policy)["policy"]
    if args.policy is None and not args.json:
        print(policy)
    else:
        told = f"{args.table} is {policy}, on every node that learns of it"
        tell(args, {"table": args.table, "policy": policy}, told)
    return exits.DONE
