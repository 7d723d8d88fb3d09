"""`mycomesh explain CODE`: prints the meaning, the cause and the remedy of an error, a notice or an exit code."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from typing import TYPE_CHECKING

from mycomesh.tools import exits
from mycomesh.tools.codes import CODES
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.codes import Code

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "code",
        nargs="?",
        metavar="CODE",
        help="the code in brackets behind an error, or an exit code (default: list all)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array of code, what, why and remedy")


def run(args: argparse.Namespace, _home: Home) -> int:
    """Explain one code, or list all."""
    found = list(CODES.values()) if args.code is None else [_find(args.code)]
    if args.json:
        print_json([asdict(code) for code in found])
    elif args.code is None:
        print_table(("CODE", "WHAT"), [(code.code, code.what) for code in found])
    else:
        print(f"{found[0].code}: {found[0].what}\nwhy:  {found[0].why}\nto do: {found[0].remedy or 'nothing'}")
    return exits.DONE


def _find(text: str) -> Code:
    code = CODES.get(text.strip("[]"))
    if code is None:
        near = difflib.get_close_matches(text, CODES, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; 'mycomesh explain' lists them"
        raise exits.UsageError(f"there is no code {text!r}{hint}")
    return code
