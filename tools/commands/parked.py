"""`mycomesh parked`: rows of peers that the local tables refuse, and why; they are held and tried again. And orphans."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools import exits
from mycomesh.tools.render import print_json, print_table

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

NAMES = ("table", "key", "reason", "content", "since")
ORPHANS_MAX = 1_000
ORPHANS = 'SELECT "table", rowid, parent FROM pragma_foreign_key_check ORDER BY 1, 2, 3 LIMIT ?'
LISTING = "SELECT table_name, row_key, reason, content, since FROM mycomesh_parked ORDER BY since, table_name, row_key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--file", type=Path, metavar="FILE.db", help="look into this file (default: what the running node serves)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row for each parked row, the oldest first."""
    parked = _parked(args.file.absolute()) if args.file else _parked(Path(ask(home, "status")["file"]))
    if args.json:
        print_json(parked)
    elif not parked:
        print("no parked rows", file=sys.stderr)
    else:
        headers = tuple(name.upper() for name in NAMES)
        print_table(headers, [tuple(_said(row[name]) for name in NAMES) for row in parked])
        print("each goes into its table by itself once its reason is gone", file=sys.stderr)
    return exits.DONE


def _parked(file: Path) -> list[dict[str, Any]]:
    """The state is SQL (README): read as any client would."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            rows = [*db.execute(LISTING).fetchall(), *_orphans(db)]
    except sqlite3.Error as error:
        raise NodeError(f"cannot read {file}: {error}; is it the file of a node, which has joined?") from error
    return [{**dict(zip(NAMES, row, strict=True)), "content": _content(row[3])} for row in rows]


def _orphans(db: sqlite3.Connection) -> list[tuple[str, str, str, str, str]]:
    """Rows whose parent is gone: in their tables all the same, since SQLite leaves foreign keys to each program (ADR 0013)."""
    try:
        found = db.execute(ORPHANS, (ORPHANS_MAX,)).fetchall()
    except sqlite3.OperationalError as error:  # a foreign key that names no key of its parent
        return [("-", "-", f"FOREIGN KEY not checked: {error}", "{}", "")]
    return [
        (table, "-" if rowid is None else str(rowid), f"FOREIGN KEY: no such row of {parent}; shown as it is", "{}", "")
        for table, rowid, parent in found
    ]


def _content(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a very long row is cut where it is recorded
        return text


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
