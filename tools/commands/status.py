"""`mycomesh status`: shows the running node with its file, peers and tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.status import Status, from_json
from mycomesh.tools import exits
from mycomesh.tools.render import duration, print_json, say, signed_ms
from mycomesh.tools.views import (
    linked_of,
    show_accounts,
    show_areas,
    show_budget,
    show_mailboxes,
    show_peers,
    show_readers,
    show_tables,
)

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--accounts", action="store_true", help="show also what each other node's writes have brought")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print the running node's status."""
    answer = ask(home, "status")
    if args.json:
        print_json(answer)
        return exits.DONE
    status = from_json(answer)
    say(*_head(status))
    if status.peers:
        print()
        show_peers(status.peers)
    if status.tables:
        print()
        show_tables(status.tables, linked_of(status.peers))
    if status.areas:
        print()
        show_areas(status.areas, status.areas_more, linked_of(status.peers))
    if status.readers:
        print()
        show_readers(status.readers)
    if status.mailboxes:
        print()
        show_mailboxes(status.mailboxes)
    if status.metered is not None:
        print()
        show_budget(status.metered)
    if args.accounts and status.accounts:
        print()
        show_accounts(status.accounts)
    if status.hint:
        say("", status.hint, file=sys.stderr)
    return exits.DONE


def _head(status: Status) -> list[str]:
    linked = linked_of(status.peers)
    who = f"{status.node} of mesh {status.mesh}" if status.mesh else status.node
    lines = [f"{who}: {status.phase} {status.file} on port {status.port}, up {duration(status.uptime_ms)}"]
    if status.phase == "serving":
        waiting = f", {status.pending} write(s) not stamped yet" if status.pending else ""
        if status.clock_offset_ms is not None:
            waiting += f", mesh time is this clock {signed_ms(status.clock_offset_ms)}"
        lines.append(f"{linked} of {len(status.peers)} other member(s) linked, {len(status.tables)} table(s){waiting}")
    if status.scrub is not None:
        where = f" in {', '.join(status.scrub.tables)}" if status.scrub.tables else ""
        found = (
            f"{status.scrub.found} row(s){where} had not been captured"
            if status.scrub.found
            else "every row was captured"
        )
        lines.append(f"last scrub {duration(status.scrub.ended_ms_ago)} ago: {found}")
    return lines
