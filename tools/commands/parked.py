"""`mycomesh parked`: lists rows of peers that a local constraint refuses, and rows whose parent row is missing."""

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
        "--file", type=Path, metavar="FILE.db", help="read this file (default: the one that the running node serves)"
    )
    parser.add_argument(
        "--retry",
        metavar="TABLE",
        help="try the parked rows of this table again; they are also tried after each change",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row for each parked row, the oldest first."""
    if args.retry is not None:
        if args.file is not None:
            raise exits.UsageError("--retry: needs a running node; leave out --file")
        ask(home, "retry-parked", table=args.retry)
    parked = _parked(args.file.absolute()) if args.file else _parked(Path(ask(home, "status")["file"]))
    if args.json:
        print_json(parked)
    elif not parked:
        print("no parked rows", file=sys.stderr)
    else:
        headers = tuple(name.upper() for name in NAMES)
        print_table(headers, [tuple(_as_text(row[name]) for name in NAMES) for row in parked])
        print("each row enters its table by itself once the reason is gone", file=sys.stderr)
    return exits.DONE


def _parked(file: Path) -> list[dict[str, Any]]:
    """Read the parked rows with plain SQL, as any client can (README)."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            rows = [*db.execute(LISTING).fetchall(), *_orphans(db)]
    except sqlite3.Error as error:
        raise NodeError(f"cannot read {file}: {error}; check that a node has served this file") from error
    return [{**dict(zip(NAMES, row, strict=True)), "content": _content(row[3])} for row in rows]


def _orphans(db: sqlite3.Connection) -> list[tuple[str, str, str, str, str]]:
    """Return rows whose parent row is missing. They stay in their tables: each program decides about foreign keys (ADR 0013)."""
    try:
        found = db.execute(ORPHANS, (ORPHANS_MAX,)).fetchall()
    except sqlite3.OperationalError as error:  # a foreign key refers to columns that are no key of its parent
        return [("-", "-", f"FOREIGN KEY not checked: {error}", "{}", "")]
    return [
        (
            table,
            "-" if rowid is None else str(rowid),
            f"FOREIGN KEY: {parent} has no such row; this row stays in its table",
            "{}",
            "",
        )
        for table, rowid, parent in found
    ]


def _content(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # the node truncates a very long row when it records it
        return text


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
