"""`mycomesh wait`: return when what is written here is on enough nodes."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING

from mesh.node.ask import ask
from tools import exits
from tools.numbers import whole

if TYPE_CHECKING:
    from mesh.node.home import Home

__all__ = ["add_arguments", "run"]

REPLICAS_MAX = 1000
STEP_S = 0.1  # a person or a script waits; the node answers this in well under a millisecond


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--replicas", type=whole(REPLICAS_MAX), required=True, metavar="N", help="on how many nodes, this one counted"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="seconds to wait at most (default 30)"
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Ask the node until enough peers hold what it holds, or until the time is over."""
    end = time.monotonic() + args.timeout
    while True:
        replicas = int(ask(home, "replicas")["replicas"])
        left = end - time.monotonic()
        if replicas >= args.replicas:
            print(f"on {replicas} nodes", file=sys.stderr)
            return exits.DONE
        if left <= 0:
            print(f"mycomesh: on {replicas} of {args.replicas} nodes after {args.timeout:g} s", file=sys.stderr)
            return exits.NOT_CONVERGED
        time.sleep(min(STEP_S, left))


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return float(text)
