"""The rights options of `invite` and `ticket`, and requests that the stored files can answer where no node runs."""

from __future__ import annotations

import contextlib
import importlib
import time
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import AlreadyServedError, NoNodeError

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_rights", "ask_or_files", "rights"]

TRIES, TRY_S = 20, 0.25
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
    """Ask the running node, or read the stored files if none runs; return the answer and whether a node gave it.

    A node that starts meanwhile locks the files, and answers a moment later.
    """
    for attempt in range(TRIES):
        with contextlib.suppress(NoNodeError):
            return ask(home, do, **words), True
        try:
            # Loaded late: a request to a node does not need cryptography.
            return importlib.import_module("mycomesh.tools.commands.offline").ask_files(
                home, {"do": do, **words}
            ), False
        except AlreadyServedError:
            if attempt == TRIES - 1:
                raise
            time.sleep(TRY_S)
    raise AssertionError("the last attempt returns or raises")
