"""Asking the running node for a decision, or with `--file` a file that no node serves."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_file", "decided"]


def add_file(parser: argparse.ArgumentParser) -> None:
    """Declare `--file`."""
    parser.add_argument(
        "--file", type=Path, metavar="FILE.db", help="no node runs: do it in this file; the next 'up' spreads it"
    )


def decided(args: argparse.Namespace, home: Home, what: str, **arguments: Any) -> dict[str, Any]:
    """Return the answer."""
    if args.file is None:
        return ask(home, what, **arguments)
    offline = importlib.import_module("mycomesh.mesh.node.offline")  # asking a node does not load SQLite and the keys
    answer: dict[str, Any] = offline.decide(home, args.file, {"do": what, **arguments})
    return answer
