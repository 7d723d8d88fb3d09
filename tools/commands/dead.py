"""`mycomesh dead`: lists the changes that readers of the change feed have set aside, and gives them to the readers again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.numbers import whole
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

NUMBER_MAX = (1 << 63) - 1
WHY_CHARS = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--retry", type=whole(NUMBER_MAX), metavar="ID", help="let the readers of its table see the row again"
    )
    what.add_argument("--drop", type=whole(NUMBER_MAX), metavar="ID", help="forget this one")
    what.add_argument("--resume", metavar="HOOK", help="let a hook go on that stopped because its changes failed")
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row for each dead letter that is left."""
    letters = ask(home, "dead", retry=args.retry, drop=args.drop, resume=args.resume)["letters"]
    if args.json:
        print_json(letters)
        return exits.DONE
    rows = [
        (
            str(each["number"]),
            each["reader"],
            each["table"],
            each["row"],
            str(each["tries"]),
            each["last_at"],
            each["why"][:WHY_CHARS],
        )
        for each in letters
    ]
    print_table(("ID", "READER", "TABLE", "ROW", "TRIES", "LAST", "WHY"), rows)
    return exits.DONE
