"""`mycomesh cursors`: lists the readers of the change feed and how far they are behind, or removes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.status import ReaderView
from mycomesh.tools import exits
from mycomesh.tools.render import print_json
from mycomesh.tools.views import show_readers

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--drop", metavar="NAME", help="remove this cursor: a reader with its name begins again")
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row for each cursor and table."""
    request = {} if args.drop is None else {"drop": args.drop}
    cursors = ask(home, "cursors", **request)["cursors"]
    if args.json:
        print_json(cursors)
        return exits.DONE
    show_readers([ReaderView(**each) for each in cursors])
    return exits.DONE
