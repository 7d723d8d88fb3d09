"""`mycomesh revoke NAME`: removes a member for good and rotates the mesh secret; with `--drop-since`, drops its writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.tools import exits
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

COUNT_S = 120  # reading the change log of a file with millions of rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "who",
        metavar="NAME",
        help="the member's name, or at least 8 first digits of its id, as 'mycomesh members' shows them",
    )
    parser.add_argument(
        "--drop-since",
        metavar="T",
        help="drop what it has written since then, on every node: 2h (ago), 2026-11-30T06:00Z, or all; needs the root key",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="with --drop-since: count what would be dropped, and change nothing"
    )
    parser.add_argument(
        "--confirm", type=int, metavar="N", help="with --drop-since: the number of changes that the dry run has counted"
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Revoke through the running node, which must have the root key or be an admin."""
    if args.drop_since is not None:
        return _drop(args, home)
    if args.dry_run or args.confirm is not None:
        raise exits.UsageError("revoke: --dry-run and --confirm go with --drop-since")
    answer = ask(home, "revoke", who=args.who)
    tell(
        args,
        answer,
        f"{answer['name']} ({answer['node_id'][:8]}) is revoked, and the mesh secret is rotated",
        "members that are away learn it from the first member that they meet; see docs/SECURITY.md",
    )
    return exits.DONE


def _drop(args: argparse.Namespace, home: Home) -> int:
    from mycomesh.tools.moments import moment_ms, moment_text  # noqa: PLC0415 - it loads `datetime`

    try:
        since_ms = moment_ms(args.drop_since, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise exits.UsageError(f"revoke: --drop-since {error}") from None
    answer = ask(
        home,
        "revoke",
        timeout_s=COUNT_S,
        who=args.who,
        drop_since_ms=since_ms,
        dry_run=args.dry_run,
        confirm=args.confirm,
    )
    who, changes = f"{answer['name']} ({answer['node_id'][:8]})", answer["changes"]
    if answer["done"]:
        tell(
            args,
            answer,
            f"{who} is revoked; its {changes} change(s) since then are dropped here and on every node, also when one was away",
            "mycomesh_conflicts keeps them as far as it has room, for 'mycomesh restore'; see docs/SECURITY.md",
        )
        return exits.DONE
    since = moment_text(since_ms)
    tell(
        args,
        answer,
        *_lines(answer["tables"]),
        f"{changes} change(s) of {who} since {since} on this node would be dropped on every node; nothing was done",
        f"to do it: mycomesh revoke {args.who} --drop-since {since} --confirm {changes}",
    )
    return exits.DONE


def _lines(tables: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{name}: {each['inserts']} row(s) inserted, {each['updates']} updated, {each['deletes']} deleted"
        for name, each in tables.items()
    ]
