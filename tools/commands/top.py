"""`mycomesh top`: shows the mesh live in the terminal."""

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
        "--replay", type=Path, metavar="TRACE", help="play the trace of a simulation, from 'mycomesh simulate --report'"
    )
    parser.add_argument(
        "--speed",
        type=pace,
        metavar="N",
        help=f"with --replay: N virtual seconds per second (default {SPEED:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one picture as a JSON object, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Show the mesh until `q`; in a pipe print one picture as text, the last one of a trace."""
    if args.replay is None:
        if args.speed is not None:
            raise exits.UsageError("--speed: needs --replay TRACE; a running node is shown as it is")
        ask(home, "status")  # before rich loads, so that a missing node is reported at once
    from mycomesh.tools.top import loop, sources  # noqa: PLC0415 -- rich takes long to load

    live = not args.json and sys.stdout.isatty() and sys.stdin.isatty()
    # If nobody can watch a trace, its last picture says most.
    source = (
        sources.NodeSource(home)
        if args.replay is None
        else sources.TraceSource(args.replay, args.speed or SPEED, ended=not live)
    )
    if args.json:
        print_json(asdict(source.picture(paused=False)))
    elif live:
        loop.run(source)
    else:
        loop.once(source)
    return exits.DONE
