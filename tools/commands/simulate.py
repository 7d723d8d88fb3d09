"""`mycomesh simulate`: many nodes under virtual time; no home, no network, no keys of this machine are touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulations import cli

if TYPE_CHECKING:
    import argparse

    from mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    cli.add_arguments(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Run the scenarios; the home is not looked at."""
    del home
    return cli.main(args)
