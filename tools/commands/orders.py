"""The commands that tell the running node to do one thing and have nothing to show: `isolate`, `rejoin`, `scrub`."""

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
    """One such command: the request to the node, and what a person is told once the node has taken it."""

    request: str
    told: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        add_json(parser)

    def run(self, args: argparse.Namespace, home: Home) -> int:
        """Ask the running node."""
        ask(home, self.request, **self.arguments)
        tell(args, {"done": self.told}, self.told)
        return exits.DONE


isolate = Order("isolate", "cut off: local writes go on; end it with 'mycomesh rejoin'", {"cut": True})
rejoin = Order("isolate", "looking for the others again", {"cut": False})
scrub = Order("scrub", "every row is being compared with the change log; what is found is captured and spread")
