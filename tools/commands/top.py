"""`mycomesh top`: the live mesh in the terminal."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.numbers import pace
from mycomesh.tools.render import print_json

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

SPEED = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--replay", type=Path, metavar="TRACE", help="play the trace of a simulation (mycomesh simulate --report)"
    )
    parser.add_argument(
        "--speed",
        type=pace,
        default=SPEED,
        metavar="N",
        help=f"with --replay: virtual seconds a second (default {SPEED:g})",
    )
    parser.add_argument("--json", action="store_true", help="one picture as a JSON object, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Show the mesh until `q`; in a pipe one picture as text, of a trace its last."""
    if args.replay is None:
        ask(home, "status")  # before rich is loaded: where no node runs, that is said at once
    from mycomesh.tools.top import loop, sources  # noqa: PLC0415 -- rich and the screens, for those who look at them

    live = not args.json and sys.stdout.isatty() and sys.stdin.isatty()
    # Of a trace that nobody can watch, the end tells most.
    source = (
        sources.NodeSource(home)
        if args.replay is None
        else sources.TraceSource(args.replay, args.speed, ended=not live)
    )
    if args.json:
        print_json(asdict(source.look(paused=False)))
    elif live:
        loop.run(source)
    else:
        loop.once(source)
    return exits.DONE
