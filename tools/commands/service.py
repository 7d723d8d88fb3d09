"""`mycomesh service`: installs, shows or removes a systemd unit that runs the node from boot or from login on.

Invariants: it never replaces a unit that it did not write; `show` prints exactly what `install` writes. See systemd.service(5)
and systemd.exec(5).
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

ACTIONS = ("install", "show", "uninstall")
XDG = ("XDG_CONFIG_HOME", "XDG_STATE_HOME")
MARK = "# written by mycomesh service; 'mycomesh service uninstall' removes it"
SYSTEM = Path("/etc/systemd/system")
NAME = "mycomesh.service"
WATCHDOG_S = 300  # one transaction on a very large file may keep the node from answering for this long
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - compared with, never written to
# A node needs the directory of its file, its home, sockets and netlink. It looks at other processes in /proc to name the program
# that holds a lock, so ProtectProc= and ProcSubset= are left out. SQLite calls fchown(2) as root, so @privileged stays allowed;
# EPERM instead of a kill lets a library continue without a system call that it does not need.
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
WatchdogSec={watchdog_s}
{hardened}
[Install]
WantedBy={target}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("do", choices=ACTIONS, metavar="|".join(ACTIONS), help="write the unit, print it, or remove it")
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE.db", help="the database that the node serves (for install and show)"
    )
    parser.add_argument(
        "--system",
        action="store_true",
        help="run the node from boot on, as root (default: from login on, as this user)",
    )
    parser.add_argument("--now", action="store_true", help="start the node at once, and at every boot or login")
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Write, print or remove the unit."""
    path = unit_path(system=args.system)
    if args.do == "uninstall":
        return _uninstall(args, path)
    if args.file is None:
        raise exits.UsageError(f"'mycomesh service {args.do}' needs the FILE.db that the node serves")
    file = args.file.absolute()
    if not str(file).isprintable():
        raise exits.UsageError(f"{str(file)!r} contains characters that a unit file cannot hold; rename the file")
    if file.is_dir():
        raise HomeError(f"{file} is a directory; name the database file in it")
    text = unit_text(file, home, system=args.system)
    if args.do == "install":
        return _install(args, file, path, text)
    if args.json:
        print_json({"unit": str(path), "text": text, "started": False})
    else:
        sys.stdout.write(text)
    return exits.DONE


def _install(args: argparse.Namespace, file: Path, path: Path, text: str) -> int:
    if not file.parent.is_dir():
        raise HomeError(f"there is no directory {file.parent}; create it, or check the path")
    _is_installed(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise HomeError(
            f"cannot write {path}: {error.strerror}; --system needs root, a unit of this user does not"
        ) from error
    control = _control(system=args.system)
    if args.now:
        _systemctl(control, "daemon-reload")
        _systemctl(control, "enable", "--now", NAME)
    words = " ".join(control)
    further = "" if args.now else f"; start it with: {words} daemon-reload && {words} enable --now {NAME}"
    linger = "" if args.system else "; 'loginctl enable-linger' lets it run while this user is not logged in"
    tell(args, {"unit": str(path), "text": text, "started": args.now}, f"wrote {path}{further}{linger}")
    return exits.DONE


def unit_path(*, system: bool) -> Path:
    """Return the path of the unit, in the machine's directory or this user's."""
    if system:
        return SYSTEM / NAME
    return _standard_home().config.parent / "systemd" / "user" / NAME


def unit_text(file: Path, home: Home, *, system: bool) -> str:
    """Return the text of the unit that serves a file with the keys of a home."""
    writes = sorted({str(file.parent), str(home.config), str(home.state), str(home.runtime)})
    # A user's runtime directory is empty after each boot, and the rest of /run is read-only for the service.
    runtime = "" if system or home != _standard_home() else _RUNTIME
    home_option = () if home == _standard_home() else ("--home", str(home.config))
    # A service does not inherit the variables of a login shell. Without them the node would use another home.
    inherited = [name for name in XDG if not home_option and os.environ.get(name)]
    return _UNIT.format(
        mark=MARK,
        file=_escape_specifiers(str(file)),
        after="After=network.target\n" if system else "",
        command=" ".join(_quote(word).replace("$", "$$") for word in (*_program(), *home_option, "up", str(file))),
        environment="".join(f"Environment={_quote(f'{name}={os.environ[name]}')}\n" for name in inherited),
        directory=_escape_specifiers(str(file.parent)),
        watchdog_s=WATCHDOG_S,
        hardened=runtime + _hardened(writes, system=system),
        target="multi-user.target" if system else "default.target",
    )


def _hardened(writes: list[str], *, system: bool) -> str:
    """Return the lines that take from the node what it does not need."""
    temporary = any(Path(path).is_relative_to(directory) for path in writes for directory in TEMPORARY)
    text = _HARDENED.format(
        writes=" ".join(_quote(f"-{path}") for path in writes),
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
    """Return the default home, in the XDG directories."""
    return Home.locate(None, {name: value for name, value in os.environ.items() if name != "MYCOMESH_HOME"})


def _program() -> tuple[str, ...]:
    """Return the command as it was called: the installed script, or this interpreter with the module."""
    script = Path(sys.argv[0])
    if script.name == "mycomesh" and script.exists():
        return (str(script.absolute()),)
    return (sys.executable, "-m", "tools")


def _escape_specifiers(text: str) -> str:
    """Escape %, which begins a specifier in a unit file."""
    return text.replace("%", "%%")


def _quote(word: str) -> str:
    """Quote one word for ExecStart= and for paths (systemd.syntax(7), "Quoting")."""
    escaped = _escape_specifiers(word).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if any(char in word for char in " \t\"'\\;") else escaped


def _is_installed(path: Path) -> bool:
    """Return whether the unit exists; refuse one that this command did not write."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HomeError(f"cannot read {path}: {error.strerror}") from error
    if not text.startswith(MARK):
        raise NodeError(f"{path} was not written by this command; move it away, or edit it by hand")
    return True


def _uninstall(args: argparse.Namespace, path: Path) -> int:
    if not _is_installed(path):
        raise NodeError(f"{path} does not exist; 'mycomesh service install FILE.db' writes it")
    control = _control(system=args.system)
    if shutil.which(control[0]) is not None:
        _systemctl(control, "disable", "--now", NAME, must=False)
    try:
        path.unlink()
    except OSError as error:
        raise HomeError(f"cannot remove {path}: {error.strerror}; --system needs root") from error
    if shutil.which(control[0]) is not None:
        _systemctl(control, "daemon-reload", must=False)
    removed = {"unit": str(path), "text": "", "started": False}
    tell(args, removed, f"removed {path}; the database and the keys are unchanged")
    return exits.DONE


def _control(*, system: bool) -> tuple[str, ...]:
    return ("systemctl",) if system else ("systemctl", "--user")


def _systemctl(control: tuple[str, ...], *words: str, must: bool = True) -> None:
    """Run systemctl; raise if it fails and `must`."""
    program = shutil.which(control[0])
    if program is None:
        raise NodeError("this machine has no systemctl; let its own service manager run: mycomesh up FILE.db")
    command = [program, *control[1:], *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - systemd's own program with our arguments
    if done.returncode and must:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NodeError(f"{' '.join((*control, *words))}: {reason}; the unit is written, so run that command by hand")
