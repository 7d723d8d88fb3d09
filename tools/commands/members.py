"""`mycomesh members`: lists the members of the mesh with their rights and expiry, and removes members that are gone."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.commands.rights import ask_or_files
from mycomesh.tools.render import print_json, print_table, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "do",
        nargs="?",
        choices=("remove",),
        metavar="remove",
        help="remove members that are gone or never came, for good",
    )
    parser.add_argument(
        "who", nargs="*", metavar="NAME", help="with remove: their names, or at least 8 first digits of their ids"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row for each member, for which no node needs to run; or remove members through the running node."""
    if args.do == "remove":
        return _remove(args, home)
    found = ask_or_files(home, "members")[0]["members"]
    if args.json:
        print_json(found)
    else:
        now_s = time.time()
        print_table(
            ("NAME", "ID", "ROLES", "TABLES", "SERIAL", "EXPIRES", "STATE"), [_row(member, now_s) for member in found]
        )
    return exits.DONE


def _remove(args: argparse.Namespace, home: Home) -> int:
    if not args.who:
        raise exits.UsageError("members remove: name the members to remove; 'mycomesh members' lists them")
    removed = ask(home, "remove-members", who=args.who)["members"]
    names = ", ".join(f"{each['name']} ({each['node_id'][:8]})" for each in removed)
    tell(
        args,
        removed,
        f"removed for good: {names}; the mesh has one new secret",
        "if one comes back, its file is kept: run 'mycomesh join' there with a new code or ticket",
    )
    return exits.DONE


def _row(member: dict[str, Any], now_s: float) -> tuple[str, ...]:
    state = "this node" if member["self"] else "member"
    if member["not_after_s"] <= now_s:
        state = "expired"
    if member["revoked_s"] is not None:
        state = f"revoked {_day(member['revoked_s'])}"
    if member.get("dropped_since_ms") is not None:  # a node of an older version does not say
        since = member["dropped_since_ms"]
        state += f", writes dropped since {_day(since // 1_000) if since else 'the beginning'}"
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
