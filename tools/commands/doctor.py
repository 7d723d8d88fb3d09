"""`mycomesh doctor`: what on this machine stands in the way of a node, and what to do about it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError, NoNodeError
from mycomesh.tools import exits
from mycomesh.tools.render import print_json

if TYPE_CHECKING:
    import argparse

    from mycomesh.mesh.node.home import Home

__all__ = ["Finding", "add_arguments", "clock", "disk", "inotify", "multicast", "permissions", "run", "sqlite"]

CLOCK_MIN_S = 1_735_689_600  # 2025-01-01: a clock before this program was written was never set
FREE_BYTES_MIN = 100_000_000  # a catch-up writes a copy of what it brings into the WAL first
WATCHES_MIN = 16  # a node takes two
WAL_RESET_FIRST, WAL_RESET_LAST = (3, 7, 0), (3, 51, 2)  # https://sqlite.org/wal.html, "The WAL-Reset Bug"
IFF_UP, IFF_LOOPBACK, IFF_MULTICAST = 0x1, 0x8, 0x1000  # netdevice(7)


@dataclass(frozen=True, slots=True)
class Finding:
    """One look: what at, whether it is well (None: a warning, nodes work), what was found, and the remedy."""

    name: str
    well: bool | None
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one line a look, and the remedies; 1 if something keeps nodes from working."""
    node, file = _node(home)
    findings = [
        clock(time.time()),
        sqlite(sqlite3.sqlite_version_info),
        multicast(Path("/sys/class/net")),
        inotify(Path("/proc/sys/fs/inotify/max_user_watches")),
        permissions(home.state),
        disk(home.state, *([file.parent] if file else [])),
        node,
    ]
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "warning" if finding.well is None else "ok" if finding.well else "FAILED"
            print(f"{mark:<8} {finding.name:<12} {finding.found}")
            if finding.remedy:
                print(f"{'':<21} -> {finding.remedy}")
    return exits.FAILED if any(finding.well is False for finding in findings) else exits.DONE


def clock(now_s: float) -> Finding:
    """Whether the clock was ever set."""
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    remedy = "" if now_s >= CLOCK_MIN_S else "set it: timedatectl set-ntp true, or date --set"
    return Finding("clock", not remedy, told, remedy)


def sqlite(version: tuple[int, ...]) -> Finding:
    """Whether this Python's SQLite has the WAL-reset bug; the node itself avoids it by how it checkpoints."""
    touched = WAL_RESET_FIRST <= version <= WAL_RESET_LAST
    remedy = "update SQLite, or run PRAGMA wal_autocheckpoint=0 in programs that write beside a node" if touched else ""
    told = ".".join(map(str, version)) + (" has the WAL-reset bug" if touched else "")
    return Finding("sqlite", None if touched else True, told, remedy)


def multicast(interfaces: Path) -> Finding:
    """Whether some interface can carry mDNS."""
    able = []
    for interface in sorted(interfaces.glob("*/flags")):
        flags = int(interface.read_text(), 16)
        if flags & IFF_UP and flags & IFF_MULTICAST and not flags & IFF_LOOPBACK:
            able.append(interface.parent.name)
    if able:
        hint = "where peers stay unseen all the same, let UDP 5353 and TCP 7447 through the firewall"
        return Finding("multicast", True, f"on {', '.join(able)}; {hint}")
    return Finding(
        "multicast", None, "on no interface", "connect a network, or name peers: mycomesh up --peer HOST:PORT"
    )


def inotify(limit: Path) -> Finding:
    """Whether a node may watch its file."""
    try:
        watches = int(limit.read_text())
    except (OSError, ValueError):
        return Finding("inotify", None, "is not there", "nothing: a node looks once a second instead")
    remedy = "" if watches >= WATCHES_MIN else "sysctl fs.inotify.max_user_watches=8192"
    return Finding("inotify", not remedy, f"{watches:,} watches a user", remedy)


def permissions(state: Path) -> Finding:
    """Whether the home is this user's own, and no one else can change it."""
    place = _existing(state)
    mode = stat.S_IMODE(place.stat().st_mode)
    if not os.access(place, os.W_OK | os.X_OK):
        return Finding("permissions", False, f"{place} cannot be written", "change its owner, or choose another --home")
    if place == state and mode & 0o022:
        return Finding("permissions", False, f"{place} can be changed by others", f"chmod 700 {place}")
    # A key that others may have read is refused by every start.
    shared = [each for each in sorted(state.glob("*")) if each.is_file() and each.stat().st_mode & 0o077]
    if shared:
        told = " ".join(map(str, shared))
        return Finding("permissions", False, f"open to other users: {told}", f"chmod 600 {told}")
    return Finding("permissions", True, str(place))


def disk(*places: Path) -> Finding:
    """Whether there is room, where there is least: the database may lie on another disk than the keys."""
    free, place = min((shutil.disk_usage(_existing(place)).free, place) for place in places)
    remedy = "" if free >= FREE_BYTES_MIN else "make room: a node that cannot write takes nothing from peers"
    return Finding("disk", not remedy, f"{free / 1e9:,.1f} GB free at {place}", remedy)


def _node(home: Home) -> tuple[Finding, Path | None]:
    """How the node is, and the file that it serves."""
    try:
        status = ask(home, "status")
    except NoNodeError:
        return Finding("node", None, "none runs for this home", "mycomesh up FILE.db"), None
    except NodeError as error:
        return Finding("node", False, str(error), "mycomesh down, then mycomesh up FILE.db"), None
    told = f"{status['phase']} {status['file']}"
    return Finding("node", None if status["hint"] else True, told, status["hint"]), Path(status["file"])


def _existing(place: Path) -> Path:
    while not place.exists():
        place = place.parent
    return place
