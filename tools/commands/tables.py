"""`mycomesh tables`: the replicated tables and the hashes that prove two nodes equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.node.ask import ask
from mesh.node.status import TableView, from_json
from tools import exits
from tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mesh.node.home import Home

__all__ = ["add_arguments", "run", "show_tables"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row a table."""
    answer = ask(home, "status")
    if args.json:
        print_json(answer["tables"])
    else:
        show_tables(from_json(answer).tables)
    return exits.DONE


def show_tables(tables: Sequence[TableView]) -> None:
    """Print the tables as a table."""
    rows = [
        (table.name, str(table.rows), table.digest[:16], str(table.conflicts), str(table.parked), table.note)
        for table in tables
    ]
    print_table(("TABLE", "ROWS", "HASH", "CONFLICTS", "PARKED", "NOTE"), rows)
