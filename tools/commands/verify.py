"""`mycomesh verify`: checks that this node and its peers, or two files, are equal."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.numbers import whole
from mycomesh.tools.progress import progress
from mycomesh.tools.render import duration, print_json, print_table, say, short_hash

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home
    from mycomesh.sync.admin.verify import Difference, TableComparison

__all__ = ["add_arguments", "run"]

SHOWN = 20
SHOWN_MAX = 10_000
ASK_S = 30  # the node counts every table and waits for an answer of every peer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "files", type=Path, nargs="*", metavar="FILE.db", help="compare these two files instead; no node needs to run"
    )
    parser.add_argument(
        "--limit",
        type=whole(SHOWN_MAX, least=0),
        default=SHOWN,
        metavar="N",
        help=f"of two files: show the first N rows of each table that differ (default {SHOWN})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Compare; return `DONE` if equal, else `NOT_CONVERGED` for peers, which may become equal, and `FAILED` for files."""
    if not args.files:
        return _live(home, as_json=args.json)
    if len(args.files) != 2:
        raise exits.UsageError(f"give two files, not {len(args.files)}: mycomesh verify A.db B.db")
    first, second = args.files
    return _offline(first, second, args.limit, as_json=args.json)


# ---- with peers


def _live(home: Home, *, as_json: bool) -> int:
    with progress("comparing with every linked peer"):
        answer = ask(home, "verify", timeout_s=ASK_S)
    if as_json:
        print_json(answer)
    else:
        print_table(
            ("TABLE", "ROWS", "HASH", "EQUAL ON", "SINCE", "DIFFERS ON"), [_row(table) for table in answer["tables"]]
        )
        if answer.get("areas"):
            print()
            headers = ("TABLE", "AREA", "CHANGES", "HASH", "EQUAL ON", "SINCE", "DIFFERS ON")
            print_table(headers, [_area_row(area) for area in answer["areas"]])
        unserved = [table["name"] for table in answer["tables"] if not table["hash"]]
        if unserved:
            print(
                f"not compared, because this node does not serve them: {printable(', '.join(unserved))}",
                file=sys.stderr,
            )
            print("'mycomesh status' says why", file=sys.stderr)
        say(_verdict(answer), file=sys.stderr)
    return exits.DONE if answer["converged"] else exits.NOT_CONVERGED


def _row(table: dict[str, Any]) -> tuple[str, ...]:
    if not table["hash"]:
        return table["name"], "-", "-", "-", "-", "not compared"
    return table["name"], str(table["rows"]), short_hash(table["hash"]), *_equality(table["peers"])


def _area_row(area: dict[str, Any]) -> tuple[str, ...]:
    return area["table"], area["area"], str(area["changes"]), short_hash(area["hash"]), *_equality(area["peers"])


def _equality(peers: list[dict[str, Any]]) -> tuple[str, str, str]:
    """Return on how many peers it is equal, since when, and on which it is not."""
    equal = [peer for peer in peers if peer["equal"]]
    other = ", ".join(peer["peer"] for peer in peers if not peer["equal"])
    since = duration(min(peer["equal_ms"] for peer in equal)) if equal else "-"
    return f"{len(equal)} of {len(peers)}", since, other or "-"


def _verdict(answer: dict[str, Any]) -> str:
    linked = [peer for peer in answer["peers"] if peer["state"] == "linked"]
    away = len(answer["peers"]) - len(linked)
    rest = f"; {away} other member(s) are not linked, so not compared" if away else ""
    if answer["converged"]:
        return f"equal on this node and {len(linked)} linked peer(s){rest}"
    if not linked:
        return f"no peer is linked: nothing to compare with{rest}"
    silent = [peer["name"] for peer in linked if not peer["answered"]]
    if silent:
        return f"no answer yet from {', '.join(silent)}{rest}"
    behind = [peer["name"] for peer in linked if not peer["equal"]]
    return f"not equal with {', '.join(behind) or 'writes that are not stamped yet'}{rest}"


# ---- two files


def _offline(first: Path, second: Path, limit: int, *, as_json: bool) -> int:
    # Loaded late: a request to a node does not need SQLite.
    verify = importlib.import_module("mycomesh.sync.admin.verify")
    errors = importlib.import_module("mycomesh.sync.errors")
    try:
        with progress(f"comparing {first.name} and {second.name}"):
            compared: list[TableComparison] = list(verify.compare_files(first, second, shown_max=limit))
    except errors.SyncError as error:
        raise exits.UsageError(str(error)) from error
    equal = all(table.equal for table in compared)
    if as_json:
        print_json({"equal": equal, "tables": [_as_json(table) for table in compared]})
    else:
        for table in compared:
            print("\n".join(map(printable, _lines(table, first, second))))
        if not compared:
            print("neither file has a table", file=sys.stderr)
    return exits.DONE if equal else exits.FAILED


def _as_json(table: TableComparison) -> dict[str, Any]:
    return {
        "table": table.table,
        "equal": table.equal,
        "rows": [table.rows_first, table.rows_second],
        "only_first": table.only_first,
        "only_second": table.only_second,
        "differing": table.differing,
        "note": table.note,
        "missing": list(table.missing),
        "shown": [{"where": each.where, "first": each.first, "second": each.second} for each in table.shown],
    }


def _lines(table: TableComparison, first: Path, second: Path) -> list[str]:
    if table.equal:
        return [f"{table.table}: equal, {table.rows_first} row(s){_by_bytes(table)}"]
    if table.note:
        return [f"{table.table}: {table.note}"]
    counts = (
        (table.only_first, f"only in {first}"),
        (table.only_second, f"only in {second}"),
        (table.differing, "differ"),
    )
    differing = ", ".join(f"{count} row(s) {what}" for count, what in counts if count)
    lines = [f"{table.table}: {differing}{_by_bytes(table)}"]
    lines += [f"  {_in_words(each)}" for each in table.shown]
    more = table.only_first + table.only_second + table.differing - len(table.shown)
    return [*lines, f"  and {more} more"] if more else lines


def _by_bytes(table: TableComparison) -> str:
    """Return what the comparison did without: it needs no collation or function of the application's."""
    return f" (by bytes, without the application's {', '.join(table.missing)})" if table.missing else ""


def _in_words(each: Difference) -> str:
    """Describe a row that differs, with signs as in a diff; of two versions, the columns that differ."""
    if each.first is None or each.second is None:
        sign, values = ("-", each.first) if each.second is None else ("+", each.second)
        return f"{sign} " + ", ".join(f"{name}={value}" for name, value in (values or {}).items())
    same = {name: value for name, value in each.first.items() if each.second[name] == value}
    changed = ", ".join(
        f"{name}: {value} -> {each.second[name]}" for name, value in each.first.items() if name not in same
    )
    return f"~ {', '.join(f'{name}={value}' for name, value in same.items())}: {changed}"
