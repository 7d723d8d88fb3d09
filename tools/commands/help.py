"""`mycomesh help COMMAND`: what a command does, its arguments, and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools import cli, exits

if TYPE_CHECKING:
    import argparse

    from mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("about", nargs="?", metavar="COMMAND", help="the command (default: list them all)")


def run(args: argparse.Namespace, _home: Home) -> int:
    """Print the help."""
    parser = cli.top_parser() if args.about is None else cli.parser_of(cli.command_named(args.about))
    parser.print_help()
    return exits.DONE
