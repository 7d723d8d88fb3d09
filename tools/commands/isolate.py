"""`mycomesh isolate`: cut the running node off from the mesh on purpose."""

from __future__ import annotations

import argparse
import sys

from mesh.node.ask import ask
from mesh.node.home import Home
from tools import exits

__all__ = ["add_arguments", "run"]


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: there are none."""


def run(_args: argparse.Namespace, home: Home) -> int:
    """Ask the running node."""
    ask(home, "isolate", cut=True)
    print("cut off: local writes go on; end it with 'mycomesh rejoin'", file=sys.stderr)
    return exits.DONE
