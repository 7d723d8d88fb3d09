"""The options that say what a new member may do, shared by `invite` and `ticket`; asking a node or the stored files."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NoNodeError

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_rights", "ask_or_files", "rights"]

ROLES = ("member", "read-only", "relay", "admin")


def add_rights(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--role", choices=ROLES, default="member", help="what it becomes (default member)")
    parser.add_argument(
        "--write", action="append", metavar="PATTERN", help="tables that it may write, as 'alerts*'; may repeat"
    )
    parser.add_argument(
        "--read", action="append", metavar="PATTERN", help="tables that it may only read, as '*'; may repeat"
    )


def rights(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options as words of a request."""
    return {"role": args.role, "write": args.write or [], "read": args.read or []}


def ask_or_files(home: Home, do: str, **words: Any) -> tuple[dict[str, Any], bool]:
    """Ask the running node, else the stored files; return the answer and whether a node gave it."""
    try:
        return ask(home, do, **words), True
    except NoNodeError:
        return importlib.import_module("mycomesh.tools.commands.offline").ask_files(home, {"do": do, **words}), False
