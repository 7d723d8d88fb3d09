"""`mycomesh doctor`: checks this machine, or a file before a node serves it, for problems, and prints remedies."""

from __future__ import annotations

import importlib
import os
import shutil
import sqlite3
import time
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.config import load
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.disk_space import floor_bytes
from mycomesh.mesh.node.errors import NodeError, NoNodeError
from mycomesh.mesh.node.home import tampering
from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.render import print_json

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["Finding", "add_arguments", "clock", "disk", "inotify", "multicast", "permissions", "run", "sqlite"]

CLOCK_MIN_S = 1_735_689_600  # 2025-01-01: this program is newer, so an earlier clock was never set
HOME_BYTES_MIN = 1_000_000  # keys, certificates and addresses take a few KB each
WATCHES_MIN = 16  # a node uses two
WAL_RESET_FIRST, WAL_RESET_LAST = (3, 7, 0), (3, 51, 2)  # https://sqlite.org/wal.html, "The WAL-Reset Bug"
IFF_UP, IFF_LOOPBACK, IFF_MULTICAST = 0x1, 0x8, 0x1000  # netdevice(7)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `well` None is a warning: nodes work in spite of it."""

    name: str
    well: bool | None
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE.db",
        help="check the tables of this file instead, served or not: whose ids collide, which do not replicate",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one line for each check, and remedies; return `FAILED` if something keeps nodes from working."""
    findings = _machine(home) if args.file is None else _tables(args.file)
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        width = max([12, *(len(printable(finding.name)) for finding in findings)])
        for finding in findings:
            mark = "warning" if finding.well is None else "ok" if finding.well else "FAILED"
            print(f"{mark:<8} {printable(finding.name):<{width}} {printable(finding.found)}")
            if finding.remedy:
                print(f"{'':<{width + 9}} -> {printable(finding.remedy)}")
    return exits.FAILED if any(finding.well is False for finding in findings) else exits.DONE


def _machine(home: Home) -> list[Finding]:
    """Check this machine and the node of the home."""
    node, file = _node(home)
    return [
        clock(time.time()),
        sqlite(sqlite3.sqlite_version_info),
        multicast(Path("/sys/class/net")),
        inotify(Path("/proc/sys/fs/inotify/max_user_watches")),
        permissions(home.state, home.config, home.config_file),
        disk(home.state, file, _floor_mb(home)),
        node,
    ]


def _tables(file: Path) -> list[Finding]:
    """Look at each table of a file, without changing it; errors of the file pass through."""
    # Loaded late: a check of the machine does not need the node's own SQLite.
    preflight = importlib.import_module("mycomesh.sync.admin.preflight")
    errors = importlib.import_module("mycomesh.sync.errors")
    try:
        looks = preflight.look(file)
    except errors.SyncError as error:
        raise NodeError.of(error) from error
    warned = sum(look.well is None for look in looks)
    summary = f"{file}: {len(looks)} table{'s' * (len(looks) != 1)}, {warned} with a warning"
    return [Finding("file", None if warned else True, summary), *(Finding(*astuple(look)) for look in looks)]


def clock(now_s: float) -> Finding:
    """Check that the clock was ever set."""
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    remedy = "" if now_s >= CLOCK_MIN_S else "set it: timedatectl set-ntp true, or date --set"
    return Finding("clock", not remedy, text, remedy)


def sqlite(version: tuple[int, ...]) -> Finding:
    """Check this Python's SQLite for the WAL-reset bug; the node itself avoids the bug by the way it checkpoints."""
    affected = WAL_RESET_FIRST <= version <= WAL_RESET_LAST
    remedy = "use 3.51.3 or later beside a node, or PRAGMA wal_autocheckpoint=0" if affected else ""
    text = ".".join(map(str, version)) + (": WAL-reset bug, a rare race that damages files" if affected else "")
    return Finding("sqlite", None if affected else True, text, remedy)


def multicast(interfaces: Path) -> Finding:
    """Check that some interface can carry mDNS."""
    able = []
    for interface in sorted(interfaces.glob("*/flags")):
        flags = int(interface.read_text(), 16)
        if flags & IFF_UP and flags & IFF_MULTICAST and not flags & IFF_LOOPBACK:
            able.append(interface.parent.name)
    if able:
        hint = "if peers are not found anyway, let UDP 5353 and TCP 7447 through the firewall"
        return Finding("multicast", True, f"on {', '.join(able)}; {hint}")
    return Finding(
        "multicast", None, "on no interface", "connect a network, or name peers: mycomesh up --peer HOST:PORT"
    )


def inotify(limit: Path) -> Finding:
    """Check that a node may watch its file for changes."""
    try:
        watches = int(limit.read_text())
    except (OSError, ValueError):
        return Finding("inotify", None, "not available", "none needed: a node polls its file once a second instead")
    remedy = "" if watches >= WATCHES_MIN else "sysctl fs.inotify.max_user_watches=8192"
    return Finding("inotify", not remedy, f"{watches:,} watches for each user", remedy)


def permissions(state: Path, *others: Path) -> Finding:
    """Check that this user can write the home, and that no other user can change or read it, nor change `others`."""
    directory = _existing(state)
    if not os.access(directory, os.W_OK | os.X_OK):
        return Finding(
            "permissions", False, f"{directory} cannot be written", "change its owner, or choose another --home"
        )
    for path in (state, *others):
        who = tampering(path.stat()) if path.exists() else ""
        if who:  # the node does not start with it
            remedy = f"chown {os.geteuid()} {path}; chmod go-w {path}"
            return Finding("permissions", False, f"{path} {who}", remedy)
    # The node refuses to start with a key file that other users can read.
    shared = [each for each in sorted(state.glob("*")) if each.is_file() and each.stat().st_mode & 0o077]
    if shared:
        files = " ".join(map(str, shared))
        return Finding("permissions", False, f"other users can read {files}", f"chmod 600 {files}")
    return Finding("permissions", True, str(directory))


def disk(state: Path, file: Path | None = None, floor_mb: int | None = None) -> Finding:
    """Check the free space of the disk of the keys, and of that of the database against the node's own floor."""
    free = shutil.disk_usage(_existing(state)).free
    if free < HOME_BYTES_MIN:
        return Finding("disk", False, f"{free / 1e6:,.1f} MB free at {state}", "free some space: keys cannot be saved")
    if file is None:
        return Finding("disk", True, f"{free / 1e6:,.0f} MB free at {state}")
    free, floor = shutil.disk_usage(_existing(file.parent)).free, floor_bytes(file, floor_mb)
    found = f"{free / 1e6:,.0f} MB free at {file.parent}, the floor is {floor / 1e6:,.0f} MB"
    remedy = (
        "free some space, or set free_mb_min in config.toml: below the floor the node takes in no rows of other nodes"
    )
    return Finding("disk", free >= max(floor, 1), found, "" if free >= max(floor, 1) else remedy)


def _floor_mb(home: Home) -> int | None:
    """Return the floor that config.toml sets; None for the default."""
    try:
        return load(home.config_file).free_mb_min
    except NodeError:  # `mycomesh up` says what is wrong with it
        return None


def _node(home: Home) -> tuple[Finding, Path | None]:
    """Check the running node; return also the file that it serves."""
    try:
        status = ask(home, "status")
    except NoNodeError:
        return Finding("node", None, "no node runs for this home", "mycomesh up FILE.db"), None
    except NodeError as error:
        return Finding("node", False, str(error), "mycomesh down, then mycomesh up FILE.db"), None
    text = f"{status['phase']} {status['file']}"
    # A node of an older version does not say whether it was revoked.
    well = False if status.get("revoked") else None if status["hint"] else True
    return Finding("node", well, text, status["hint"]), Path(status["file"])


def _existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path
