"""`mycomesh peers` and `mycomesh tables`: each prints one part of the running node's status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.status import Status, from_json
from mycomesh.tools import exits
from mycomesh.tools.render import print_json
from mycomesh.tools.views import linked_of, show_peers, show_tables

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from mycomesh.mesh.node.home import Home

__all__ = ["Listing", "peers", "tables"]


@dataclass(frozen=True, slots=True)
class Listing:
    """One such command: the field of the status, and the function that prints it for people."""

    part: str
    show: Callable[[Status], None]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument("--json", action="store_true", help="print a JSON array, for programs")

    def run(self, args: argparse.Namespace, home: Home) -> int:
        """Print one row for each item."""
        answer = ask(home, "status")
        if args.json:
            print_json(answer[self.part])
        else:
            self.show(from_json(answer))
        return exits.DONE


peers = Listing("peers", lambda status: show_peers(status.peers))
tables = Listing("tables", lambda status: show_tables(status.tables, linked_of(status.peers)))
