"""`mycomesh log`: prints the running node's last events and follows new ones."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import PAST_MAX, watch
from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.moments import clock_time
from mycomesh.tools.numbers import whole
from mycomesh.tools.render import json_text

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

LIMIT_MAX = 10**9 - 1
PAST_DEFAULT = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("-v", "--verbose", action="store_true", help="print debug events too")
    parser.add_argument(
        "--past",
        type=whole(PAST_MAX, least=0),
        metavar="N",
        help=f"begin with the last N events, at most {PAST_MAX} (default: {PAST_DEFAULT}, with --json 0)",
    )
    parser.add_argument(
        "--limit",
        type=whole(LIMIT_MAX),
        metavar="N",
        help="exit after N lines (default: until ^C)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one line for each event, until the node stops."""
    left = args.limit
    default = 0 if args.json else PAST_DEFAULT
    past = default if args.past is None else args.past
    for notice in watch(home, past=past, pipe=_output()):
        if notice.get("level") == "debug" and not args.verbose:
            continue
        print(json_text(notice) if args.json else _line(notice), flush=True)
        if left is not None:
            left -= 1
            if not left:
                break
    return exits.DONE


def _output() -> int | None:
    """Return the descriptor of standard output, or None if it has none."""
    try:
        return sys.stdout.fileno()
    except OSError:
        return None


def _line(notice: dict[str, Any]) -> str:
    level = notice.get("level")
    mark, tail = (f"{level}: ", f"  [{notice.get('event')}]") if level in ("warning", "error") else ("", "")
    return printable(f"{clock_time(str(notice.get('time')))}  {mark}{notice.get('text')}{tail}")
