"""`mycomesh forget`: removes all triggers and internal tables from a file that no node serves."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import FileLock
from mycomesh.tools import exits
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home
    from mycomesh.sync.admin.uninstall import Removed

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE.db",
        help="the database; its own tables do not change",
    )
    add_json(parser)


def run(args: argparse.Namespace, _home: Home) -> int:
    """Remove everything; refuse a file that a node serves."""
    lock = FileLock.acquire(args.file)
    module = importlib.import_module("mycomesh.sync.admin.uninstall")  # a mistyped path is reported before SQLite loads
    errors = importlib.import_module("mycomesh.sync.errors")
    try:
        with progress(f"removing mycomesh from {args.file.name}"):
            removed: Removed = module.uninstall(args.file)
    except errors.SyncError as error:
        raise NodeError.of(error) from error
    finally:
        lock.release()
    lost = f", with {removed.conflicts} conflict(s) and {removed.parked} parked row(s)"
    tell(
        args,
        {"file": str(args.file), **asdict(removed)},
        f"{args.file} is an ordinary database again: {removed.triggers} trigger(s) and {removed.tables} internal table(s)"
        f" are removed{lost if removed.conflicts or removed.parked else ''}; VACUUM frees their space",
    )
    return exits.DONE
