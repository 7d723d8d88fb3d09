"""`mycomesh revoke NAME`: make a member a stranger."""

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
    parser.add_argument(
        "who", metavar="NAME", help="its name, or the first 8 or more digits of its id ('mycomesh members')"
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node, which must hold the root key or be an admin."""
    answer = ask(home, "revoke", who=args.who)
    tell(
        args,
        answer,
        f"{answer['name']} ({answer['node_id'][:8]}) is revoked, and the mesh has another secret",
        "members that are away learn of it when they meet one that knows; see docs/SECURITY.md",
    )
    return exits.DONE
