"""`mycomesh restore`: write the losing side of a conflict again, so that it wins."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from mesh.node.ask import ask
from tools import exits

if TYPE_CHECKING:
    from mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("conflict", type=_number, metavar="ID", help="as 'mycomesh conflicts' shows it")


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the running node."""
    done = ask(home, "restore", number=args.conflict)["done"]
    print(f"{done}; it spreads like any other write", file=sys.stderr)
    return exits.DONE


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a conflict; see 'mycomesh conflicts'")
    return int(text)
