"""`mycomesh policy`: shows or sets what happens to rows that get the same id, or who must sign a table's rows."""

from __future__ import annotations

import argparse

from mycomesh.mesh.node.home import Home
from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, tell

__all__ = ["add_arguments", "run"]

POLICIES = ("same-row", "keep-both", "own-ids", "shared-ids", "signed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE", help="the table")
    parser.add_argument(
        "policy",
        nargs="?",
        choices=POLICIES,
        metavar="POLICY",
        help="two rows of one id are one row, and the later write wins (same-row), or one of them gets another id (keep-both);"
        " each node gives out ids of its own (own-ids, for AUTOINCREMENT), or the next one that it sees (shared-ids);"
        " nobody can pass on rows that their writers did not sign (signed)",
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Show or set the policy through the running node, or in a file that no node serves."""
    answer = decide(args, home, "policy", table=args.table, policy=args.policy)
    # A node of an older version knows no own ids.
    policy, ids = answer["policy"], answer.get("ids", "shared-ids")
    next_id, left = answer.get("next_id"), answer.get("ids_left")
    both = policy if ids == "shared-ids" else f"{policy}, {ids}"
    if args.policy is not None or args.json:
        told = {"table": args.table, "policy": policy, "ids": ids, "next_id": next_id, "ids_left": left}
        told["areas_by"] = answer.get("areas_by", "")
        tell(args, told, f"{args.table} is {both} here, and on every other node once the decision reaches it")
        return exits.DONE
    print(both)
    if answer.get("areas_by"):
        print(f"cut into areas by {answer['areas_by']}: 'mycomesh area {args.table}' lists them")
    if next_id is not None:
        print(f"the next id here is {next_id:,}, and {left:,} ids follow before those of another node")
    return exits.DONE
