"""`mycomesh backup TARGET`: a consistent copy of the served database that can replace it later.

A plain `cp` is not enough: a copy without its -wal lacks commits, and a copy that keeps the site would give new writes stamps
that peers know already. The backup contains no site, so the node that serves it takes a new one; its peers supply what it lacks.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools import exits
from mycomesh.tools.commands.restoring import recipe
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

TRIES_MAX = 20  # a copy that contains unstamped writes is discarded: served later, they would get a second stamp
TRY_S = 0.1
PENDING = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'mycomesh_pending_*' ORDER BY name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("target", type=Path, metavar="TARGET.db", help="the file to create; it must not exist")
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE.db",
        help="print the steps that put the backup TARGET.db in the place of FILE.db",
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Copy the running node's database; try again while the copy contains unstamped writes."""
    target = args.target.absolute()
    if args.recipe is not None:
        return _print_recipe(args, target)
    if target.exists():
        raise exits.UsageError(f"{target} already exists; choose another name, or move the file away")
    source = Path(ask(home, "status")["file"])
    for _ in range(TRIES_MAX):
        try:
            with progress(f"copying {source.name}", lambda: _sizes(source, target)):
                complete = _copy(source, target)
        except sqlite3.Error as error:
            target.unlink(missing_ok=True)
            raise NodeError(f"cannot copy {source} to {target}: {error}; check free space and permissions") from error
        if complete:
            size = target.stat().st_size
            tell(
                args,
                {"file": str(target), "bytes": size},
                f"{target}: {size:,} bytes",
                f"to restore it: mycomesh backup {shlex.quote(str(target))} --recipe {shlex.quote(str(source))}",
            )
            return exits.DONE
        target.unlink()
        time.sleep(TRY_S)
    raise NodeError(f"programs write to {source} without a pause; try again when they write less")


def _print_recipe(args: argparse.Namespace, target: Path) -> int:
    if args.json:
        raise exits.UsageError("--recipe: prints commands and remarks for people; leave out --json")
    if not target.is_file():
        raise exits.UsageError(f"there is no backup {target}; give the path of one")
    sys.stdout.write(recipe(target, args.recipe.absolute()))
    return exits.DONE


def _sizes(source: Path, target: Path) -> tuple[float, float]:
    """Return how many bytes are written, and about how many there will be."""
    return (target.stat().st_size if target.exists() else 0), max(1, source.stat().st_size)


def _create(target: Path, mode: int) -> None:
    """Create the empty file that VACUUM INTO fills, never more open than the original, whatever the umask."""
    try:
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    except OSError as error:
        raise NodeError(
            f"cannot create {target}: {error.strerror}; check that its directory exists and is yours"
        ) from error
    os.close(descriptor)


def _copy(source: Path, target: Path) -> bool:
    """Copy the file and remove its site; return False if the copy contains unstamped writes."""
    _create(target, source.stat().st_mode & 0o666)
    with contextlib.closing(sqlite3.connect(source.as_uri() + "?mode=ro", uri=True, isolation_level=None)) as db:
        db.execute("VACUUM INTO ?", (str(target),))
    with contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy:
        for (name,) in copy.execute(PENDING).fetchall():
            if copy.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone():
                return False
        scans = copy.execute("SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_sweeps'").fetchone()
        if scans and copy.execute("SELECT 1 FROM mycomesh_sweeps LIMIT 1").fetchone():
            return False  # a table whose existing rows are being stamped
        copy.execute("DELETE FROM mycomesh_meta WHERE name = 'site'")
        for state in ("status", "peers"):  # they describe the node that serves the original
            copy.execute(f"DELETE FROM mycomesh_{state}")
        return True
