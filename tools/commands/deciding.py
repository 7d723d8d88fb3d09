"""Decisions through the running node, or with `--file` directly in a file that no node serves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_file", "decide"]


def add_file(parser: argparse.ArgumentParser) -> None:
    """Declare `--file`."""
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE.db",
        help="do it in this file, which no node serves; the next 'up' spreads it",
    )


def decide(args: argparse.Namespace, home: Home, what: str, **arguments: Any) -> dict[str, Any]:
    """Carry out the decision and return the answer."""
    if args.file is None:
        return ask(home, what, **arguments)
    # Loaded late: a request to a node does not need SQLite and cryptography.
    offline = importlib.import_module("mycomesh.mesh.node.offline")
    answer: dict[str, Any] = offline.decide(home, args.file, {"do": what, **arguments})
    return answer
