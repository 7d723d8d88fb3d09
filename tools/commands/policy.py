"""`mycomesh policy`: shows or sets what happens when two nodes give two rows the same id."""

from __future__ import annotations

import argparse

from mycomesh.mesh.node.home import Home
from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, tell

__all__ = ["add_arguments", "run"]

POLICIES = ("same-row", "keep-both")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE", help="the table")
    parser.add_argument(
        "policy",
        nargs="?",
        choices=POLICIES,
        metavar="POLICY",
        help="same-row: they are one row, and the later write wins; keep-both: one of the rows gets another id",
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Show or set the policy through the running node, or in a file that no node serves."""
    policy = decide(args, home, "policy", table=args.table, policy=args.policy)["policy"]
    if args.policy is None and not args.json:
        print(policy)
    else:
        text = f"{args.table} is {policy} here, and on every other node once the decision reaches it"
        tell(args, {"table": args.table, "policy": policy}, text)
    return exits.DONE
