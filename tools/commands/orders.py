"""`mycomesh isolate`, `rejoin` and `scrub`: each sends the running node one request without a result to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["Order", "isolate", "rejoin", "scrub"]


@dataclass(frozen=True, slots=True)
class Order:
    """One such command: the request to the node, and the line to print once the node has accepted it."""

    request: str
    text: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        add_json(parser)

    def run(self, args: argparse.Namespace, home: Home) -> int:
        """Send the request to the running node."""
        ask(home, self.request, **self.arguments)
        tell(args, {"done": self.text}, self.text)
        return exits.DONE


isolate = Order("isolate", "isolated; local writes go on; 'mycomesh rejoin' ends it", {"cut": True})
rejoin = Order("isolate", "this node looks for the others again", {"cut": False})
scrub = Order("scrub", "the node compares every row with the change log, and captures and spreads what it finds")
