"""`mycomesh why TABLE KEY`: shows who wrote each cell of a row and when, and which writes lost to it."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError, NoNodeError
from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.names import display_name, member_name, member_names
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from mycomesh.mesh.node.home import Home
    from mycomesh.sync.admin.provenance import Loss, Provenance, Written

__all__ = ["add_arguments", "read", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", metavar="TABLE", help="the table")
    parser.add_argument(
        "key",
        metavar="KEY",
        help="the primary key; a JSON array for several columns; the rowid in a table without a key",
    )
    parser.add_argument(
        "--file", type=Path, metavar="FILE.db", help="read this file (default: the one that the running node serves)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Read the file; the running node supplies only its path and the members' names."""
    file = args.file or _served(home)
    if args.json:
        steps = [asdict(step) for step in _origins(args, home)]
        print_json(read(home, file, args.table, args.key) | {"made_by": steps})
        return exits.DONE
    found = _provenance(file, args.table, args.key)
    names = member_names(home)
    print(printable(_head(found, names)))
    if found.cells:
        print_table(("COLUMN", "VALUE", "WRITTEN", "BY"), [_cell(cell, names) for cell in found.cells])
    if found.losses:
        print("\nwrites that lost to these:")
        print_table(("ID", "LOST", "WRITTEN", "BY", "TO", "WHY"), [_loss(loss, names) for loss in found.losses])
        print("to write a losing side again: mycomesh restore ID", file=sys.stderr)
    for step in _origins(args, home):
        values = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in step.values.items())
        by = f"version {step.version}, model {step.model}" if step.model else f"version {step.version}"
        made = f"made by flow {step.flow} ({by}) of {step.table} {step.row}"
        print(printable(f"{made}, written {_moment(step.at)} by {step.who}: {values}"))
    return exits.DONE


def _origins(args: argparse.Namespace, home: Home) -> list[Any]:
    """Return the steps by which flows of this node made a row, none where no node serves the file or none has flows."""
    if args.file is not None or not sections_of(home.config_file, "flow"):
        return []
    steps: list[Any] = importlib.import_module("mycomesh.tools.flows.origin").origins(home, args.table, args.key)
    return steps


def read(home: Home, file: Path, table: str, key: str) -> dict[str, Any]:
    """Return what `--json` prints about a row.

    Raises:
        NodeError: the file has no such replicated table, or knows no such row.
    """
    return _as_json(_provenance(file, table, key), member_names(home))


def _provenance(file: Path, table: str, key: str) -> Provenance:
    # Loaded late, so that a missing node is reported before SQLite loads.
    reader = importlib.import_module("mycomesh.sync.admin.provenance")
    errors = importlib.import_module("mycomesh.sync.errors")
    try:
        found: Provenance = reader.read_provenance(file, table, key)
    except errors.SyncError as error:
        raise NodeError.of(error) from error
    return found


def _served(home: Home) -> Path:
    try:
        return Path(ask(home, "status")["file"])
    except NoNodeError as error:
        raise NoNodeError(f"{error}; or name the file: --file FILE.db") from error


def _head(found: Provenance, names: Mapping[str, str]) -> str:
    words = [f"{found.table} {found.key}: {found.state}"]
    if found.existence is not None:
        verb = "deleted" if found.state == "deleted" else "inserted"
        words.append(f"{verb} {_moment(found.existence.at)} by {display_name(names, found.existence.site)}")
    if found.parked:
        words.append(f"parked: {found.parked}")
    if found.pending:
        words.append("with a later write that is not stamped yet")
    return ", ".join(words)


def _cell(cell: Written, names: Mapping[str, str]) -> tuple[str, ...]:
    return cell.column, json.dumps(cell.value, ensure_ascii=False), _moment(cell.at), display_name(names, cell.site)


def _loss(loss: Loss, names: Mapping[str, str]) -> tuple[str, ...]:
    values = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in loss.lost.items())
    restored = f", restored {_moment(loss.restored_at)}" if loss.restored_at else ""
    return (
        str(loss.number),
        values or "a delete",
        _moment(loss.lost_at),
        display_name(names, loss.lost_site),
        f"{display_name(names, loss.won_site)} {_moment(loss.won_at)}",
        loss.reason + restored,
    )


def _moment(at: str) -> str:
    """Return an ISO 8601 time for people, in UTC, because members may be in different time zones."""
    return at.replace("T", " ").replace("+00:00", "Z")


def _as_json(found: Provenance, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the provenance for JSON, with names beside sites; clocks are text, which keeps all digits."""
    value = asdict(found)
    for written in [*value["cells"], *([value["existence"]] if value["existence"] else [])]:
        written["by"] = member_name(names, written["site"])
        written["hlc"] = str(written["hlc"])
    for loss in value["losses"]:
        loss["lost_by"] = member_name(names, loss["lost_site"])
        loss["won_by"] = member_name(names, loss["won_site"])
    return value
