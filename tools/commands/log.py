"""`mycomesh log`: what the running node says, as it says it."""

from __future__ import annotations

import argparse
import json
import re
import time
from typing import TYPE_CHECKING, Any

from mesh.node.ask import watch
from tools import exits

if TYPE_CHECKING:
    from mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("-v", "--verbose", action="store_true", help="every event, not only what people wait for")
    parser.add_argument("--limit", type=_limit, metavar="N", help="leave after N lines (default: until ^C)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one line for each event, until the node stops."""
    left = args.limit
    for notice in watch(home):
        if notice.get("level") == "debug" and not args.verbose:
            continue
        print(json.dumps(notice, ensure_ascii=False) if args.json else _line(notice), flush=True)
        if left is not None:
            left -= 1
            if not left:
                break
    return exits.DONE


def _line(notice: dict[str, Any]) -> str:
    level = notice.get("level")
    mark = f"{level}: " if level in ("warning", "error") else ""
    text = f"{time.strftime('%H:%M:%S')}  {mark}{notice.get('text')}"
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _limit(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)
