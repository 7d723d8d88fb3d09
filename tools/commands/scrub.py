"""`mycomesh scrub`: look for writes that bypassed the triggers."""

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
    ask(home, "scrub")
    print("every row is being compared with the change log; what is found is captured and spread", file=sys.stderr)
    return exits.DONE
