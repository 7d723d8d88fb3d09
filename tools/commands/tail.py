"""`mycomesh tail`: prints the committed changes of a table, local and remote, as they come in."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError, NoNodeError
from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.condition import Condition
from mycomesh.tools.moments import clock_time
from mycomesh.tools.render import without_steering

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

WAIT_MS = 10_000
ROWS_MAX = 256
REMEMBERED_MAX = 10_000  # rows whose values before a change can be shown
WIDTH_MAX = 60  # characters of one value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE", help="the table")
    parser.add_argument(
        "--cursor",
        metavar="NAME",
        help="go on where the last 'tail' with this name ended, and remember how far this one comes",
    )
    parser.add_argument(
        "--from",
        dest="begin",
        choices=("now", "start"),
        help="begin with the next change, or with the rows that are there (default: start with --cursor or --once, else now);"
        " a cursor that is known goes on where it is",
    )
    parser.add_argument(
        "--where", metavar="SQL", help="print only rows for which this condition on their columns holds"
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--once", action="store_true", help="exit when everything committed so far is printed")
    end.add_argument("--follow", action="store_true", help="go on until ^C or the end of the node (default)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one line for each change, until ^C or the node stops; a change is acknowledged once it is printed."""
    begin = args.begin or ("start" if args.cursor is not None or args.once else "now")
    where = None if args.where is None else Condition(args.where, "--where")
    before: OrderedDict[str, dict[str, Any]] = OrderedDict()
    token, done = os.urandom(12).hex(), 0
    request: dict[str, Any] = {"token": token, "pid": os.getpid(), "table": args.table, "rows": ROWS_MAX}
    request["from_now"] = begin == "now"
    if args.cursor is not None:
        request["cursor"] = args.cursor
    try:
        while True:
            answer = ask(home, "changes", **request, done=done, wait_ms=0 if args.once else WAIT_MS)
            lines = answer["changes"]
            for line in lines:
                change = json.loads(line)
                if where is None or where.holds(change):
                    print(without_steering(line) if args.json else _line(change, before.get(change["row"])))
                _remember(before, change)
            sys.stdout.flush()
            done = len(lines)
            if args.once and not lines:
                return exits.DONE
    finally:
        with contextlib.suppress(NoNodeError, NodeError):
            ask(home, "changes", **request, done=0, close=True)


def _remember(before: OrderedDict[str, dict[str, Any]], change: dict[str, Any]) -> None:
    before.pop(change["row"], None)
    if change["values"] is not None:
        before[change["row"]] = change["values"]
        if len(before) > REMEMBERED_MAX:
            before.popitem(last=False)


def _line(change: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Return a change as a person reads it; columns that it wrote show their values before where this run has seen them."""
    sign = {"insert": "+", "update": "~", "delete": "-"}[change["op"]]
    head = f"{clock_time(change['at'])}  {change['who']:<12} {sign} {change['table']} {change['row']}"
    values = change["values"]
    if values is None:
        return printable(head)
    names = change["columns"] if change["op"] == "update" else values
    shown = []
    for name in names:
        old = f"{_short(before[name])} -> " if before is not None and before.get(name) != values[name] else ""
        shown.append(f"{name}={old}{_short(values[name])}")
    return printable(f"{head}  {' '.join(shown)}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDTH_MAX else f"{text[: WIDTH_MAX - 3]}..."
