"""`mycomesh revoke NAME`: removes a member for good and rotates the mesh secret."""

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
        "who",
        metavar="NAME",
        help="the member's name, or at least 8 first digits of its id, as 'mycomesh members' shows them",
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Revoke through the running node, which must have the root key or be an admin."""
    answer = ask(home, "revoke", who=args.who)
    tell(
        args,
        answer,
        f"{answer['name']} ({answer['node_id'][:8]}) is revoked, and the mesh secret is rotated",
        "members that are away learn it from the first member that they meet; see docs/SECURITY.md",
    )
    return exits.DONE
