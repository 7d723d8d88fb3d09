"""`mycomesh wait`: waits until enough nodes have what is committed here."""

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
from mycomesh.tools.render import print_json, say

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

REPLICAS_MAX = 1000
ASK_MS = 2_000  # one request waits at the node for this long, because a ^C here does not end it there


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--replicas",
        type=whole(REPLICAS_MAX),
        required=True,
        metavar="N",
        help="number of nodes that must have the writes, including this one",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="wait for at most S seconds (default 30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Wait until enough nodes cover what is committed at this moment; return `NOT_CONVERGED` when time runs out."""
    end = time.monotonic() + args.timeout
    # The first answer's mark covers the writes up to now. Later requests repeat it, so that later writes do not count.
    answer: dict[str, Any] = {"mark": None, "replicas": 0}
    with progress(f"waiting for {args.replicas} nodes", lambda: (answer["replicas"], args.replicas)):
        while True:
            left_ms = max(0, round(1000 * (end - time.monotonic())))
            wait_ms = min(ASK_MS, left_ms)
            answer = ask(home, "replicas", mark=answer["mark"], want=args.replicas, wait_ms=wait_ms)
            if answer["replicas"] >= args.replicas or not left_ms:
                break
    return _report(args, answer)


def _report(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    replicas, linked, least = answer["replicas"], answer["linked"], answer.get("least", "")
    reached = replicas >= args.replicas
    if args.json:
        print_json(
            {"reached": reached, "replicas": replicas, "wanted": args.replicas, "linked": linked, "least": least}
        )
    elif reached:
        print(f"on {replicas} node(s)", file=sys.stderr)
    else:
        area = f" (area {least})" if least else ""
        say(
            f"mycomesh: on {replicas} of {args.replicas} nodes{area} after {args.timeout:g} s; {linked} peer(s) linked",
            file=sys.stderr,
        )
    return exits.DONE if reached else exits.NOT_CONVERGED


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)
