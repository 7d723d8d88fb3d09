"""`mycomesh keep-rows`: writes rows again that a member reports as deleted, because that member is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.commands.accept_drop import add_arguments  # the two answers to one question
from mycomesh.tools.render import tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace, home: Home) -> int:
    """Decide through the running node against what members report as deleted at present."""
    changes = ask(home, "keep-rows", table=args.table)["changes"]
    text = f"the rows of up to {changes} change(s) of {args.table} are written again at the next comparison, and spread"
    tell(args, {"table": args.table, "changes": changes}, text)
    return exits.DONE
