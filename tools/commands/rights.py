"""The rights options of `invite` and `ticket`, and requests that the stored files can answer where no node runs."""

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
    parser.add_argument("--role", choices=ROLES, default="member", help="role of the new member (default member)")
    parser.add_argument(
        "--write", action="append", metavar="PATTERN", help="tables that it may write, such as 'alerts*' (repeatable)"
    )
    parser.add_argument(
        "--read", action="append", metavar="PATTERN", help="tables that it may only read, such as '*' (repeatable)"
    )


def rights(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options as fields of a request."""
    return {"role": args.role, "write": args.write or [], "read": args.read or []}


def ask_or_files(home: Home, do: str, **words: Any) -> tuple[dict[str, Any], bool]:
    """Ask the running node, or read the stored files if none runs; return the answer and whether a node gave it."""
    try:
        return ask(home, do, **words), True
    except NoNodeError:
        return importlib.import_module("mycomesh.tools.commands.offline").ask_files(home, {"do": do, **words}), False
