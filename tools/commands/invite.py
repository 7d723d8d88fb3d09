"""`mycomesh invite`: prints a join code, which is all that it writes to stdout."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from typing import TYPE_CHECKING

from mycomesh.tools import exits
from mycomesh.tools.commands.rights import add_rights, ask_or_files, rights
from mycomesh.tools.numbers import whole
from mycomesh.tools.render import add_json, print_json

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "duration_s", "run"]

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
EXPIRES_S_MAX = 30 * 86_400  # a code is a secret on paper: a month is long
USES_MAX = 1000  # a fleet; a larger one uses tickets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--expires",
        type=duration_s,
        default=3600,
        metavar="TIME",
        help="how long the code is valid: 90s, 30m, 1h or 7d (default 1h, at most 30d)",
    )
    parser.add_argument(
        "--uses", type=whole(USES_MAX), default=1, metavar="N", help="how many machines may use the code (default 1)"
    )
    add_rights(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Make the running node accept a new code; if no node runs, store the code for the next `up`."""
    answer, running = ask_or_files(home, "invite", expires_s=args.expires, uses=args.uses, **rights(args))
    code = str(answer["code"])
    if args.json:
        print_json({"code": code, "expires_s": args.expires, "uses": args.uses, "answered": running})
        return exits.DONE
    note = "this node accepts it from now on"
    if not running:
        note = "no node runs here: start one with 'mycomesh up FILE.db', so that the other machine can join"
    print(f"on the other machine: mycomesh join {code}", file=sys.stderr)
    print(f"valid for {_in_words(args.expires)} and {args.uses} machine(s); {note}", file=sys.stderr)
    if sys.stderr.isatty():
        _draw(code)
    print(code, flush=True)
    return exits.DONE


def _draw(code: str) -> None:
    """Draw the code as a QR code on stderr, if segno is installed."""
    try:
        segno = importlib.import_module("segno")
    except ImportError:
        print("(with 'mycomesh[qr]' installed, a QR code of it appears here)", file=sys.stderr)
        return
    segno.make(code, micro=False).terminal(out=sys.stderr, compact=True)


def duration_s(text: str) -> int:
    """Parse `90s`, `30m`, `1h` or `7d`; return seconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    seconds = int(found[1]) * UNITS_S[found[2]] if found else 0
    if not 0 < seconds <= EXPIRES_S_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time of at most 30d; write 90s, 30m, 1h or 7d")
    return seconds


def _in_words(seconds: int) -> str:
    for unit in ("d", "h", "m"):
        if seconds % UNITS_S[unit] == 0:
            return f"{seconds // UNITS_S[unit]} {unit}"
    return f"{seconds} s"
