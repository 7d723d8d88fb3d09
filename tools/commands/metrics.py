"""`mycomesh metrics`: prints the running node's metrics in Prometheus' text format, for a textfile collector."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.control.metrics import exposition
from mycomesh.mesh.node.status import from_json
from mycomesh.tools import exits

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no arguments; extend the description."""
    parser.description = f"{parser.description}. A node started with --metrics HOST:PORT serves the same over HTTP."


def run(_args: argparse.Namespace, home: Home) -> int:
    """Print the current metrics."""
    sys.stdout.write(exposition(from_json(ask(home, "status"))))
    return exits.DONE
