"""`mycomesh accept-drop`: lets rows go that a member reports as deleted and no second member confirms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE", help="the table, as 'mycomesh status' names it")
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Accept through the running node what members report as deleted at present."""
    changes = ask(home, "accept-drop", table=args.table)["changes"]
    text = f"up to {changes} change(s) of {args.table} go at the next comparison; mycomesh_conflicts keeps their values"
    tell(args, {"table": args.table, "changes": changes}, text)
    return exits.DONE
