"""`mycomesh migrate`: drops or renames tables and columns on every node."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, print_json

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

SCRIPT_BYTES_MAX = 256 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "script",
        type=Path,
        metavar="FILE.sql",
        help="SQL statements (ALTER TABLE, DROP, CREATE, UPDATE), run as one transaction",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what the script would do, and change nothing")
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Run the script through the running node, or in a file that no node serves."""
    done = decide(args, home, "migrate", sql=_read(args.script), dry_run=args.dry_run)["done"]
    if args.json:
        print_json({"file": str(args.script), "dry_run": args.dry_run, "done": done})
    else:  # names can come from peers
        print("\n".join(map(printable, done)) or "no schema change for other nodes")
    return exits.DONE


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if len(data) > SCRIPT_BYTES_MAX:
            raise NodeError(
                f"{path}: longer than {SCRIPT_BYTES_MAX // 1024} KiB; split it, and insert rows with sqlite3"
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise NodeError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise NodeError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
