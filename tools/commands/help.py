"""`mycomesh help COMMAND`: describes a command, with its arguments and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.tools import cli, exits
from mycomesh.tools.render import print_json

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("about", nargs="?", metavar="COMMAND", help="the command (default: list them all)")
    parser.add_argument("--json", action="store_true", help="print a JSON array of commands, for programs")


def run(args: argparse.Namespace, _home: Home) -> int:
    """Print the help."""
    if args.json:
        named = cli.COMMANDS if args.about is None else [cli.command_named(args.about)]
        print_json([{"name": command.name, "summary": command.summary} for command in named])
        return exits.DONE
    parser = cli.top_parser() if args.about is None else cli.parser_of(cli.command_named(args.about))
    parser.print_help()
    return exits.DONE
