"""`mycomesh rejoin`: end what `mycomesh isolate` began."""

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
    ask(home, "isolate", cut=False)
    print("looking for the others again", file=sys.stderr)
    return exits.DONE
