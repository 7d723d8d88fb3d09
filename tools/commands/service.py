"""`mycomesh service`: have systemd run the node, from boot on or from login on (systemd.service(5), systemd.exec(5)).

Owns the unit file. What always holds: a unit that somebody else wrote is never replaced; what is printed is what is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import HomeError, NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.tools import exits
from mycomesh.tools.render import add_json, print_json, tell

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run", "unit_text"]

DEEDS = ("install", "show", "uninstall")
XDG = ("XDG_CONFIG_HOME", "XDG_STATE_HOME")
MARK = "# written by mycomesh service; 'mycomesh service uninstall' removes it"
SYSTEM = Path("/etc/systemd/system")
NAME = "mycomesh.service"
PATIENCE_S = 300  # the longest that one transaction of the largest files may keep the node from answering
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - compared with, never written to
# A node needs the directory of its file, its home, sockets and netlink. It looks at other processes in /proc to name the program
# that holds a lock, so ProtectProc= and ProcSubset= are left out. SQLite calls fchown(2) as root, so @privileged stays allowed;
# EPERM in place of a kill lets a library go on without a system call that it does not need.
_HARDENED = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writes}
{private_tmp}PrivateMounts=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectHostname=yes
KeyringMode=private
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@resources
SystemCallErrorNumber=EPERM
"""
_RUNTIME = """\
RuntimeDirectory=mycomesh
RuntimeDirectoryMode=0700
"""
# These drop capabilities. A user's manager can do that only within a user namespace; where the kernel allows none, the service
# would not start with them (status 218/CAPABILITIES), while systemd ignores what else it cannot do.
_CAPABILITIES = """\
PrivateDevices=yes
ProtectClock=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
CapabilityBoundingSet={capabilities}
"""
_SYSTEM_CAPABILITIES = "CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_NET_BIND_SERVICE"
# Three switches forbid namespaces to users: the kernel's limit, Debian's, and Ubuntu's AppArmor restriction (1: forbidden).
_NAMESPACES_DENIED = (
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
)
_UNIT = """\
{mark}
[Unit]
Description=mycomesh node of {file}
{after}StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
{environment}ExecStart={command}
WorkingDirectory={directory}
Restart=on-failure
RestartSec=2
TimeoutStartSec=infinity
TimeoutStopSec=30
WatchdogSec={patience_s}
{hardened}
[Install]
WantedBy={target}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("do", choices=DEEDS, metavar="|".join(DEEDS), help="write the unit, print it, or remove it")
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE.db", help="the database that the node serves")
    parser.add_argument(
        "--system", action="store_true", help="from boot on, for the whole machine (root); else for this user"
    )
    parser.add_argument("--now", action="store_true", help="start it at once and at every boot or login")
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Do it."""
    place = unit_place(system=args.system)
    if args.do == "uninstall":
        return _uninstall(args, place)
    if args.file is None:
        raise exits.UsageError(f"'mycomesh service {args.do}' needs the FILE.db that the node serves")
    file = args.file.absolute()
    if not str(file).isprintable():
        raise exits.UsageError(f"{str(file)!r} has signs that no unit file can hold; give the file another name")
    if file.is_dir():
        raise HomeError(f"{file} is a directory; name the database file in it")
    text = unit_text(file, home, system=args.system)
    if args.do == "install":
        return _install(args, file, place, text)
    if args.json:
        print_json({"unit": str(place), "text": text, "started": False})
    else:
        sys.stdout.write(text)
    return exits.DONE


def _install(args: argparse.Namespace, file: Path, place: Path, text: str) -> int:
    if not file.parent.is_dir():
        raise HomeError(f"there is no directory {file.parent}; make it, or check the path")
    _ours(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    except OSError as error:
        raise HomeError(
            f"cannot write {place}: {error.strerror}; --system needs root, without it nobody does"
        ) from error
    control = _control(system=args.system)
    if args.now:
        _told(control, "daemon-reload")
        _told(control, "enable", "--now", NAME)
    words = " ".join(control)
    further = "" if args.now else f"; start it with: {words} daemon-reload && {words} enable --now {NAME}"
    linger = "" if args.system else "; 'loginctl enable-linger' lets it run while nobody is logged in"
    tell(args, {"unit": str(place), "text": text, "started": args.now}, f"{place} is written{further}{linger}")
    return exits.DONE


def unit_place(*, system: bool) -> Path:
    """Return where the unit lies: the machine's directory, or this user's."""
    if system:
        return SYSTEM / NAME
    return _standard_home().config.parent / "systemd" / "user" / NAME


def unit_text(file: Path, home: Home, *, system: bool) -> str:
    """Return the unit that serves a file with the keys of a home."""
    writes = sorted({str(file.parent), str(home.config), str(home.state), str(home.runtime)})
    # A user's runtime directory is empty after each boot, and the rest of /run is read-only for the service.
    runtime = "" if system or home != _standard_home() else _RUNTIME
    home_option = () if home == _standard_home() else ("--home", str(home.config))
    # What a login shell sets is not there for a service: without it the node would look for other keys.
    said = [name for name in XDG if not home_option and os.environ.get(name)]
    return _UNIT.format(
        mark=MARK,
        file=_specified(str(file)),
        after="After=network.target\n" if system else "",
        command=" ".join(_quoted(word).replace("$", "$$") for word in (*_program(), *home_option, "up", str(file))),
        environment="".join(f"Environment={_quoted(f'{name}={os.environ[name]}')}\n" for name in said),
        directory=_specified(str(file.parent)),
        patience_s=PATIENCE_S,
        hardened=runtime + _hardened(writes, system=system),
        target="multi-user.target" if system else "default.target",
    )


def _hardened(writes: list[str], *, system: bool) -> str:
    """Return the lines that take from the node what it does not need."""
    temporary = any(Path(path).is_relative_to(place) for path in writes for place in TEMPORARY)
    text = _HARDENED.format(
        writes=" ".join(_quoted(f"-{path}") for path in writes),
        private_tmp="" if temporary else "PrivateTmp=yes\n",
    )
    if system:
        return text + _CAPABILITIES.format(capabilities=_SYSTEM_CAPABILITIES)
    return text + ("PrivateUsers=yes\n" + _CAPABILITIES.format(capabilities="") if _users_have_namespaces() else "")


def _users_have_namespaces() -> bool:
    """Return whether this kernel lets users without privileges make user namespaces."""
    for name, denied in _NAMESPACES_DENIED:
        try:
            if Path(name).read_text(encoding="ascii").strip() == denied:
                return False
        except OSError:  # this kernel has no such switch
            continue
    return True


def _standard_home() -> Home:
    """Return the home of who names none: that of the XDG directories."""
    return Home.locate(None, {name: value for name, value in os.environ.items() if name != "MYCOMESH_HOME"})


def _program() -> tuple[str, ...]:
    """The command as it was called: the installed script, else this interpreter with the module."""
    script = Path(sys.argv[0])
    if script.name == "mycomesh" and script.exists():
        return (str(script.absolute()),)
    return (sys.executable, "-m", "tools")


def _specified(text: str) -> str:
    """Systemd reads % as the begin of a specifier."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """One argument as ExecStart= and paths take it (systemd.syntax(7), "Quoting")."""
    escaped = _specified(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(sign in word for sign in " \t\"'\\;") else escaped


def _ours(place: Path) -> bool:
    """Return whether the unit is there; refuse one that somebody else wrote."""
    try:
        text = place.read_text(errors="replace")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HomeError(f"cannot read {place}: {error.strerror}") from error
    if not text.startswith(MARK):
        raise NodeError(f"{place} was not written by this command; move it away, or edit it by hand")
    return True


def _uninstall(args: argparse.Namespace, place: Path) -> int:
    if not _ours(place):
        raise NodeError(f"there is no {place}; 'mycomesh service install FILE.db' writes one")
    control = _control(system=args.system)
    if shutil.which(control[0]) is not None:
        _told(control, "disable", "--now", NAME, must=False)
    try:
        place.unlink()
    except OSError as error:
        raise HomeError(f"cannot remove {place}: {error.strerror}; --system needs root") from error
    if shutil.which(control[0]) is not None:
        _told(control, "daemon-reload", must=False)
    removed = {"unit": str(place), "text": "", "started": False}
    tell(args, removed, f"{place} is removed; the database and the keys stay")
    return exits.DONE


def _control(*, system: bool) -> tuple[str, ...]:
    return ("systemctl",) if system else ("systemctl", "--user")


def _told(control: tuple[str, ...], *words: str, must: bool = True) -> None:
    """Have systemd do something."""
    program = shutil.which(control[0])
    if program is None:
        raise NodeError(
            "this machine has no systemctl; start the node by what starts its services: mycomesh up FILE.db"
        )
    command = [program, *control[1:], *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - systemd's own, our words
    if done.returncode and must:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NodeError(f"{' '.join((*control, *words))}: {said}; the unit is written, try that by hand")
