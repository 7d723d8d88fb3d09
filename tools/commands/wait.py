"""`mycomesh wait`: return when what is written here is on enough nodes."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.numbers import whole
from mycomesh.tools.progress import progress
from mycomesh.tools.render import print_json

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

REPLICAS_MAX = 1000
ASK_MS = 2_000  # one request waits so long at the node: a ^C here ends nothing there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--replicas", type=whole(REPLICAS_MAX), required=True, metavar="N", help="on how many nodes, this one counted"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="seconds to wait at most (default 30)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs: reached, replicas, linked")


def run(args: argparse.Namespace, home: Home) -> int:
    """Take a mark of what is committed at this moment, and wait until enough peers cover it; 3 when the time is over."""
    end = time.monotonic() + args.timeout
    answer: dict[str, Any] = {
        "mark": None,
        "replicas": 0,
    }  # the first answer's mark stays: later writes are not waited for
    with progress(f"waiting for {args.replicas} nodes", lambda: (answer["replicas"], args.replicas)):
        while True:
            left_ms = max(0, round(1000 * (end - time.monotonic())))
            wait_ms = min(ASK_MS, left_ms)
            answer = ask(home, "replicas", mark=answer["mark"], want=args.replicas, wait_ms=wait_ms)
            if answer["replicas"] >= args.replicas or not left_ms:
                break
    return _told(args, answer)


def _told(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    replicas, linked = answer["replicas"], answer["linked"]
    reached = replicas >= args.replicas
    if args.json:
        print_json({"reached": reached, "replicas": replicas, "wanted": args.replicas, "linked": linked})
    elif reached:
        print(f"on {replicas} node(s)", file=sys.stderr)
    else:
        print(
            f"mycomesh: on {replicas} of {args.replicas} nodes after {args.timeout:g} s; {linked} peer(s) linked",
            file=sys.stderr,
        )
    return exits.DONE if reached else exits.NOT_CONVERGED


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return float(text)
