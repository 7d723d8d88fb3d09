"""`mycomesh explain CODE`: what an error, a notice or an exit code means, and what to do about it."""

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
    parser.add_argument("code", nargs="?", metavar="CODE", help="as errors show it in brackets; or an exit code")
    parser.add_argument("--json", action="store_true", help="a JSON array of code, what, why and remedy")


def run(args: argparse.Namespace, _home: Home) -> int:
    """Tell about one code, or list all."""
    found = list(CODES.values()) if args.code is None else [_named(args.code)]
    if args.json:
        print_json([asdict(code) for code in found])
    elif args.code is None:
        print_table(("CODE", "WHAT"), [(code.code, code.what) for code in found])
    else:
        print(f"{found[0].code}: {found[0].what}\nwhy:  {found[0].why}\nto do: {found[0].remedy or 'nothing'}")
    return exits.DONE


def _named(text: str) -> Code:
    code = CODES.get(text.strip("[]"))
    if code is None:
        near = difflib.get_close_matches(text, CODES, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; 'mycomesh explain' lists them"
        raise exits.UsageError(f"no code {text!r}{hint}")
    return code
