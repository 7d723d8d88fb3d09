"""`mycomesh restore`: writes the losing side of a conflict again, so that it wins."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "conflict",
        type=_conflict,
        metavar="ID",
        help="the conflict's id, alike on all nodes, or its number in this file; 'mycomesh conflicts' shows both",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--undo", action="store_true", help="undo a restore of this node: write what was there before it")
    how.add_argument(
        "--as-new-row",
        action="store_true",
        help="keep the row that won, and write the losing values as another row, whose key SQLite chooses",
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Restore through the running node, or in a file that no node serves."""
    answer = decide(args, home, "restore", conflict=args.conflict, undo=args.undo, as_new_row=args.as_new_row)
    tell(
        args, {"conflict": args.conflict, "done": answer["done"]}, f"{answer['done']}; it spreads like any other write"
    )
    return exits.DONE


def _conflict(text: str) -> str:
    """Parse the id or number of a conflict; tell a person who gives a file how to restore a backup."""
    if re.fullmatch(r"[1-9][0-9]{0,17}|[cC][a-zA-Z2-7]{8}", text):
        return text.lower()
    hint = "'mycomesh conflicts' lists ids and numbers"
    if "." in text or "/" in text:
        hint = f"to restore a backup: 'mycomesh backup {text} --recipe FILE.db' prints the steps"
    raise argparse.ArgumentTypeError(f"{text!r} is not the id or the number of a conflict; {hint}")
