"""`mycomesh members`: lists the members of the mesh with their rights and expiry."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mycomesh.tools import exits
from mycomesh.tools.commands.rights import ask_or_files
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row for each member; no node needs to run."""
    found = ask_or_files(home, "members")[0]["members"]
    if args.json:
        print_json(found)
    else:
        now_s = time.time()
        print_table(
            ("NAME", "ID", "ROLES", "TABLES", "SERIAL", "EXPIRES", "STATE"), [_row(member, now_s) for member in found]
        )
    return exits.DONE


def _row(member: dict[str, Any], now_s: float) -> tuple[str, ...]:
    state = "this node" if member["self"] else "member"
    if member["not_after_s"] <= now_s:
        state = "expired"
    if member["revoked_s"] is not None:
        state = f"revoked {_day(member['revoked_s'])}"
    return (
        member["name"],
        member["node_id"][:8],
        ",".join(member["roles"]),
        " ".join(f"{pattern}:{rights}" for pattern, rights in member["grants"]),
        member["serial"][:8],
        _day(member["not_after_s"]),
        state,
    )


def _day(unix_s: int) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%MZ")
    except (OverflowError, ValueError, OSError):
        return str(unix_s)
