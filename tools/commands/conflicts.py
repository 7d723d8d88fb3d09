"""`mycomesh conflicts`: lists concurrent writes that lost to later ones."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.numbers import whole
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

LIMIT = 50
LIMIT_MAX = 10_000  # a file keeps no more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--limit",
        type=whole(LIMIT_MAX),
        default=LIMIT,
        metavar="N",
        help=f"list the latest N (default {LIMIT}, at most {LIMIT_MAX})",
    )
    add_file(parser)
    parser.add_argument(
        "--json", action="store_true", help="print a JSON array, for programs; long values are shortened"
    )


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row for each conflict, the latest first."""
    conflicts = decide(args, home, "conflicts", limit=args.limit)["conflicts"]
    if args.json:
        print_json(conflicts)
    elif not conflicts:
        print("no conflicts", file=sys.stderr)
    else:
        print_table(("NO.", "ID", "TABLE", "KEY", "LOST", "WON", "SEEN"), [_row(conflict) for conflict in conflicts])
        print("to write a losing side again: mycomesh restore ID; an id is alike on all nodes", file=sys.stderr)
    return exits.DONE


def _row(conflict: dict[str, Any]) -> tuple[str, ...]:
    won = "deleted" if conflict["won"] is None else _values(conflict["won"])
    seen = conflict["seen_at"][:19].replace("T", " ") + (", restored" if conflict["restored_at"] else "")
    return (
        str(conflict["number"]),
        conflict["id"],
        conflict["table"],
        conflict["key"],
        f"{_values(conflict['lost']) or 'a delete'} ({_who(conflict, 'lost')})",
        f"{won or 'the row'} ({_who(conflict, 'won')}){_kept(conflict)}",
        seen,
    )


def _kept(conflict: dict[str, Any]) -> str:
    return f"; {conflict['reason']}" if "kept" in conflict["reason"] else ""


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in values.items())


def _who(conflict: dict[str, Any], side: str) -> str:
    """Return who wrote a side (the member's name, else its site) and the time of day."""
    return f"{conflict[f'{side}_by'] or conflict[f'{side}_site'][:8]} {conflict[f'{side}_at'][11:19]}"
